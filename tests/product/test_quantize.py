"""`sparsec quantize`: within its budget, with every zero of a weight kept, and taken by the compiler as it is."""

import json

import numpy as np
import onnx
import pytest

import sparsec
from sparsec.compiler.quantization import quantize
from sparsec.errors import UsageError
from tests.support.cli import sparsec as run
from tests.support.texts import model

TEXT = """g (float[1,16] x) => (float[1,8] y) <float[16,32] a, float[32] b, float[32,8] c> {
    p = MatMul(x, a) q = Add(p, b) r = Relu(q) y = MatMul(r, c) }"""


def pruned(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * (rng.random(shape) < 0.3)


@pytest.fixture
def files(tmp_path):
    """A pruned model and samples for it."""
    onnx.save(model(TEXT, a=pruned((16, 32), 0), c=pruned((32, 8), 1)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(2).standard_normal((12, 16)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("budget", [0.05, 1e-6])
def test_the_budget_is_kept_and_zeros_stay(files, budget):
    found = quantize(files / "m.onnx", dict(np.load(files / "x.npz")), budget, {})
    assert found.error <= budget
    assert [layer.quantized for layer in found.layers].count(False) == {0.05: 0, 1e-6: 2}[budget]
    assert all(layer.kept <= layer.nonzeros < layer.weights for layer in found.layers)
    if budget == 0.05:
        artifact = sparsec.compile(found.model, tune="off")
        assert artifact.report["verification"]["steps"]["further"] == {}


def test_a_symbolic_number_of_rows_is_that_of_the_samples(files):
    text = TEXT.replace("float[1,", "float[n,")
    onnx.save(model(text, a=pruned((16, 32), 0), c=pruned((32, 8), 1)), files / "n.onnx")
    assert quantize(files / "n.onnx", dict(np.load(files / "x.npz")), 0.05, {}).error <= 0.05


def test_layers_stay_in_8_bits_where_what_lies_between_them_hurts(files):
    text = """g (float[1,16] x) => (float[1,8] y) <float[16,32] a, float[32,32] b, float[32,8] c, float h> {
      p = MatMul(x, a) q = Add(p, h) r = Sub(q, h) s = MatMul(r, b) t = Add(s, h) u = Sub(t, h) y = MatMul(u, c) }"""
    weights = {"a": pruned((16, 32), 0), "b": pruned((32, 32), 3), "c": pruned((32, 8), 1), "h": np.float32(1e3)}
    onnx.save(model(text, **weights), files / "b.onnx")
    found = quantize(files / "b.onnx", dict(np.load(files / "x.npz")), 0.1, {})
    assert found.error <= 0.1
    assert [layer.quantized for layer in found.layers] == [True, True, True]


def test_what_follows_float_layers_alone_stays_in_float(files):
    text = TEXT.replace("y = MatMul(r, c)", "s = HardSwish(r) m = ReduceMax(s) u = Div(s, m) y = MatMul(u, c)")
    onnx.save(model(text, a=1000 * pruned((16, 32), 0), c=pruned((32, 8), 1)), files / "s.onnx")
    found = quantize(files / "s.onnx", dict(np.load(files / "x.npz")), 1e-6, {})
    assert found.error <= 1e-6
    assert "QuantizeLinear" not in {node.op_type for node in found.model.graph.node}


def test_what_cannot_be_is_said(files):
    with pytest.raises(UsageError, match="larger --max-error"):
        quantize(files / "m.onnx", dict(np.load(files / "x.npz")), -1.0, {})
    with pytest.raises(UsageError, match="input 'x' takes"):
        quantize(files / "m.onnx", {"x": np.zeros((3, 4), np.float32)}, 0.1, {})


def test_the_command_writes_the_model_and_its_figures(files):
    run("quantize", str(files / "m.onnx"), "--inputs", str(files / "x.npz"), "-o", str(files / "q.onnx"),
        "--json", str(files / "q.json"))
    layers = json.loads((files / "q.json").read_text())["layers"]
    assert [layer["operator"] for layer in layers] == ["Gemm", "MatMul"]
    told = run("quantize", files / "m.onnx", "--inputs", files / "x.npz", "-o", files / "f.onnx", "--max-error", "1e-7")
    assert "nothing is in 8 bits" in told
    onnx.checker.check_model(onnx.load(files / "q.onnx"))


def test_weights_may_lie_beside_the_model(files):
    onnx.save(onnx.load(files / "m.onnx"), files / "e.onnx", save_as_external_data=True, location="e.data",
              size_threshold=0)
    assert quantize(files / "e.onnx", dict(np.load(files / "x.npz")), 0.05, {}).error <= 0.05
