"""A small network of all kinds of layers that `sparsec prune` takes, and samples for it."""

import numpy as np

from sparsec.oneshot import file
from sparsec.oneshot.file import Method
from tests.support.texts import model

RNG = np.random.default_rng(0)
SAMPLES = {"x": RNG.standard_normal((24, 8, 7, 6)).astype(np.float32)}
CONVOLUTIONS = """g (float[N,8,7,6] x) => (float[N,5] y) <float[16,8,3,2] a, float[16] b, float[8,4,2,2] c,
    float[8] s, float[8] t, float[8] mean, float[8] variance, float[8,12] d, float[12] e, float[12,5] f, float[5] h> {
    p = Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, a, b) q = Relu(p)
    r = Conv<group=4, auto_pad="SAME_LOWER">(q, c)
    u = BatchNormalization(r, s, t, mean, variance) v = GlobalAveragePool(u) w = Flatten(v)
    k = MatMul(w, d) l = Add(k, e) m = Relu(l) y = Gemm(m, f, h) }"""


def quiet(_what, _share):
    pass


def pruned(proto, samples, sparsity, **method):
    return file.to_sparsity(proto, samples, sparsity, Method(**method), quiet).pruned


def convolutional():
    return model(CONVOLUTIONS, variance=np.abs(RNG.standard_normal(8)) + 1)
