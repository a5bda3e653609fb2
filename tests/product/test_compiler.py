"""`compile`: the steps, their promises, and what ends them."""

import inspect
from dataclasses import fields

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import sparsec
from sparsec.cli.compile import FLAGS, narrow_told
from sparsec.cli.flags import described
from sparsec.compiler import compile as compiler
from sparsec.compiler.options import CompileOptions
from sparsec.cost.precisions import PRECISIONS
from sparsec.errors import UnsupportedOperatorError, UsageError, VerificationError
from sparsec.kernels.emit.isa import isa_of
from sparsec.report.describe import describe_artifact
from sparsec.target import machine_features, resolve
from tests.support.graphs import ATTENTIONS
from tests.support.targets import runnable

RNG = np.random.default_rng(0)


def network(text, **weights):
    """An ONNX model from its text, with initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(weight, name) for name, weight in weights.items())
    return model


def pruned(*shape):
    return (RNG.standard_normal(shape) * (RNG.random(shape) < 0.1)).astype(np.float32)


LINEAR = network("(float[1, 64] x) => (float[1, 32] y) { h = MatMul(x, w) y = Relu(h) }", w=pruned(64, 32))
OUTSIDE = network("(float[1, 2, 4] x, float[1, 12, 4] r) => (float[1, 1, 2, 4] y) { y = GRU<hidden_size=4>(x, w, r) }",
                  w=pruned(1, 12, 4))


def test_a_path_bytes_and_a_proto_give_the_same_artifact(tmp_path):
    onnx.save(LINEAR, tmp_path / "model.onnx")
    sources = LINEAR, LINEAR.SerializeToString(), tmp_path / "model.onnx", str(tmp_path / "model.onnx")
    assert len({sparsec.compile(source, tune="off").to_bytes() for source in sources}) == 1


def test_the_artifact_answers_as_the_model():
    x = RNG.standard_normal((1, 64)).astype(np.float32)
    artifact = sparsec.compile(LINEAR, tune="off", inputs={"x": x})
    weight = numpy_helper.to_array(LINEAR.graph.initializer[0])
    np.testing.assert_allclose(sparsec.InferenceSession(artifact).run(None, {"x": x})[0], np.maximum(x @ weight, 0),
                               rtol=1e-5, atol=1e-6)
    assert artifact.report["verification"]["inputs"] == 2


SMALL = network("(float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) { h = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(h) "
                "y = Conv<pads=[1, 1, 1, 1]>(r, v) }", w=pruned(8, 3, 3, 3), v=pruned(4, 8, 3, 3))


@pytest.mark.parametrize("tune", ["off", "measure"])
def test_a_small_network_runs_on_one_thread_where_that_is_faster(tune, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"tune_seconds": 1} if tune == "measure" else {}
    artifact = sparsec.compile(SMALL, threads=2, tune=tune, **options)
    single = artifact.report.get("single")
    if tune == "off":
        alone = sparsec.compile(SMALL, tune="off").report["network_us"]
        assert artifact.report["network_us"] == pytest.approx(alone) == pytest.approx(single["one_us"])
    assert single is None or (single["one_us"] < single["all_us"] and single["measured"] == (tune == "measure"))
    assert artifact.manifest.threads == 2
    x = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    sparsec.InferenceSession(artifact, threads=1).run(None, {"x": x})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", ["cpu-generic", "cpu-avx2", "cpu-avx512"])
def test_every_cpu_target_compiles_and_is_verified_where_it_runs(target, threads):
    verification = sparsec.compile(LINEAR, target, threads=threads, tune="off").report["verification"]
    missing = resolve(target).features - machine_features()
    assert "skipped" in verification if missing else verification["relative_error"]["y"] <= PRECISIONS["fp32"]


def test_the_graph_in_the_artifact_is_onnx_without_its_weights():
    graph = onnx.ModelProto.FromString(sparsec.compile(LINEAR, tune="off").graph)
    assert [value.name for value in graph.graph.input] == ["x"]
    assert graph.ByteSize() < 64 * 32 * 4


def test_progress_names_every_step_and_grows_to_one():
    seen = []
    sparsec.compile(LINEAR, tune="off", progress=lambda step, done: seen.append((step, done)))
    assert list(dict.fromkeys(step for step, _ in seen)) == list(compiler.STEPS)
    shares = [done for _, done in seen]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1


def test_progress_says_how_long_measuring_may_take():
    seen = []
    sparsec.compile(LINEAR, tune_seconds=7, progress=lambda step, _done: seen.append(step))
    assert "plan, measuring for up to 7 s more" in seen


def test_every_pass_is_dumped(tmp_path):
    sparsec.compile(LINEAR, tune="off", dump_ir=tmp_path)
    assert len(list(tmp_path.glob("*.onnx"))) == len(sparsec.compile(LINEAR, tune="off").report["passes"])


def test_a_wrong_program_is_an_error(monkeypatch):
    monkeypatch.setattr(compiler, "execute", lambda *_: lambda feeds: [feeds["x"][:, :32]])
    with pytest.raises(VerificationError, match="'y' by"):
        sparsec.compile(LINEAR, tune="off")
    assert sparsec.compile(LINEAR, tune="off", verify=False).report["verification"] is None


def test_a_layer_without_a_kernel_is_named_and_strict_refuses_it():
    artifact = sparsec.compile(OUTSIDE, tune="off")
    assert [layer["operator"] for layer in artifact.report["outside"]] == ["GRU"]
    assert sparsec.compile(LINEAR, tune="off", strict=True).report["outside"] == []
    with pytest.raises(UnsupportedOperatorError, match="its weights or bias are not constants"):
        sparsec.compile(OUTSIDE, tune="off", strict=True)


@pytest.mark.parametrize("arguments", [{"target": "abacus"}, {"threads": 0}, {"tune": "guess"}, {"max_error": -1.0},
                                       {"max_error": float("nan")},
                                       {"precision": "fp12"}, {"precision": "bf16", "target": "eie"}])
def test_wrong_usage_is_refused(arguments):
    with pytest.raises(UsageError):
        sparsec.compile(LINEAR, **arguments)


TOKENS = network("(float[64, 96] x) => (float[64, 96] y) { h = MatMul(x, w) y = Relu(h) }", w=pruned(96, 96))
IMAGE = network("(float[1, 8, 9, 9] x) => (float[1, 16, 9, 9] y) { y = Conv<pads: ints = [1, 1, 1, 1]>(x, w) }",
                w=pruned(16, 8, 3, 3))


@pytest.mark.parametrize("target", runnable("cpu", "cpu-avx2", "cpu-generic"))
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", [TOKENS, IMAGE, LINEAR], ids=["tokens", "image", "row"])
def test_every_precision_keeps_its_limit(model, precision, target):
    artifact = sparsec.compile(model, target, precision=precision, tune="off")
    assert artifact.report["precision"] == precision
    errors = artifact.report["verification"]["relative_error"]
    assert max(errors.values()) <= PRECISIONS[precision]


@pytest.mark.skipif(not isa_of(resolve("cpu")).int8, reason="this processor has no products of 8-bit integers")
@pytest.mark.parametrize(("precision", "stored"), [("fp32", "f32"), ("bf16", "f16"), ("int8", "int8")])
def test_a_row_reads_weights_of_as_few_bits_as_it_may(precision, stored):
    weight = (RNG.standard_normal((512, 512)) / 512 ** 0.5).astype(np.float32)
    row = network("(float[1, 512] x) => (float[1, 512] y) { y = MatMul(x, w) }", w=weight)
    [layer] = sparsec.compile(row, precision=precision, tune="off").report["layers"]
    assert layer["kernel"] == f"gemv/{stored}"
    assert {"f32": layer["error"] is None, "f16": layer["error"] and layer["error"] < 1e-3,
            "int8": layer["error"] and layer["error"] < 3e-2}[stored]


@pytest.mark.parametrize("scale", [1e5, 1e-9])
def test_values_beyond_16_bits_stay_32(scale):
    beyond = network("(float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }", w=np.float32(scale) * pruned(64, 64))
    [layer] = sparsec.compile(beyond, precision="bf16", tune="off", verify=False).report["layers"]
    assert "f16" not in layer["kernel"]


def test_a_weight_that_is_not_a_number_is_no_integer():
    weight = np.ones((64, 64), np.float32)
    weight[3, 5] = np.nan
    row = network("(float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }", w=weight)
    [layer] = sparsec.compile(row, precision="int8", tune="off", verify=False).report["layers"]
    assert "int8" not in layer["kernel"]


def test_a_tighter_limit_is_kept_or_refused():
    artifact = sparsec.compile(TOKENS, precision="int8", max_error=1e-5, tune="off")
    assert [layer["error"] for layer in artifact.report["layers"]] == [None]
    if isa_of(resolve("cpu")).int8:
        assert min(artifact.report["layers"][0]["passed_over"].values()) > 1e-5
        assert narrow_told(describe_artifact(artifact, 1)).startswith(
            "no layer with weights computes with fewer bits: 1 of 1 layers would with fewer bits err by more than "
            "--max-error allows")
    tanh = network("(float[64, 96] x) => (float[64, 96] y) { h = MatMul(x, w) y = Tanh(h) }", w=pruned(96, 96))
    with pytest.raises(VerificationError, match="more precision"):
        sparsec.compile(tanh, precision="int8", max_error=1e-12, tune="off")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_that_computes_with_fewer_bits_is_told(precision):
    artifact = sparsec.compile(ATTENTIONS["scaled scores"], precision=precision, target="cpu-amx", tune="off",
                               verify=False)
    narrow = [(each["operator"], each["precision"]) for each in artifact.report["narrow"]]
    assert narrow == ([("Attention", "bf16")] if precision == "bf16" else [])
    told = narrow_told(describe_artifact(artifact, 1))
    assert ("1 operator without weights (Attention, such as" in told) == (precision == "bf16")


@pytest.mark.skipif(not isa_of(resolve("cpu")).int8, reason="this processor has no products of 8-bit integers")
def test_samples_calibrate_8_bit_integers():
    x = RNG.uniform(-1, 3, (3 * 64, 96)).astype(np.float32)
    artifact = sparsec.compile(TOKENS, precision="int8", inputs={"x": x}, tune="off")
    [layer] = artifact.report["layers"]
    assert layer["kernel"] == "spmm/int8-static"
    assert 0 < layer["error"] < 0.02
    assert artifact.report["verification"]["inputs"] == 3


def test_8_bit_integers_are_judged_without_verification():
    scores = network("(float[64, 96] x) => (float[64, 96] y) { y = MatMul(x, w) }", w=pruned(96, 96))
    report = sparsec.compile(scores, precision="int8", verify=False, max_error=1e-12, tune="off").report["verification"]
    assert report["tolerance"] is None
    assert report["relative_error"]["y"] < PRECISIONS["int8"]
    assert 0.9 <= report["same_class"]["y"] <= 1



def test_every_option_is_described_typed_and_has_a_flag():
    names = [each.name for each in fields(CompileOptions)]
    assert set(names) == set(described(CompileOptions)) == {*FLAGS, "progress"}
    taken = inspect.signature(CompileOptions).parameters
    assert list(inspect.signature(sparsec.compile).parameters) == ["model", *taken]
    with pytest.raises(UsageError, match="no option speed; there are threads, precision"):
        sparsec.compile(LINEAR, speed="fast")
    with pytest.raises(UsageError, match="no option thread; did you mean 'threads'"):
        sparsec.compile(LINEAR, thread=2)
    for name in set(names) - {"progress"}:
        with pytest.raises(UsageError, match=f"^{name} is of type object"):
            CompileOptions(**{name: object()})
