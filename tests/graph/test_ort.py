"""onnxruntime runs models whose file format is newer than it knows."""

import numpy as np
import onnx
import pytest

from sparsec.errors import InputError
from sparsec.graph import ort

NEWER = 99
X = np.arange(4, dtype=np.float32)


def model(nodes="y = Add(x, w)"):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) '
                                    f"<float[4] w = {{1, 2, 3, 4}}> {{ {nodes} }}")
    proto.ir_version = NEWER
    return proto


@pytest.mark.parametrize("source", ["proto", "bytes", "path", "external"])
def test_a_newer_ir_version_runs(source, tmp_path):
    proto, path = model(), tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=source == "external", size_threshold=0)
    given = {"proto": proto, "bytes": proto.SerializeToString()}.get(source, path)
    assert np.array_equal(ort.session(given, 1).run(None, {"x": X})[0], np.add(X, [1, 2, 3, 4]))


def test_what_onnxruntime_cannot_run_is_refused_all_the_same():
    with pytest.raises(Exception, match="NoSuchOperator"):
        ort.session(model("y = NoSuchOperator(x, w)"))


FAILING = {
    "Reshape": "<int64[2] w = {2, 4}> { [the_node] y = Reshape(x, w) }",
    "Concat": "<float[3, 3] w = {0, 0, 0, 0, 0, 0, 0, 0, 0}> { [the_node] y = Concat<axis = 0>(x, w) }",
    "Gather": "<int64[2] w = {7, 9}> { [the_node] y = Gather(x, w) }",
    "MatMul": "<float[3, 2] w = {0, 0, 0, 0, 0, 0}> { [the_node] y = MatMul(x, w) }",
}


@pytest.mark.parametrize("operator", FAILING)
def test_inputs_that_a_model_cannot_run_on_are_refused_by_the_node(operator, capfd):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g (float[m, n] x) => (float[a, b] y) '
                                    f"{FAILING[operator]}")
    with pytest.raises(InputError, match=r"cannot run on the samples.*the_node") as raised:
        ort.run(ort.session(proto, optimized=False), ["y"], {"x": np.zeros((3, 5), np.float32)}, "samples")
    assert "ONNXRuntimeError" not in str(raised.value)
    assert "onnxruntime_src" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""
