"""Outputs are held against onnxruntime, against ONNX's reference implementation where that cannot or deviates."""

import numpy as np
import pytest

import sparsec
from sparsec.compiler.verification import Basis, verify, with_spread
from sparsec.errors import InputError, VerificationError
from sparsec.graph.compare import Difference
from sparsec.graph.references import REFERENCES, Comparison, compare_with_references, own_spread, runs_of
from tests.support.texts import model

ODD = model("g (int16[2,3] x) => (int16[2,3] y) { y = Relu(x) }")  # onnxruntime has no Relu of 16-bit integers
CROP = model("g (float[4,6] x, int64[2] size) => (float[2,3] y) { y = CenterCropPad(x, size) }", opset=18)
STEERED = model("g (float[4,6] x, int64[2] starts, int64[2] ends) => (float[2,3] y) { y = Slice(x, starts, ends) }")
X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)


def test_the_first_reference_that_agrees_is_named():
    x = np.int16([[-1, 2, 3], [4, -5, 6]])
    comparison = compare_with_references(runs_of(ODD), {"x": x}, [np.maximum(x, 0)], ["y"], 1e-4)
    assert (comparison.reference, comparison.error) == ("ONNX's reference implementation", 0)
    assert "NOT_IMPLEMENTED" in comparison.refused


def test_references_that_disagree_are_named():
    proto = model('g (float[5,7] x) => (float[m,n] y) <float[2] s> '
                  '{ y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s) }', s=[1.5, 1.5])
    verification = sparsec.compile(proto, tune="off").report["verification"]
    assert verification["reference"] == "ONNX's reference implementation"
    assert "onnxruntime differs from it by" in verification["refused"]


def test_a_wrong_output_agrees_with_none():
    proto = model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    comparison = compare_with_references(runs_of(proto), {"x": X}, [X], ["y"], 1e-4)
    assert (comparison.reference, comparison.error > 0.1) == ("onnxruntime", True)


@pytest.mark.parametrize(("rounds", "error", "spread"), [(True, 0.2, 0.6), (True, 0.01, 0.0), (False, 0.2, 0.0)])
def test_only_what_rounds_to_codes_and_errs_is_given_the_spread_of_the_reference(monkeypatch, rounds, error, spread):
    monkeypatch.setattr("sparsec.compiler.verification.own_spread", lambda *_: 0.3)
    comparison = Comparison("onnxruntime", (Difference("y", error),))
    assert with_spread(comparison, Basis(ODD, rounds=rounds), {"x": X}, 0.05).spread == spread


def test_answers_that_no_optimisation_changes_have_no_spread():
    assert own_spread(model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"), {"x": X}) == 0


def test_an_output_of_another_shape_is_wrong_where_nothing_decides_shapes():
    proto = model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    assert compare_with_references(runs_of(proto), {"x": X}, [X[:1]], ["y"], 1e-4).error == np.inf


def test_a_model_that_is_too_large_for_the_reference_implementation_is_not_given_to_it(monkeypatch):
    monkeypatch.setattr("sparsec.graph.references.LARGEST", 10)
    with pytest.raises(ValueError, match="over 10 bytes"):
        REFERENCES["ONNX's reference implementation"](ODD, {"x": X})


def test_random_inputs_tell_operators_the_shapes_that_the_model_declares():
    assert sparsec.compile(CROP, tune="off").report["verification"]["inputs"] == 1


def test_random_inputs_that_the_model_does_not_take_are_no_error_but_real_ones_are():
    assert "other shapes" in sparsec.compile(STEERED, tune="off").report["verification"]["skipped"]
    x = np.zeros((4, 6), np.float32)
    real = {"x": x, "starts": np.array([1, 2]), "ends": np.array([3, 5])}
    assert sparsec.compile(STEERED, tune="off", inputs=real).report["verification"]["inputs"] == 1
    with pytest.raises(VerificationError, match="nothing to compare"):
        sparsec.compile(STEERED, tune="off", inputs={**real, "ends": np.array([4, 6])})


def test_inputs_that_only_a_reference_takes_are_told():
    given = model("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }")
    artifact = sparsec.compile(given, tune="off")
    session = sparsec.InferenceSession(artifact)

    def answer(feeds):
        if len(feeds["x"]) == 2:
            raise InputError("input 'x' has two rows")
        return session.run(None, feeds)

    random = [{"x": np.ones((rows, 4), np.float32)} for rows in (2, 3)]
    basis = Basis(given)
    with pytest.warns(UserWarning, match="a reference takes: input 'x' has two rows"):
        assert verify(basis, artifact, lambda: answer, random, [], 1e-3).inputs == 1


def test_constants_at_the_edge_of_a_code_spread_the_answers():
    edges = {"b": np.float32([[0.25] * 16]), "s": np.float32(0.5)}
    text = """g (float[1,16] x) => (float[1,16] y) <float[1,16] b, float s, uint8 z = {0}>
        { a = Add(x, b) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }"""
    assert own_spread(model(text, **edges), {"x": np.zeros((1, 16), np.float32)}) >= edges["s"]


def test_large_weights_in_codes_are_judged_by_what_the_file_says_and_not_by_activations_of_8_bits(monkeypatch):
    monkeypatch.setattr("sparsec.graph.references.LARGEST", 10)
    rng = np.random.default_rng(0)
    weight = model("""g (float[4,256] x) => (float[4,128] y) <int8[256,128] w, float[128] s>
        { f = DequantizeLinear<axis=1>(w, s) y = MatMul(x, f) }""", w=rng.integers(-127, 128, (256, 128), np.int8),
                   s=np.float32(rng.random(128)))
    report = sparsec.compile(weight, tune="off").report
    assert report["verification"]["reference"] == "onnxruntime without its optimisations"
