"""Networks that were once compiled wrongly or not at all, shrunk."""

import numpy as np
import pytest

import sparsec
from tests.support.texts import model

NETWORKS = {
    "weight on the left, batch": model("g (float[3,9,2] x) => (float[3,5,2] y) <float[5,9] w> { y = MatMul(w, x) }"),
    "weight on the left of a matrix": model("g (float[7,3] x) => (float[5,3] y) <float[5,7] w> { y = MatMul(w, x) }"),
    "weight on the left with bias and residual": model(
        "g (float[7,3] x, float[5,3] r) => (float[5,3] y, float[5,3] z) <float[5,7] w, float[5,1] b>"
        "{ p = Gemm(w, x, b) y = Relu(p) z = Gemm(w, x, r) }"),
    "a signal from tokens": model(
        "g (float[3,8,17] x) => (float[3,6,5] y) <float[17,5] w, float[6,8,3] k>"
        "{ t = MatMul(x, w) y = Conv<pads=[1,1]>(t, k) }"),
    "constant images": model(
        "g (float[2,3,9,8] x) => (float[2,7,7,6] y, float[2,4,7,6] z) <float[4,3,3,3] w, float[2,4,7,6] c, "
        "float[2,3,7,6] d> { a = Conv(x, w) b = Sub(c, a) s = Sigmoid(b) y = Concat<axis=1>(s, d) z = Add(a, c) }"),
    "constant residual": model(
        "g (float[2,3,9,8] x) => (float[2,4,7,6] y) <float[4,3,3,3] w, float[2,4,7,6] c>"
        "{ a = Conv(x, w) y = Add(c, a) }"),
    "kernels named like words of the linker": model(
        "g (float[4,6] x) => (float[4,6] y, float[6,4] z) { s = Add(x, x) a = Softmax(s) b = Transpose(a) "
        "c = Softmax(b) d = Sin(c) e = LogSoftmax(d) z = Cos(e) f = Transpose(z) h = LogSoftmax<axis=0>(f) "
        "y = Softmax<axis=0>(h) }"),
    "constant tokens": model(
        "g (float[2,17,8] x) => (float[2,17,5] y) <float[8,5] w, float[2,17,5] c> { p = MatMul(x, w) y = Sub(c, p) }"),
}


@pytest.mark.parametrize("target", ["cpu", "cpu-generic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_match_onnxruntime(network, target):
    artifact = sparsec.compile(NETWORKS[network], target, tune="off")
    assert artifact.report["verification"]["inputs"] > 0


def test_blocks_of_4_bits_may_be_turned():
    turned = model("g (float[3,32] x) => (float[3,6] y) <int4[6,32] q, float[6,2] s, int4[6,2] z>"
                   "{ d = DequantizeLinear<axis=1, block_size=16>(q, s, z) t = Transpose<perm=[1,0]>(d) "
                   "y = MatMul(x, t) }", opset=21, q=np.arange(192) % 16 - 8)
    assert max(sparsec.compile(turned, tune="off").report["verification"]["relative_error"].values()) < 1e-4


def test_inputs_without_elements():
    empty = model("g (float[2,2,0,8] past, float[2,2,3,8] x) => (float[2,2,3,8] y) "
                  "{ r = Relu(x) y = Concat<axis=2>(past, r) }")
    session = sparsec.InferenceSession(sparsec.compile(empty, tune="off"))
    x = np.ones((2, 2, 3, 8), np.float32)
    np.testing.assert_array_equal(session.run(None, {"past": np.zeros((2, 2, 0, 8), np.float32), "x": x})[0], x)


def test_the_bits_of_truth_are_a_byte():
    bits = model("g (bool[4] x) => (uint8[4] y, bool[4] z) { y = BitCast<to=2>(x) z = BitCast<to=9>(y) }", opset=26)
    x = np.array([True, False, True, True])
    y, z = sparsec.InferenceSession(sparsec.compile(bits, tune="off")).run(None, {"x": x})
    np.testing.assert_array_equal(y, x.astype(np.uint8))
    np.testing.assert_array_equal(z, x)
