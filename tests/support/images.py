"""Networks on images of any height and width, and sequences of any length, with sizes to run them for."""

import numpy as np
import onnx
from onnx import numpy_helper

from tests.support import texts
from tests.support.decoders import HEADER, RNG

NETWORKS = {
    "segmentation": (f"""{HEADER} g (float[n, 3, h, w] x) => (float[n, 5, i, j] y)
  <float[24, 3, 5, 5] stem, float[24] b, float[24, 24, 3, 3] k, float[40, 24, 3, 3] l, float[40, 24, 1, 1] s,
   float[40, 1, 3, 3] d, float[40] scale, float[40] shift, float[5, 40, 1, 1] head,
   float[4] scales = {{1.0, 1.0, 4.0, 4.0}}> {{
  c0 = Conv<pads=[2,2,2,2], strides=[2,2]>(x, stem, b) r0 = Relu(c0)
  p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r0)
  c1 = Conv<pads=[1,1,1,1]>(p, k) a1 = Add(c1, p) r1 = Relu(a1)
  c2 = Conv<pads=[1,1,1,1], strides=[2,2]>(r1, l) c3 = Conv<strides=[2,2]>(r1, s) a2 = Add(c2, c3)
  v = Abs(shift) n = BatchNormalization(a2, scale, shift, shift, v) r2 = Relu(n)
  e = Conv<group=40, pads=[2,2,2,2], dilations=[2,2]>(r2, d) t = Sigmoid(e)
  g = GlobalAveragePool(t) m = Mul(t, g) f = Conv(m, head)
  y = Resize<mode="linear">(f, , scales) }}""", [(1, 3, 32, 48), (2, 3, 33, 9), (1, 3, 1, 1), (1, 3, 70, 50)]),
    "U": (f"""{HEADER} g (float[1, 2, h, w] x) => (float[1, 3, i, j] y)
  <float[16, 2, 3, 3] k, float[32, 16, 3, 3] l, float[32, 16, 2, 2] up, float[16] b, float[3, 32, 3, 3] o> {{
  c = Conv<auto_pad="SAME_UPPER">(x, k) r = Relu(c) p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)
  d = Conv<pads=[1,1,1,1]>(p, l) e = Relu(d) u = ConvTranspose<strides=[2,2]>(e, up, b)
  j0 = Concat<axis=1>(u, r) q = Conv<pads=[1,1,1,1]>(j0, o) y = Tanh(q) }}""", [(1, 2, 8, 8), (1, 2, 34, 20)]),
    "residual": (f"""{HEADER} g (float[n, 24, h, w] x) => (float[n, 40, h, w] y)
  <float[24, 24, 3, 3] k, float[24] b, float[40, 24, 3, 3] l, float[40, 24, 3, 3] m> {{
  c = Conv<auto_pad="SAME_UPPER">(x, k, b) o = Sigmoid(c) r = Mul(o, c) d = Conv<pads=[2,2,2,2], dilations=[2,2]>(r, l)
  e = Conv<pads=[1,1,1,1]>(r, m) a = Add(d, e) s = HardSwish(a) t = Sigmoid(a) y = Mul(s, t) }}""",
                 [(1, 24, 8, 9), (3, 24, 1, 1), (1, 24, 31, 2)]),
    "audio": (f"""{HEADER} g (float[n, 20, t] x) => (float[n, u, 32] y)
  <float[32, 20, 3] k, float[32] b, float[32, 8, 3] l, float[32, 32] w> {{
  c = Conv<pads=[1,1]>(x, k, b) e = Gelu(c) d = Conv<pads=[1,1], strides=[2], group=4>(e, l, b) f = Gelu(d)
  t0 = Transpose<perm=[0,2,1]>(f) y = MatMul(t0, w) }}""", [(1, 20, 64), (2, 20, 7), (1, 20, 1), (3, 20, 131)]),
    "spectra of fixed height": (f"""{HEADER} g (float[n, 1, t, 12] x) => (float[n, 8, u, 12] y)
  <float[8, 1, 3, 3] k, float[8, 8, 3, 1] l> {{
  c = Conv<pads=[1,1,1,1]>(x, k) r = Relu(c) y = Conv<pads=[1,0,1,0], strides=[2,1]>(r, l) }}""",
                                [(1, 1, 9, 12), (2, 1, 30, 12)]),
    "volumes": (f"""{HEADER} g (float[n, 2, d, h, w] x) => (float[n, 3, i, j, l] y)
  <float[16, 2, 3, 5, 5] stem, float[16] b, float[16, 1, 3, 3, 3] k, float[24, 16, 3, 1, 1] m,
   float[24, 16, 2, 2, 2] up, float[3, 32, 3, 3, 3] o, float[5] scales = {{1.0, 1.0, 2.0, 1.0, 2.0}}> {{
  c = Conv<pads=[1,2,2,1,2,2], strides=[1,2,2]>(x, stem, b) r = Relu(c)
  p = MaxPool<kernel_shape=[2,2,2], strides=[2,2,2]>(r)
  e = Conv<pads=[1,1,1,1,1,1], group=16>(p, k) f = Conv<pads=[1,0,0,1,0,0]>(e, m) s = Relu(f)
  u = ConvTranspose<strides=[2,2,2]>(s, up) j0 = Concat<axis=1>(u, r)
  q = Conv<pads=[2,2,2,2,2,2], dilations=[2,2,2]>(j0, o)
  a = AveragePool<kernel_shape=[3,2,2], strides=[1,2,1], pads=[1,0,0,1,0,1]>(q)
  y = Resize<mode="linear">(a, , scales) }}""", [(1, 2, 4, 8, 8), (2, 2, 2, 12, 20)]),
}


