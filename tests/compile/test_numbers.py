"""Numbers at the edges: denormals, infinities, NaN, long sums, empty tensors and int64 shapes."""

import numpy as np
import pytest

import sparsec
from sparsec.cost.precisions import PRECISIONS
from sparsec.graph.compare import run_onnxruntime
from tests.support.texts import model

SPECIALS = np.float32([np.nan, np.inf, -np.inf, 1e-40, -1e-45, -0.0, 3e38])
MATRIX = "g (float[2,16] x) => (float[2,8] y) <float[16,8] w> { y = MatMul(x, w) }"
IMAGE = "g (float[1,4,6,6] x) => (float[1,8,4,4] y) <float[8,4,3,3] w> { y = Conv(x, w) }"
TOKENS = "g (float[40,16] x) => (float[40,8] y) <float[16,8] w> { p = MatMul(x, w) y = Relu(p) }"


def sparse(shape, kept=0.2):
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape) * (rng.random(shape) < kept)


def compiled(proto, x, **options):
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off", **options))
    return session.run(None, {"x": x})[0]


def special(shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x.flat[::7] = np.resize(SPECIALS, x.flat[::7].shape)
    return x


@pytest.mark.parametrize("target", ["cpu", "cpu-generic"])
@pytest.mark.parametrize(("text", "x", "w"), [(MATRIX, (2, 16), (16, 8)), (IMAGE, (1, 4, 6, 6), (8, 4, 3, 3))],
                         ids=["matrix", "image"])
def test_strict_ieee_has_the_specials_of_onnxruntime(text, x, w, target):
    proto = model(text, w=sparse(w))
    x = special(x)
    expected = run_onnxruntime(proto, {"x": x})[0]
    assert np.isnan(expected).any()
    np.testing.assert_allclose(compiled(proto, x, target=target, strict_ieee=True), expected, rtol=1e-5)


@pytest.mark.parametrize("target", ["cpu", "cpu-generic"])
def test_dense_weights_have_the_specials_of_onnxruntime(target):
    for text, x in ((MATRIX, (2, 16)), (IMAGE, (1, 4, 6, 6))):
        proto = model(text)
        np.testing.assert_allclose(compiled(proto, special(x), target=target),
                                   run_onnxruntime(proto, {"x": special(x)})[0], rtol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_strict_ieee_lets_zeros_make_nan(precision):
    weight = np.zeros((512, 512))
    weight[3, 2] = 2
    x = np.full((1, 512), np.nan, np.float32)
    x[0, 3] = 5
    proto = model("g (float[1,512] x) => (float[1,512] y) <float[512,512] w> { y = MatMul(x, w) }", w=weight)
    assert np.isnan(compiled(proto, x, strict_ieee=True, precision=precision)).all()


@pytest.mark.parametrize("scale", [1e-38, 1e-42])
def test_denormals_are_kept(scale):
    proto = model(TOKENS, w=np.abs(sparse((16, 8), 0.5)))
    x = np.full((40, 16), scale, np.float32)
    expected = run_onnxruntime(proto, {"x": x})[0]
    assert expected.max() > 0
    np.testing.assert_allclose(compiled(proto, x), expected, rtol=1e-3, atol=1e-44)


@pytest.mark.parametrize("kept", [1.0, 0.1])
@pytest.mark.parametrize("rows", [1, 48])
def test_the_error_of_long_sums_is_bounded(rows, kept):
    """By sqrt(K) roundings of the sum of magnitudes, the size that a random walk of K roundings reaches."""
    count = 1 << 15
    rng = np.random.default_rng(0)
    weight, x = sparse((count, 4), kept).astype(np.float32), rng.random((rows, count), np.float32)
    proto = model(f"g (float[{rows},{count}] x) => (float[{rows},4] y) <float[{count},4] w> {{ y = MatMul(x, w) }}",
                  w=weight)
    exact, magnitudes = x.astype(np.float64) @ weight, x.astype(np.float64) @ np.abs(weight)
    assert (np.abs(compiled(proto, x) - exact) <= 2.0**-24 * np.sqrt(count) * magnitudes).all()


@pytest.mark.parametrize("text", [
    "g (float[0,16] x) => (float[0,8] y) <float[16,8] w> { y = MatMul(x, w) }",
    "g (float[0,4,6,6] x) => (float[0,8,4,4] y) <float[8,4,3,3] w> { y = Conv(x, w) }",
    "g (float[2,0] x) => (float[2,3] y) <float[0,3] w, float[3] b> { p = MatMul(x, w) y = Add(p, b) }",
    "g (float[2,0] x) => (float[2,3] y) <float[0,3] w, float[3] b> { y = Gemm(x, w, b) }",
    "g (float[2,3] x) => (int64[2] y) { y = Shape(x) }",
    "g (float[2,3] x) => (float[3,2] y) <int64[2] s> { y = Reshape(x, s) }",
    "g (float[2,0,3] x) => (float[2,3,0] y) { y = Transpose<perm=[0,2,1]>(x) }",
    "g (float[2,0] x) => (float[2,3] y) <float[2,3] c> { y = Concat<axis=1>(x, c) }",
])
def test_empty_tensors_and_shapes_are_values_like_others(text):
    proto = model(text, s=[3, 2])
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.ones(shape, np.float32)
    expected = run_onnxruntime(proto, {"x": x})[0]
    actual = compiled(proto, x)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
