"""Options that contradict each other, names that are nearly right, and artifacts that sessions cannot open."""

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.cli.options import parse_dims, parse_sizes
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.portable import pack
from sparsec.errors import ArtifactError, ShapeError, UsageError, meant
from sparsec.graph.classes import class_outputs
from sparsec.machine import cpus
from sparsec.runtime.arguments import allowed_threads
from sparsec.target import TARGET_NAMES
from tests.support import texts

MODEL = texts.model("g (float[batch,len,8] x) => (float[batch,len,4] y) <float[8,4] w> { y = MatMul(x, w) }")


@pytest.mark.parametrize(("dims", "shapes"), [
    ({"len": "1..64"}, {"x": (1, 16, 8)}), ({"batch": 2}, {"x": (1, 16, 8)}), ({"len": 4}, {"x": (1, "4/8", 8)})])
def test_a_shape_and_a_dimension_that_disagree_are_both_named(dims, shapes):
    (name,), (size,) = dims, dims.values()
    with pytest.raises(ShapeError, match=f"dims=.*{name}.*{size}.*shapes=.*x.* give dimension '{name}' two sizes"):
        sparsec.compile(MODEL, dims=dims, shapes=shapes)


def test_an_option_that_is_given_twice_is_refused():
    with pytest.raises(UsageError, match=r"--dim len=2: 'len' has --dim len=1 already"):
        parse_dims(["len=1", "len=2"])
    with pytest.raises(UsageError, match=r"--shape x:1,2: input 'x' has another --shape"):
        parse_sizes(["x:1,3", "x:1,2"])


@pytest.mark.parametrize("size", ["-1", "-2..4", "0..-3"])
def test_a_dimension_is_positive(size):
    with pytest.raises(UsageError, match=f"--dim batch={size}: sizes are positive"):
        parse_dims([f"batch={size}"])


@pytest.mark.parametrize(("options", "told"), [
    ({"tune": "off", "tune_seconds": 5}, "tune_seconds=5 with tune='off'"),
    ({"verify": False, "max_error": 0.1}, "max_error=0.1 with verify=False"),
    ({"inputs": {"x": np.zeros((0, 2, 8), np.float32)}}, "hold no sample: 'x' is 0x2x8")])
def test_options_without_a_meaning_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        sparsec.compile(MODEL, **options)


@pytest.mark.parametrize(("given", "name"), [
    ("cuda", "cuda-sm80"), ("EIE", "eie"), ("cpu-avx51", "cpu-avx512"), ("cpux", "cpu"), ("gpu", "cuda-sm80")])
def test_a_target_that_is_nearly_right_is_told(given, name):
    assert meant(given, TARGET_NAMES) == f"did you mean '{name}'? "
    with pytest.raises(UsageError, match=f"unknown target '{given}'; did you mean '{name}'"):
        sparsec.compile(MODEL, target=given)


def test_nothing_is_meant_by_what_is_far():
    assert meant("abacus", TARGET_NAMES) == ""


@pytest.mark.parametrize(("arguments", "name"), [
    (("--precision", "fp31"), "fp32"), (("--codec", "codebok4"), "codebook4"), (("--optimize", "Latenci"), "latency")])
def test_a_choice_that_is_nearly_right_is_told(tmp_path, arguments, name):
    onnx.save(MODEL, tmp_path / "m.onnx")
    result = CliRunner().invoke(app, ["compile", str(tmp_path / "m.onnx"), *arguments])
    assert f"id you mean '{name}'?" in (result.output + str(result.exception))


def test_a_session_says_what_an_artifact_is_that_it_cannot_open():
    portable = pack(MODEL, CompileOptions(dims={"batch": 1, "len": 2}))
    with pytest.raises(ArtifactError, match="is portable") as refused:
        sparsec.InferenceSession(portable)
    assert "simulate" not in str(refused.value)
    layer = texts.model("g (float[1,8] x) => (float[1,4] y) <float[8,4] w> { y = MatMul(x, w) }")
    with pytest.raises(ArtifactError, match=r"program of EIE.*simulate") as refused:
        sparsec.InferenceSession(sparsec.compile(layer, "eie"))
    assert "portable" not in str(refused.value)


def test_no_more_threads_are_advised_than_there_are_cores(monkeypatch):
    monkeypatch.setattr(cpus, "available", lambda: 2)
    with pytest.raises(UsageError, match=r"compile the model with threads=2$"):
        allowed_threads(2, 1)
    with pytest.raises(UsageError, match="may use 2 cores, compile the model with threads=2 for all"):
        allowed_threads(8, 1)
    with pytest.raises(UsageError, match=r"may use 2 cores$"):
        allowed_threads(8, 2)


@pytest.mark.parametrize(("last", "scores"), [
    ("y = Softmax(h)", True), ("b = Identity(h) y = Cast<to=1>(b)", True), ("y = Add(h, v)", True),
    ("y = Tanh(h)", False), ("y = Relu(h)", False), ("y, i = TopK(h, k)", False)])
def test_classes_are_told_of_classifiers_alone(last, scores):
    model = texts.model(f"g (float[2,8] x) => (float[2,4] y) <float[8,4] w, float[4] v, int64[1] k> "
                        f"{{ h = MatMul(x, w) {last} }}", k=[4])
    assert class_outputs(model) == ({"y"} if scores else set())
    if "Tanh" in last:
        assert sparsec.compile(model, tune="off").report["verification"]["same_class"] == {}
