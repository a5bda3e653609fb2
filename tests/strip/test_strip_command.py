"""`sparsec strip`: a file in, a smaller file and a report out."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sparsec.cli import app
from sparsec.errors import VerificationError
from sparsec.graph.compare import relative_error
from tests.support.strip.brute import run
from tests.support.texts import dead, model


@pytest.fixture
def strip(tmp_path, monkeypatch):
    """Runs the command on a model; returns the result and the folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(proto, *arguments):
        onnx.save(proto, "net.onnx")
        return CliRunner().invoke(app, ["strip", "net.onnx", *arguments]), tmp_path

    return invoke


def network(**weights):
    return model("g (float[batch,4] x) => (float[batch,3] y) <float[4,6] a, float[6] b, float[6,3] c>"
                 "{ h = Gemm(x, a, b) r = Sigmoid(h) y = MatMul(r, c) }", **weights)


def test_the_new_model_is_smaller_and_keeps_symbolic_dimensions(strip):
    proto = network(a=dead((6, 4), 1, 4).T)
    result, folder = strip(proto, "--json", "report.json")
    assert result.exit_code == 0
    assert "outputs match" in result.output
    new = onnx.load(folder / "net-stripped.onnx")
    assert new.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    inputs = [{"x": np.random.default_rng(0).standard_normal((size, 4)).astype(np.float32)} for size in (1, 5)]
    for actual, expected in zip(run(new, inputs), run(proto, inputs), strict=True):
        assert relative_error(actual[0], expected[0]) <= 1e-5
    report = json.loads((folder / "report.json").read_text())
    assert report["layers"][0]["after"]["units"] == 4
    assert report["total"]["effective_compression"] == pytest.approx(42 / 28)
    assert report["relative_error"] <= 1e-5


def test_the_last_row_is_the_sum_of_the_rows_and_the_rest_is_told(strip):
    result, _ = strip(network(a=dead((6, 4), 1, 4).T))
    *rows, total = (line.split() for line in result.output.split("\n\n")[0].splitlines()[1:])
    assert total[:2] == ["2", "layers"]
    assert [int(row[-2]) for row in rows] == [64, 48]
    assert total[-2:] == ["112", "B"]
    assert "with biases and other constants: 140 B" in result.output


@pytest.mark.parametrize(("opset", "written"), [(11, 20), (13, 13), (17, 17), (21, 21)])
def test_the_opset_stays_from_13_on(strip, opset, written):
    proto = network(opset=opset, a=dead((6, 4), 1, 4).T)
    result, folder = strip(proto)
    assert result.exit_code == 0
    assert {each.domain: each.version for each in onnx.load(folder / "net-stripped.onnx").opset_import}[""] == written


def recurrent(parts):
    """An LSTM whose weights are constants, or put together from such, as exporters do with gates."""
    joined = "p = Concat<axis=1>(w, w)" if parts else "p = Identity(w)"
    return model(f"g (float[time,batch,4] x) => (float[time,1,batch,3] y) <float[1,{6 if parts else 12},4] w, "
                 f"float[1,12,3] r> {{ {joined} y = LSTM<hidden_size=3>(x, p, r) }}",
                 w=dead((6 if parts else 12, 4), 1)[None])


@pytest.mark.parametrize("parts", [False, True])
def test_the_weights_of_recurrent_layers_count_and_their_units_stay(strip, parts):
    result, folder = strip(recurrent(parts), "--json", "report.json")
    assert result.exit_code == 0, result.output
    layers = json.loads((folder / "report.json").read_text())["layers"]
    assert [(layer["before"]["weights"], layer["before"]["units"]) for layer in layers] == [(48, 3), (36, 0)]
    assert [layer["before"]["nonzero"] for layer in layers] == [40 if parts else 44, 36]
    assert "recurrent layers keep all their units" in " ".join(result.output.split())


def test_the_new_model_is_never_larger_and_names_the_sizes_of_outputs(strip):
    result, folder = strip(recurrent(parts=True))
    assert result.exit_code == 0
    assert (folder / "net-stripped.onnx").stat().st_size <= (folder / "net.onnx").stat().st_size
    shape = onnx.load(folder / "net-stripped.onnx").graph.output[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["time", 1, "batch", 3]


def test_a_model_beside_its_weights_grows_by_the_names_of_files_at_most(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    proto = onnx.shape_inference.infer_shapes(network())
    onnx.save(proto, "net.onnx", save_as_external_data=True, location="d", size_threshold=0)
    assert CliRunner().invoke(app, ["strip", "net.onnx", "-o", "a-much-longer-name.onnx"]).exit_code == 0
    sizes = [sum((tmp_path / name).stat().st_size for name in names)
             for names in (("net.onnx", "d"), ("a-much-longer-name.onnx", "a-much-longer-name.onnx.data"))]
    assert sizes[1] <= sizes[0] + 3 * len("a-much-longer-name.onnx.data")


def test_a_model_without_weights_has_no_compression(strip):
    result, folder = strip(model("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"))
    assert "no layer has weights" in result.output
    assert "infinite" not in result.output
    assert (folder / "net-stripped.onnx").stat().st_size <= (folder / "net.onnx").stat().st_size


def test_outputs_without_inputs_are_pointed_out(strip):
    with pytest.warns(UserWarning, match="no path is left to output 'y'"):
        result, folder = strip(network(c=np.zeros((6, 3))), "-o", "new.onnx")
    assert result.exit_code == 0
    assert "output 'y' does not depend on any input" in result.output
    assert (folder / "new.onnx").exists()


def test_what_onnxruntime_refuses_is_compared_node_by_node(strip):
    proto = network(a=dead((6, 4), 1).T)
    for node in proto.graph.node:
        node.name = "twice"
    with pytest.warns(UserWarning, match="node by node, for onnxruntime does not take the model"):
        result, _ = strip(proto)
    assert result.exit_code == 0
    assert "outputs match" in result.output


def test_a_wrong_result_is_refused(strip, monkeypatch):
    monkeypatch.setattr("sparsec.graph.compare.relative_error", lambda *_: 1.0)
    result, folder = strip(network())
    assert isinstance(result.exception, VerificationError)
    assert not (folder / "net-stripped.onnx").exists()
    assert strip(network(), "--no-verify")[0].exit_code == 0


def test_duplicates_merge_on_request(strip):
    a = np.random.default_rng(0).standard_normal((4, 6))
    a[:, 5] = a[:, 0]
    result, folder = strip(network(a=a, b=np.zeros(6)), "--merge-duplicates")
    assert result.exit_code == 0
    assert list(onnx.load(folder / "net-stripped.onnx").graph.initializer[0].dims) == [4, 5]
