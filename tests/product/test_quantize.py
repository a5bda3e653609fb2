"""`sparsec quantize`: within its budget, with every zero of a weight kept, and taken by the compiler as it is."""

import json
import re

import numpy as np
import onnx
import pytest

import sparsec
from sparsec.compiler.quantization import quantize
from sparsec.errors import ModelError, UsageError
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


ATTENTION = """g (float[1,8,16] x, float[1,8,8] mask) => (float[1,8,16] y) <float[16,16] a> {
    k = Transpose <perm = [0, 2, 1]> (x) s = MatMul(x, k) m = Add(s, mask) p = Softmax(m)
    c = MatMul(p, x) y = MatMul(c, a) }"""


def test_a_mask_may_hold_negative_infinity_and_other_inputs_may_not(files):
    onnx.save(model(ATTENTION, a=pruned((16, 16), 0)), files / "a.onnx")
    x = np.random.default_rng(2).standard_normal((4, 8, 16)).astype(np.float32)
    mask = np.tile(np.triu(np.full((8, 8), -np.inf, np.float32), 1), (4, 1, 1))
    found = quantize(files / "a.onnx", {"x": x, "mask": mask}, 0.1, {})
    assert found.error <= 0.1
    assert all(layer.quantized and 0 < layer.error < 0.1 for layer in found.layers)
    sparsec.compile(files / "a.onnx", precision="int8", inputs={"x": x, "mask": mask}, tune="off")
    with pytest.raises(UsageError, match="input 'x' holds NaN or infinity"):
        quantize(files / "a.onnx", {"x": x - np.inf, "mask": mask}, 0.1, {})


MATMUL = "g (float[1,16] x) => (float[1,8] y) <float s = {0.1}, uint8 z = {0}, uint8[16,8] w> "
FORMS = {
    "QuantizeLinear": MATMUL + "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
                               "v = DequantizeLinear(w, s, z) y = MatMul(d, v) }",
    "DequantizeLinear": MATMUL + "{ v = DequantizeLinear(w, s, z) y = MatMul(x, v) }",
    "DynamicQuantizeLinear": MATMUL + "{ q, a, b = DynamicQuantizeLinear(x) p = MatMulInteger(q, w, b, z) "
                                      "f = Cast<to: int = 1>(p) t = Mul(a, s) y = Mul(f, t) }",
    "QLinearMatMul": "g (uint8[1,16] x) => (uint8[1,8] y) <float s = {0.1}, uint8 z = {0}, uint8[16,8] w> "
                     "{ y = QLinearMatMul(x, s, z, w, s, z, s, z) }",
    "MatMulNBits": "g (float[1,16] x) => (float[1,8] y) <uint8[8,1,8] w, float[8] n> "
                   "{ y = com.microsoft.MatMulNBits<K: int = 16, N: int = 8, bits: int = 4, block_size: int = 16>"
                   "(x, w, n) }"}


@pytest.mark.parametrize("operator", FORMS)
def test_what_is_quantised_already_is_refused(tmp_path, operator):
    codes = np.ones(64 if operator == "MatMulNBits" else 128)
    onnx.save(model(FORMS[operator], w=codes), tmp_path / "q.onnx")
    with pytest.raises(ModelError, match=rf"quantised already, by node '.*' \((com.microsoft::)?{operator}\)"):
        quantize(tmp_path / "q.onnx", {}, 0.05, {})


@pytest.mark.parametrize(("dtype", "reason"), [("float16", ""), ("double", "float64 cannot be")])
def test_other_floats_are_in_8_bits_or_it_is_said_why_not(tmp_path, dtype, reason):
    text = re.sub(r"float\b", dtype, TEXT)
    kind = np.dtype(dtype)
    onnx.save(model(text, a=pruned((16, 32), 0).astype(kind), b=np.zeros(32, kind), c=pruned((32, 8), 1).astype(kind)),
              tmp_path / "m.onnx")
    found = quantize(tmp_path / "m.onnx", {"x": np.random.default_rng(2).standard_normal((12, 16)).astype(kind)}, 0.05,
                     {})
    assert len(found.layers) == 2
    for layer in found.layers:
        assert layer.quantized == (not reason)
        assert layer.reason.startswith(reason)
        assert 0 < layer.kept <= layer.nonzeros < layer.weights
    stored = {tensor.data_type for tensor in found.model.graph.initializer if len(tensor.dims) > 1}
    assert stored == {onnx.TensorProto.DOUBLE if reason else onnx.TensorProto.INT8}


SAMPLES = {"no input 'X'": {"X": np.zeros((4, 16))}, "input 'x' is missing": {},
           r"takes \?x16; the samples hold 4x3": {"x": np.zeros((4, 3))},
           "holds NaN or infinity": {"x": np.full((4, 16), np.nan)}}


@pytest.mark.parametrize("told", SAMPLES)
def test_samples_are_checked_before_sizes_are_bound(files, told):
    onnx.save(model(TEXT.replace("float[1,", "float[n,"), a=pruned((16, 32), 0), c=pruned((32, 8), 1)),
              files / "n.onnx")
    with pytest.raises(UsageError, match=told):
        quantize(files / "n.onnx", {name: array.astype(np.float32) for name, array in SAMPLES[told].items()}, 0.05, {})


def test_integers_are_not_calibrated_on_samples_with_nan(files):
    with pytest.raises(UsageError, match="'x' holds NaN or infinity"):
        sparsec.compile(files / "m.onnx", precision="int8", inputs={"x": np.full((1, 16), np.nan, np.float32)})


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
    assert "no layer is in 8 bits: with more, outputs err" in told
    onnx.checker.check_model(onnx.load(files / "q.onnx"))


def test_weights_may_lie_beside_the_model(files):
    onnx.save(onnx.load(files / "m.onnx"), files / "e.onnx", save_as_external_data=True, location="e.data",
              size_threshold=0)
    assert quantize(files / "e.onnx", dict(np.load(files / "x.npz")), 0.05, {}).error <= 0.05
