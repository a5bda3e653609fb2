"""Models whose layers multiply codes of 8 bits on GPUs: quantised ones, and floats by samples; in the emulator."""

from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from sparsec.backends.cuda.lower import lower
from sparsec.backends.cuda.planning import layer_of, layer_options
from sparsec.cli.compile import narrow_told
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import prepare
from sparsec.compiler.quantization import quantize
from sparsec.cost.plan import CHOICE, choose
from sparsec.errors import UsageError
from sparsec.graph import ort, reader
from sparsec.graph.compare import random_feeds
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.report.explain import explain
from tests.support.cuda import networks, walk
from tests.support.cuda.emulator import emulate

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
MASK = np.array([[1] * 12 + [0] * 4])


@pytest.fixture(autouse=True)
def same_weights(monkeypatch):
    """Weights that do not depend on which tests ran before: some leave a channel dead, whose layer then has no 8 bits.
    """
    monkeypatch.setattr(networks, "RNG", np.random.default_rng(0))


def feeds_of(model):
    feeds = random_feeds(reader.load(model))
    return feeds | {"mask": MASK} if "mask" in feeds else feeds


def planned(model, precision="fp16", inputs=None, target="cuda-sm80"):
    """The prepared model, the rows of its plan, and whether its layers may have 8 bits: those that may now have."""
    prepared = prepare(model, CompileOptions(target, precision=precision, inputs=inputs, tune="off"))
    job, backend = prepared.job, prepared.backend
    rows = plan(prepared.graph, job, backend, backend.judge(prepared.graph, job))
    pick, narrow = partial(choose, machine=job.calibration.machine), {}
    for node in prepared.graph.graph:
        if layer_of(node) is not None:
            offers = layer_options(node, job.target, job.precision)[0]
            eight = [offer for offer in offers if FAMILIES[offer.family].dtype]
            narrow[node.name] = bool(eight)
            CHOICE.set(node, pick(node.name, eight or offers))
    return prepared, rows, narrow


def lowered(prepared):
    return lower(prepared.graph, prepared.job.target, prepared.job.precision)


def quantized(tmp_path, model, feeds):
    """The model in QDQ form, by onnxruntime's quantiser."""
    onnx.save(model, tmp_path / "model.onnx")
    return quantize(tmp_path / "model.onnx", feeds, 0.9, {}).model


@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_quantised_models_are_onnxruntimes_to_a_code(build, tmp_path):
    model = build()
    feeds = feeds_of(model)
    model = quantized(tmp_path, model, feeds)
    prepared, _, narrow = planned(model)
    assert sum(narrow.values()) >= len(narrow) - 2
    session, program = ort.session(model, optimized=False), lowered(prepared)
    for mine, reference in zip(walk.run(program, feeds), session.run(None, feeds), strict=True):
        step = np.diff(np.unique(reference)).min()  # of the codes of the output
        assert np.abs(mine - reference).max() <= 1.01 * step


@pytest.mark.parametrize(("precision", "target", "limit"), [
    ("int8", "cuda-sm80", 0.05), ("int8", "cuda-sm90", 0.05), ("fp8", "cuda-sm89", 0.1), ("fp8", "cuda-sm90", 0.1)])
@pytest.mark.parametrize("build", [networks.transformer, networks.network])
def test_float_models_by_samples_err_as_told(build, precision, target, limit):
    model = build()
    feeds = feeds_of(model)
    prepared, rows, narrow = planned(model, precision, feeds, target)
    assert all(narrow.values())
    errors = [row.error for row in rows if row.error is not None]
    assert errors
    assert all(0 < error < limit for error in errors)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for mine, reference in zip(walk.run(lowered(prepared), feeds), session.run(None, feeds), strict=True):
        assert np.abs(mine - reference).max() <= 2 * limit * np.abs(reference).max()


def wide(columns, inputs, outputs, tmp_path):
    """A quantised linear layer with a 2:4 weight, and its input."""
    g = networks.Graph()
    g.linear("x", outputs, inputs, name="y")
    model = g.model({"x": (TensorProto.FLOAT, [columns, inputs])}, {"y": [columns, outputs]})
    feeds = feeds_of(model)
    return quantized(tmp_path, model, feeds), feeds


def test_quantised_two_of_four_for_many_tokens_is_for_warp_groups(tmp_path):
    model, _ = wide(4096, 1024, 1024, tmp_path)
    _, (row,), _ = planned(model, target="cuda-sm90")
    assert row.kernel == "wgmma.sp bulk int8"


@pytest.mark.parametrize("kernel", ["wgmma.sp int8", "wgmma.sp bulk int8", "wgmma bulk int8"])
def test_warp_groups_multiply_a_quantised_models_codes(kernel, tmp_path):
    model, feeds = wide(256, 128, 64, tmp_path)
    prepared, *_ = planned(model, target="cuda-sm90")
    (node,) = [each for each in prepared.graph.graph if layer_of(each) is not None]
    offers = layer_options(node, prepared.job.target, prepared.job.precision)[0]
    machine = prepared.job.calibration.machine
    CHOICE.set(node, choose(node.name, [each for each in offers if each.kernel == kernel], machine=machine))
    program = lowered(prepared)
    (y,), (expected,) = walk.run(program, feeds), ort.session(model, optimized=False).run(None, feeds)
    assert np.abs(y - expected).max() <= 1.01 * np.diff(np.unique(expected)).min()


def test_a_layer_makes_the_codes_that_only_the_next_one_reads():
    model = networks.transformer()
    prepared, *_ = planned(model, "int8", feeds_of(model))
    made = [name for name in walk.kernels(lowered(prepared)) if name.startswith("codes")]
    assert len(made) == 4  # what projections, the attention's output, the first layer of the middle and the head read


