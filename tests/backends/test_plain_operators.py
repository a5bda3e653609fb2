"""ONNX operators in plain layout agree with onnxruntime: tails, borders, broadcasting, one and two threads."""

import numpy as np
import pytest

from tests.support.vm import compile_and_run, model_of, onnxruntime_run

GRAPHS = {
    "elementwise_chain": "(float[1,8,57,57] x, float[8,1,1] b) => (float[1,8,57,57] y) "
                         "{ a = Add(x, b) s = Sigmoid(a) m = Mul(a, s) y = Relu(m) }",
    "reused_intermediate": "(float[130,129] x) => (float[130,129] y) "
                           "{ a = Exp(x) b = Mul(a, a) c = Add(b, a) d = Mul(c, c) e = Add(d, c) y = Tanh(e) }",
    "functions_of_functions": "(float[3,70] x) => (float[3,70] y) "
                              "{ a = Tanh(x) b = Exp(a) c = Sigmoid(b) d = Erf(c) e = Exp(d) y = Tanh(e) }",
    "broadcast_both": "(float[37,1,5] x, float[130,1] b) => (float[37,130,5] y) { y = Add(x, b) }",
    "functions": "(float[3,7001] x) => (float[3,7001] a, float[3,7001] b, float[3,7001] c, float[3,7001] d) "
                 "{ a = Exp(x) b = Erf(x) c = Tanh(x) d = Gelu(x) }",
    "softmax": "(float[3,5,37] x) => (float[3,5,37] y, float[3,5,37] z) "
               "{ y = Softmax(x) z = LogSoftmax<axis=1>(x) }",
    "layer_norm": "(float[33,70] x, float[70] g, float[70] b) => (float[33,70] y) { y = LayerNormalization(x, g, b) }",
    "instance_norm": "(float[2,3,9,7] x, float[3] g, float[3] b) => (float[2,3,9,7] y) "
                     "{ y = InstanceNormalization(x, g, b) }",
    "reductions": "(float[9,33,20] x) => (float[9,1,20] a, float[9,33,1] b, float[1,1,1] c, float[1,33,1] d) "
                  "<int64[1] one = {1}, int64[1] last = {-1}, int64[2] ends = {0, 2}> "
                  "{ a = ReduceSum(x, one) b = ReduceMax(x, last) c = ReduceMean(x) d = ReduceL2(x, ends) }",
    "matmul": "(float[3,1,5,40] x, float[2,40,33] w) => (float[3,2,5,33] y) { y = MatMul(x, w) }",
    "matmul_of_vectors": "(float[40] x, float[40,33] w, float[33] v) => (float[33] y, float z) "
                         "{ y = MatMul(x, w) z = MatMul(y, v) }",
    "matmul_of_chosen_matrices": "(float[4,9,33] w, float[7,4] s, float[7,33,1] x, float[9,33] u) "
                                 "=> (float[7,9,1] y, float[7,9,9] z) "
                                 "{ i = ArgMax<axis=1>(s) j = ArgMin<axis=1, keepdims=0>(s) a = GatherND(w, i) "
                                 "y = MatMul(a, x) c = Gather(w, j) t = Transpose<perm=[1,0]>(u) z = MatMul(c, t) }",
    "gemm": "(float[40,7] a, float[33,40] b, float[33] c) => (float[7,33] y) "
            "{ y = Gemm<transA=1, transB=1, alpha=0.5, beta=2.0>(a, b, c) }",
    "conv_1d": "(float[2,4,19] x, float[6,2,3] w, float[6] b) => (float[2,6,10] y) "
               "{ y = Conv<group=2, strides=[2], pads=[1,1]>(x, w, b) }",
    "conv_2d": "(float[1,3,13,14] x, float[5,3,3,3] w) => (float[1,5,11,14] y) "
               "{ y = Conv<dilations=[2,1], pads=[1,1,1,1]>(x, w) }",
    "conv_3d_same": "(float[1,2,5,6,7] x, float[3,2,3,3,3] w) => (float[1,3,3,3,4] y) "
                    '{ y = Conv<strides=[2,2,2], auto_pad="SAME_LOWER">(x, w) }',
    "conv_depthwise": "(float[1,6,9,9] x, float[6,1,3,3] w) => (float[1,6,9,9] y) "
                      "{ y = Conv<group=6, pads=[1,1,1,1]>(x, w) }",
    "conv_transpose": "(float[1,4,5,6] x, float[4,3,3,2] w, float[6] b) => (float[1,6,9,12] y) "
                      "{ y = ConvTranspose<group=2, strides=[2,2], pads=[1,0,1,0]>(x, w, b) }",
    "conv_transpose_dilated": "(float[1,2,5] x, float[2,3,3] w) => (float[1,3,17] y) "
                              "{ y = ConvTranspose<strides=[3], dilations=[2]>(x, w) }",
    "pools": "(float[1,3,15,16] x) => (float[1,3,8,8] a, float[1,3,8,8] b, float[1,3,7,8] c) "
             "{ a = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) "
             "b = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) "
             "c = AveragePool<kernel_shape=[2,3], strides=[2,2], pads=[0,1,0,1], count_include_pad=1>(x) }",
    "wide_pools": "(float[1,2,20,90] x) => (float[1,2,8,78] a, float[1,2,16,52] b, float[1,2,7,41] c) "
                  "{ a = MaxPool<kernel_shape=[13,13]>(x) b = AveragePool<kernel_shape=[5,39]>(x) "
                  "c = MaxPool<kernel_shape=[2,50], strides=[3,1], dilations=[1,1]>(x) }",
    "pool_1d_ceil": "(float[2,3,50] x) => (float[2,3,17] y) "
                    "{ y = MaxPool<kernel_shape=[4], strides=[3], ceil_mode=1>(x) }",
    "pool_indices": "(float[1,2,9,9] x) => (float[1,2,4,4] y, int64[1,2,4,4] i) "
                    "{ y, i = MaxPool<kernel_shape=[3,3], strides=[2,2]>(x) }",
    "transposes": "(float[2,40,3,33] x) => (float[2,3,33,40] a, float[3,40,2,33] b, float[33,3,40,2] c) "
                  "{ a = Transpose<perm=[0,2,3,1]>(x) b = Transpose<perm=[2,1,0,3]>(x) c = Transpose(x) }",
    "concat_split": "(float[5,7,3] x, float[5,2,3] y) => (float[5,4,3] a, float[5,5,3] b) <int64[2] s = {4, 5}> "
                    "{ c = Concat<axis=1>(x, y) a, b = Split<axis=1>(c, s) }",
    "wide_concat": "(float[5,7,3] x, float[5,2,3] y) => (float[5,180,3] a) "
                   f"{{ a = Concat<axis=1>({', '.join(['x, y'] * 20)}) }}",
    "slices": "(float[20,33] x) => (float[4,33] a, float[20,11] b) <int64[1] s = {17}, int64[1] e = {1}, "
              "int64[1] m = {-4}, int64[1] z = {0}, int64[1] o = {33}, int64[1] t = {3}, int64[1] l = {1}> "
              "{ a = Slice(x, s, e, z, m) b = Slice(x, z, o, l, t) }",
    "pads": "(float[3,9] x) => (float[5,14] a, float[5,14] b, float[5,14] c) "
            "<int64[4] p = {1, 2, 1, 3}, float v = {7}> "
            '{ a = Pad(x, p, v) b = Pad<mode="reflect">(x, p) c = Pad<mode="edge">(x, p) }',
    "tile_of_powers_of_two": "(float[7,8] x) => (float[21,64] y) <int64[2] r = {3, 8}> { y = Tile(x, r) }",
    "resize": "(float[1,2,7,9] x) => (float[1,2,14,18] a, float[1,2,10,13] b, float[1,2,14,27] c) "
              "<float[4] two = {1, 1, 2, 2}, int64[4] size = {1, 2, 10, 13}, float[4] t = {1, 1, 2, 3}> "
              '{ a = Resize(x, , two) b = Resize<mode="linear">(x, , , size) c = Resize<mode="cubic">(x, , t) }',
    "top_k_selects": "(float[3,1000] x) => (float[3,10] y, int64[3,10] i) <int64[1] k = {10}> { y, i = TopK(x, k) }",
    "top_k_sorts": "(float[3,1000] x) => (float[3,70] y, int64[3,70] i) <int64[1] k = {70}> "
                   "{ y, i = TopK<largest=0>(x, k) }",
    "top_k_of_an_inner_axis": "(float[4,50,3] x) => (float[4,50,3] y, int64[4,50,3] i) <int64[1] k = {50}> "
                              "{ y, i = TopK<axis=1>(x, k) }",
    "roi_align": "(float[2,3,9,9] x, float[2,4] r) => (float[2,3,2,2] y) <int64[2] b = {1, 0}> "
                 "{ y = RoiAlign<output_height=2, output_width=2, spatial_scale=0.5, sampling_ratio=2>(x, r, b) }",
    "branches": "(float[3,4] x, bool c) => (float[3,4] y) { y = If(c) "
                "<then_branch = t () => (float[3,4] p) { p = Exp(x) }, "
                "else_branch = e () => (float[3,4] n) { n = Neg(x) }> }",
    "gru_both_ways": "(float[4,2,5] x, float[2,21,5] w, float[2,21,7] r, float[2,42] b) "
                     "=> (float[4,2,2,7] y, float[2,2,7] h) "
                     '{ y, h = GRU<hidden_size=7, direction="bidirectional", linear_before_reset=1>(x, w, r, b) }',
    "gru_that_resets_before_the_product": "(float[4,2,5] x, float[1,21,5] w, float[1,21,7] r, float[1,42] b) "
                                          "=> (float[4,1,2,7] y, float[1,2,7] h) "
                                          "{ y, h = GRU<hidden_size=7>(x, w, r, b) }",
    "lstm": "(float[4,2,5] x, float[1,28,5] w, float[1,28,7] r) => (float[4,1,2,7] y, float[1,2,7] h, float[1,2,7] c) "
            "{ y, h, c = LSTM<hidden_size=7>(x, w, r) }",
}


def feeds_of(model):
    """Random inputs, rounded so that ties occur."""
    rng = np.random.default_rng(0)
    return {value.name: np.asarray(np.round(rng.standard_normal(tuple(value.shape)), 2), value.dtype.numpy())
            for value in model.graph.inputs if value.const_value is None}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", GRAPHS)
def test_operator(name, threads):
    model = model_of('<ir_version: 8, opset_import: ["": 20]> g ' + GRAPHS[name])
    feeds = feeds_of(model)
    results = compile_and_run(model, feeds, threads=threads)
    for got, expected in zip(results, onnxruntime_run(model, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * max(1, np.abs(expected).max()))
