"""A linear layer is the same product, whatever the dimensions in front of its features: all of them are rows."""

import numpy as np
import pytest

import sparsec
from sparsec.graph.compare import run_onnxruntime
from tests.support.texts import model

ROWS, K, N = 48, 32, 64
WEIGHT = np.where(np.random.default_rng(0).random((K, N)) < 0.9, 0, 1)


def layer(lead, product="MatMul(x, w)", w=(K, N)):
    shape = ",".join(map(str, (*lead, K)))
    return model(f"g (float[{shape}] x) => (float[{','.join('abcdef'[:len(lead) + 1])}] y) "
                 f"<float[{','.join(map(str, w))}] w, float[{N}] b> {{ p = {product} s = Add(p, b) y = Relu(s) }}",
                 w=np.broadcast_to(WEIGHT, w))


FORMS = {
    "images": layer([1, 6, 8]),
    "windows": layer([3, 4, 4]),
    "sequence first": layer([ROWS, 1]),
    "a matrix": layer([ROWS]),
    "five dimensions": layer([1, 2, 2, 2, 6]),
    "an einsum": layer([1, 6, 8], 'Einsum<equation="bhwc,co->bhwo">(x, w)'),
    "a batch of one matrix": layer([1, ROWS], w=(1, K, N)),
    "a batch of equal matrices": layer([3, 16], w=(3, K, N)),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_leading_dimensions_are_rows(form):
    def options(proto):
        report = sparsec.compile(proto, "cpu-avx512", tune="off", verify=False).report
        assert not report["outside"]
        return [(row["format"], row["kernel"]) for row in report["layers"]]

    expected = options(layer([1, ROWS]))
    assert expected[0][0] != "dense"
    assert options(FORMS[form]) == expected


@pytest.mark.parametrize("head", ["Gemm(p, v, c)", "MatMul(p, v)"])
def test_one_row_behind_open_rows_runs_on_kernels(head):
    proto = model("g (float[batch,length,32] x) => (float[batch,5] y) <float[32,32] w, float[32,5] v, float[5] c,"
                  f"int64[1] axis> {{ h = MatMul(x, w) r = Relu(h) p = ReduceMean<keepdims=0>(r, axis) y = {head} }}",
                  18, axis=[1])
    artifact = sparsec.compile(proto, dims={"batch": 1}, tune="off", strict=True)
    assert {row["layer"] for row in artifact.report["layers"]} == {"h", "y"}
    x = np.random.default_rng(0).standard_normal((1, 9, 32)).astype(np.float32)
    found = sparsec.InferenceSession(artifact).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, run_onnxruntime(proto, {"x": x})[0], rtol=1e-4, atol=1e-4)


NETWORKS = {
    "norms and windows": model(
        "g (float[1,6,8,32] x) => (float[a,b,c,d] y) <float[32,64] w, float[64,32] v, float[32] s, float[32] b>"
        "{ n = LayerNormalization(x, s, b) h = MatMul(n, w) g = Gelu(h) p = MatMul(g, v) y = Add(p, x) }", 20),
    "images to tokens": model(
        "g (float[2,6,8,32] x) => (float[a,b,c] y) <float[32,32] w, float[32,32] v, int64[3] shape>"
        "{ h = MatMul(x, w) t = Reshape(h, shape) p = MatMul(t, v) y = Add(p, t) }", shape=[2, 48, 32]),
    "attention behind a reshape": model(
        "g (float[34,32] x) => (float[a,b,c] y) <float[32,32] w, float[32,32] v, int64[3] three, int64[4] heads>"
        "{ p = MatMul(x, w) t = Reshape(p, three) q1 = Reshape(t, heads) q = Transpose<perm=[0,2,1,3]>(q1)"
        "k = Transpose<perm=[0,2,3,1]>(q1) a = MatMul(q, k) c = Softmax(a) o = MatMul(c, q)"
        "m = Transpose<perm=[0,2,1,3]>(o) r = Reshape(m, three) y = MatMul(r, v) }", 17,
        three=[2, 17, 32], heads=[2, 17, 2, 16]),
    "sequence-first encoder": model(
        "g (float[20,3,32] x) => (float[a,b,c] y) <float[32,64] w, float[64,32] v, float[32] s>"
        "{ h = MatMul(x, w) r = Relu(h) p = MatMul(r, v) z = Add(p, x) y = LayerNormalization(z, s) }"),
}


@pytest.mark.parametrize("target", ["cpu", "cpu-generic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_match_onnxruntime(network, target):
    assert sparsec.compile(NETWORKS[network], target, tune="off").report["verification"]["inputs"] > 0