def linear(inputs, *, name="y", **constants):
    """A linear layer in QDQ form; `constants` replace those of its quantisation."""
    g, rng = networks.Graph(), np.random.default_rng(0)
    given = {"codes": rng.integers(-127, 128, (inputs, 8)).astype(np.int8), "scale": np.float32(0.01),
             "zero": np.int8(0), "x_zero": np.uint8(130)} | constants
    x = [g.constant(np.float32(0.02)), g.constant(given["x_zero"])]
    x = g("DequantizeLinear", g("QuantizeLinear", "x", *x), *x)
    weight = g("DequantizeLinear", *[g.constant(given[each]) for each in ("codes", "scale", "zero")])
    g("MatMul", x, weight, name=name)
    return g.model({"x": (TensorProto.FLOAT, [32, inputs])}, {name: [32, 8]})


@pytest.mark.parametrize(("model", "reason"), [
    (linear(33), "odd number of bytes"),
    (linear(32, codes=np.arange(256, dtype=np.uint8).reshape(32, 8), zero=np.uint8(9)), "not made of signed bytes"),
])
def test_what_has_no_8_bits_says_why(model, reason):
    prepared, (row,), narrow = planned(model)
    assert narrow == {"y": False}
    assert reason in row.widened
    told = narrow_told({"layers": [{"layer": "y", "kernel": row.kernel, "widened": row.widened}],
                        "precision": "fp16", "target": "cuda-sm80"})
    assert "1 of 1 layers stay in half precision" in told
    feeds = random_feeds(reader.load(model))
    expected = ort.session(model, optimized=False).run(None, feeds)[0]
    np.testing.assert_allclose(walk.run(lowered(prepared), feeds)[0], expected, atol=2e-3 * np.abs(expected).max())


def test_explanations_with_samples_have_the_kernels_that_compile_chooses():
    g = networks.Graph(prune=lambda weight: weight)
    g.linear("x", 512, 1024, name="y")
    model = g.model({"x": (TensorProto.FLOAT, [1024, 1024])}, {"y": [1024, 512]})
    feeds = feeds_of(model)
    prepared = prepare(model, CompileOptions("cuda-sm80", precision="int8", inputs=feeds, tune="off"))
    (row,) = plan(prepared.graph, prepared.job, prepared.backend,
                  prepared.backend.judge(prepared.graph, prepared.job))
    (layer,) = explain(model, "cuda-sm80", precision="int8", inputs=feeds).layers
    assert row.kernel == layer.candidates[0].kernel == "mma int8"
    (layer,) = explain(model, "cuda-sm80", precision="int8").layers
    assert layer.refused["mma int8"] == "no samples tell the range of its activations; give real inputs"


def test_far_numbers_become_the_nearest_code_and_nan_onnxruntimes():
    g, x = networks.Graph(), np.array([[-1e9, -np.inf, np.inf, 3e38, -3e38, np.nan, -1, 0.03]], np.float32)
    steps = [g.constant(np.float32(0.02)), g.constant(np.int8(-9))]
    g("DequantizeLinear", g("QuantizeLinear", "x", *steps), *steps, name="y")
    model = g.model({"x": (TensorProto.FLOAT, [1, 8])}, {"y": [1, 8]})
    expected = ort.session(model, optimized=False).run(None, {"x": x})[0]
    np.testing.assert_allclose(walk.run(lowered(planned(model)[0]), {"x": x})[0], expected, rtol=2e-3)


@pytest.mark.parametrize(("precision", "target"), [("int8", "cuda-sm80"), ("fp8", "cuda-sm89")])
def test_activations_that_are_not_finite_in_samples_stay_half(precision, target):
    g = networks.Graph()
    g.linear(g("Log", "x"), 64, 64, name="y")
    x = np.linspace(0, 3, 256 * 64, dtype=np.float32).reshape(256, 64)
    with np.errstate(divide="ignore", invalid="ignore"):
        _, (row,), narrow = planned(g.model({"x": (TensorProto.FLOAT, [256, 64])}, {"y": [256, 64]}), precision,
                                    {"x": x}, target)
    assert not any(narrow.values())
    assert row.widened == "its activations are not finite in the samples"


def test_strict_ieee_says_why_numbers_stay_half():
    g = networks.Graph()
    g.linear("x", 64, 64, name="y")
    model = g.model({"x": (TensorProto.FLOAT, [256, 64])}, {"y": [256, 64]})
    prepared = prepare(model, CompileOptions("cuda-sm80", precision="int8", strict_ieee=True, tune="off",
                                             inputs=random_feeds(reader.load(model))))
    job, backend = prepared.job, prepared.backend
    (row,) = plan(prepared.graph, job, backend, backend.judge(prepared.graph, job))
    assert "strict IEEE" in row.widened


@pytest.mark.parametrize(("target", "reason"), [
    ("cpu", "fp8"), ("cuda-sm80", "sm_80 has no products"), ("cuda-sm80+sm90", "sm_80 has no products"),
    ("cuda-sm89+sm90", "e4m3 is for one architecture at a time, sm_89 or sm_90"), ("eie", "fp8")])
def test_e4m3_is_for_one_architecture_that_has_it(target, reason):
    with pytest.raises(UsageError, match=reason) as raised:
        CompileOptions(target, precision="fp8")
    assert "\n" not in str(raised.value)


def test_without_samples_activations_stay_half():
    g = networks.Graph()
    g.linear("x", 64, 64, name="y")
    _, (row,), narrow = planned(g.model({"x": (TensorProto.FLOAT, [256, 64])}, {"y": [256, 64]}), "int8")
    assert not any(narrow.values())
    assert row.widened == "no samples tell the range of its activations; give real inputs"