def network(name):
    text, shapes = NETWORKS[name]
    model = onnx.parser.parse_model(text.replace(HEADER, HEADER.replace("8", "9").replace("17", "20")))
    declared = {value.name: value for value in model.graph.value_info}
    for name, value in declared.items():
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        array = 0.3 * RNG.standard_normal(shape).astype(np.float32) * (RNG.random(shape) < 0.5)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model, shapes


QUANTISED = """g (float[1, 3, h, w] x) => (float[1, 6, i, j] y)
  <float sx = {0.02}, uint8 zx = {128}, float sh = {0.03}, uint8 zh = {0}, float[24] s, int8[24] z, float t = {0.01},
   int8 zt = {0}, int32[24] bias, float[24] sb, int32[24] zb, int8[24, 3, 3, 3] k, int8[6, 24, 3, 3] l> {
  q = QuantizeLinear(x, sx, zx) d = DequantizeLinear(q, sx, zx) w0 = DequantizeLinear<axis=0>(k, s, z)
  b = DequantizeLinear<axis=0>(bias, sb, zb) c = Conv<pads=[1,1,1,1], strides=[2,2]>(d, w0, b) r = Relu(c)
  q1 = QuantizeLinear(r, sh, zh) d1 = DequantizeLinear(q1, sh, zh)
  m = MaxPool<kernel_shape=[2,2]>(d1) q2 = QuantizeLinear(m, sh, zh) d2 = DequantizeLinear(q2, sh, zh)
  w1 = DequantizeLinear(l, t, zt) y = Conv<pads=[1,1,1,1]>(d2, w1) }"""


def quantised():
    """Convolutions and a pool of codes, for images of any height and width."""
    weights = {"k": RNG.integers(-90, 90, (24, 3, 3, 3)), "l": RNG.integers(-90, 90, (6, 24, 3, 3)),
               "s": RNG.uniform(0.002, 0.004, 24), "z": np.zeros(24), "zb": np.zeros(24), "sb": np.full(24, 1e-4),
               "bias": RNG.integers(-999, 999, 24)}
    return texts.model(QUANTISED, **weights)
