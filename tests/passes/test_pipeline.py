"""The pipeline reports, dumps and verifies every step, and takes real networks apart completely."""

import numpy as np
import onnx
import pytest

from sparsec.compiler import pipeline
from sparsec.errors import ModelError
from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.layout import LAYOUT
from sparsec.graph.reader import load
from sparsec.passes import layout, optimize
from sparsec.passes.context import Context, Report
from sparsec.target import resolve
from tests.support.graphs import GRAPHS
from tests.support.light import PATHS, randomised

CONTEXT = Context(resolve("cpu-generic"))
BEYOND = {  # operators that are left beside sparsec's and pooling
    "bvlc_alexnet": {"LRN", "Reshape", "Softmax"},
    "densenet121": {"Concat", "Reshape"},  # its last images are of one position
    "inception_v1": {"Concat", "LRN", "Reshape", "Softmax"},
    "inception_v2": {"Concat", "Reshape", "Softmax"},
    "resnet50": {"Reshape", "Softmax"},
    "shufflenet": {"Concat", "Relu", "Reshape", "Softmax", "Transpose"},
    "squeezenet": {"Concat", "Reshape", "Softmax"},
    "vgg19": {"Reshape", "Softmax"},
    "zfnet512": {"LRN", "Reshape", "Softmax"},
}
POOLING = {"AveragePool", "GlobalAveragePool", "MaxPool"}


def test_every_step_is_reported_and_dumped(tmp_path):
    proto = GRAPHS["residual block"]
    graph = load(proto)
    feeds = random_feeds(graph)
    reports = pipeline.run_passes(graph, CONTEXT, tmp_path / "ir")
    files = sorted((tmp_path / "ir").iterdir())
    assert [file.name for file in files] == [f"{i:02d}-{report.name}.onnx" for i, report in enumerate(reports)]
    expected = run_onnxruntime(proto, feeds)[0]
    for file in files:
        onnx.checker.check_model(file)
        assert relative_error(evaluate(load(file), feeds)[0], expected) < 1e-6


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch):
    def saw(model, _context):
        for node in model.graph:
            if node.op_type == "Conv":
                node.replace_input_with(1, model.graph.inputs[0])
        return Report("saw", modified=True)

    monkeypatch.setattr(pipeline, "PASSES", [*pipeline.PASSES, pipeline.Pass(saw)])
    with pytest.raises(ModelError, match="the graph after pass saw: "):
        pipeline.run_passes(load(GRAPHS["scale and shift"]), CONTEXT)


@pytest.mark.parametrize("name", PATHS)
def test_real_networks_consist_of_sparsec_layers_and_pooling(name, monkeypatch):
    monkeypatch.setattr(pipeline, "PASSES", [each for each in pipeline.PASSES if each.run is not layout.run])
    monkeypatch.setattr(optimize, "GROWN_BYTES", 1 << 30)  # their weights are constants of no value
    graph = load(PATHS[name])
    reports = pipeline.run_passes(graph, CONTEXT)
    assert not [note for report in reports for note in report.notes]
    assert {node.op_type for node in graph.graph if node.domain == ""} - POOLING == BEYOND[name]


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_real_networks_keep_their_answers(name):
    proto = randomised(name)
    graph = load(proto)
    feeds = random_feeds(graph)
    pipeline.run_passes(graph, CONTEXT)
    assert relative_error(evaluate(graph, feeds)[0], run_onnxruntime(proto, feeds)[0]) < 1e-5


def test_tiles_of_tokens_are_as_wide_as_their_region_wants():
    graph = load(onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[49,64] a, float[196,64] b, float[64] s)'
        " => (float[49,64] y, float[196,64] z)"
        " { y = LayerNormalization(a, s, s) z = LayerNormalization(b, s, s) }"))
    layout.run(graph, Context(resolve("cpu-avx512")))
    widths = {LAYOUT.get(node.outputs[0]).width for node in graph.graph if node.op_type == "LayerNormalization"}
    assert widths == {64, 112}


@pytest.mark.parametrize(("zeros", "reformats"), [(0.0, 0), (0.9, 2)])
def test_a_dense_layer_alone_computes_on_rows_as_they_lie(zeros, reformats):
    weight = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    weight[np.abs(weight) < np.quantile(np.abs(weight), zeros)] = 0
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[64,40] x, float[40,50] w)'
                                    " => (float[64,50] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    del proto.graph.input[1]
    graph = load(proto)
    pipeline.run_passes(graph, Context(resolve("cpu-avx512")))
    assert sum(node.op_type == "Reformat" for node in graph.graph) == reformats
