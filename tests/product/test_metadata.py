"""Sessions tell of the model's file what onnxruntime's do."""

import onnx
import onnxruntime
import pytest

import sparsec
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.portable import pack
from sparsec.errors import ArtifactError
from sparsec.runtime import metadata
from tests.support.texts import model

FIELDS = ("producer_name", "graph_name", "domain", "description", "graph_description", "version",
          "custom_metadata_map")
MAKERS = {"fixed": lambda proto: sparsec.compile(proto, tune="off", dims={"n": 2}),
          "any size": lambda proto: sparsec.compile(proto, tune="off"),
          "portable": lambda proto: sparsec.build(pack(proto, CompileOptions(tune="off", dims={"n": 2})))}


def noted():
    proto = model("g (float[n,4] x) => (float[n,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    proto.producer_name, proto.domain, proto.doc_string, proto.model_version = "trainer", "org.example", "cats", 7
    proto.graph.doc_string = "a graph"
    onnx.helper.set_model_props(proto, {"names": "{0: 'cat'}", "stride": "32"})
    return proto


@pytest.mark.parametrize("maker", MAKERS)
def test_what_the_file_says_of_itself_is_told_as_by_onnxruntime(maker):
    proto = noted()
    told = sparsec.InferenceSession(MAKERS[maker](proto)).get_modelmeta()
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).get_modelmeta()
    assert {name: getattr(told, name) for name in FIELDS} == {name: getattr(expected, name) for name in FIELDS}


def test_reports_that_know_nothing_tell_nothing_and_wrong_ones_are_refused():
    assert metadata.read(None).custom_metadata_map == {}
    with pytest.raises(ArtifactError, match="compile the model again"):
        metadata.read({"version": "7"})
