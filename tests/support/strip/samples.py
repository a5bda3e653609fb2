"""A network for every operator that liveness follows: a layer with dead channels, the operator, a layer that reads."""

from dataclasses import dataclass

import numpy as np

from sparsec.analysis.liveness import elementwise
from tests.support.texts import model

DEAD = (1, 4)  # of six channels
CONSTANT, ALL = (True,), (True, False)
CONV_TAIL = "y = Conv(z, last)"


@dataclass(frozen=True)
class Sample:
    """Nodes between h, the output of the first layer (2, 6, 8, 8), and z, the input of the last."""

    nodes: str
    declared: str = ""  # constants, besides `first`, `shift`, `last`, `zero` and `one`
    tail: str = CONV_TAIL
    opset: int = 20
    rank: int = 4  # of the output
    keeps: tuple = ()  # whether dead channels that are constant (True) or zero (False) have to stay

    def build(self, bias):
        first = np.random.default_rng(0).standard_normal((6, 3, 1, 1))
        first[list(DEAD)] = 0
        shift = np.linspace(-1, 1, 6) if bias else np.zeros(6)
        weights = "float[6,3,1,1] first, float[6] shift, float[4,6,1,1] last, float zero, float one"
        weights += self.declared and f", {self.declared}"
        output = f"float[{', '.join('abcd'[:self.rank])}] y"
        nodes = f"h = Conv(x, first, shift) {self.nodes} {self.tail}"
        return model(f"g (float[2,3,8,8] x) => ({output}) <{weights}> {{ {nodes} }}", self.opset,
                     first=first, shift=shift, zero=0, one=1)


def truth(nodes, weights=""):
    """Nodes that end in booleans q."""
    return Sample(f"{nodes} z = Cast<to=1>(q)", weights)


def side(operator, **options):
    return Sample(f"z = {operator}(h, side)", "float[6,1,1] side", **options)


POSITIVE, UNIT, TRUTH = "p = Softplus(h)", "p = Sigmoid(h)", "p = Greater(h, zero)"
INTEGERS = "int32[6,1,1] side"

SAMPLES = {
    **{name: Sample(f"z = {name}(h)") for name in elementwise.UNARY},
    **{name: side(name) for name in elementwise.BROADCAST},
    **{name: Sample(f"{POSITIVE} z = {name}(p)") for name in ("Log", "Sqrt", "Reciprocal")},
    **{name: Sample(f"{UNIT} z = {name}(p)") for name in ("Acos", "Asin", "Atanh", "Tan")},
    **{name: truth(f"q = {name}(h)") for name in ("IsInf", "IsNaN")},
    **{name: truth(f"q = {name}(h, side)", "float[6,1,1] side")
       for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{name: truth(f"{TRUTH} r = Less(h, one) q = {name}(p, r)") for name in ("And", "Or", "Xor")},
    **{name: Sample(f"p = Cast<to=6>(h) q = {name}(p, side) z = Cast<to=1>(q)", INTEGERS)
       for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "Acosh": Sample(f"{POSITIVE} q = Add(p, one) z = Acosh(q)"),
    "Cast": Sample("p = Cast<to=11>(h) z = Cast<to=1>(p)"),
    "Clip": Sample("z = Clip(h, zero, one)"),
    "Mod": Sample("z = Mod<fmod=1>(h, one)"),
    "Not": truth(f"{TRUTH} q = Not(p)"),
    "Pow": Sample(f"{POSITIVE} z = Pow(p, side)", "float[6,1,1] side"),
    "Swish": Sample("z = Swish(h)", opset=24),
    "Mul": side("Mul"),
    "Div": Sample("p = Exp(side) z = Div(h, p)", "float[6,1,1] side"),
    "Where": Sample("p = Greater(side, zero) r = Neg(h) z = Where(p, h, r)", "float[6,1,1] side"),
    "Dropout": Sample("z = Dropout(h)"),
    # convolutions and pooling
    "Conv": Sample("z = Conv<group=6, pads=[1,1,1,1]>(h, side)", "float[6,1,3,3] side", keeps=CONSTANT),
    "ConvTranspose": Sample("z = ConvTranspose<strides=[2,2]>(h, side)", "float[6,6,2,2] side"),
    "AveragePool": Sample("z = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(h)",
                          keeps=CONSTANT),
    "MaxPool": Sample("z = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(h)"),
    "LpPool": Sample("z = LpPool<kernel_shape=[2,2]>(h)"),
    **{name: Sample(f"z = {name}(h)") for name in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")},
    # products
    "MatMul": Sample("t = Transpose<perm=[0,2,3,1]>(h)", "float[6,4] out", "y = MatMul(t, out)"),
    "Gemm": Sample("f = Flatten(h)", "float[5,384] out", "y = Gemm<transB=1>(f, out)", rank=2),
    # shapes
    "Reshape": Sample("r = Reshape(h, sizes)", "int64[3] sizes = {2, 6, 64}, float[4,6,1] out",
                      "y = Conv(r, out)", rank=3),
    "Flatten": Sample("f = Flatten(h)", "float[384,5] out", "y = MatMul(f, out)", rank=2),
    "Squeeze": Sample("g = GlobalMaxPool(h) s = Squeeze(g)", "float[6,4] out", "y = MatMul(s, out)", rank=2),
    "Unsqueeze": Sample("u = Unsqueeze(h, axes) z = Squeeze(u, axes)", "int64[1] axes = {2}"),
    "Shape": Sample("s = Shape(h) z = Reshape(h, s)", keeps=ALL),
    "Size": Sample("n = Size(h) f = Cast<to=1>(n) z = Div(h, f)", keeps=ALL),
    "Transpose": Sample("t = Transpose<perm=[0,1,3,2]>(h) z = Relu(t)"),
    "Concat": Sample("z = Concat<axis=1>(h, h)", "float[4,12,1,1] out", "y = Conv(z, out)"),
    "Expand": Sample("g = GlobalMaxPool(h) z = Expand(g, sizes)", "int64[4] sizes = {2, 6, 3, 3}"),
    "DepthToSpace": Sample("c = Concat<axis=1>(h, h) z = DepthToSpace<blocksize=2>(c)", "float[4,3,1,1] out",
                           "y = Conv(z, out)", keeps=ALL),
    "SpaceToDepth": Sample("z = SpaceToDepth<blocksize=2>(h)", "float[4,24,1,1] out", "y = Conv(z, out)", keeps=ALL),
    "Slice": Sample("z = Slice(h, start, end, axes)", "int64[1] start = {1}, int64[1] end = {6}, int64[1] axes = {1}, "
                    "float[4,5,1,1] out", "y = Conv(z, out)"),
    "Split": Sample("a, b = Split<axis=1>(h, parts) c = Relu(b) z = Concat<axis=1>(c, a)", "int64[2] parts = {2, 4}"),
    "Gather": Sample("z = Gather<axis=1>(h, order)", "int64[6] order = {5, 4, 1, 0, 2, 3}"),
    "Pad": Sample("z = Pad(h, pads)", "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}", keeps=CONSTANT),
    "Tile": Sample("z = Tile(h, repeats)", "int64[4] repeats = {1, 1, 2, 1}"),
    "Resize": Sample('z = Resize<mode="linear">(h, , scales)', "float[4] scales = {1, 1, 2, 2}"),
    "Upsample": Sample("z = Upsample(h, scales)", "float[4] scales = {1, 1, 2, 2}", opset=9),
    # rows
    **{f"Reduce{name}": Sample(f"{POSITIVE} z = Reduce{name}(p, axes)", "int64[1] axes = {2}")
       for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    **{name: Sample(f"z = {name}<axis=-1>(h)") for name in ("Softmax", "LogSoftmax", "LpNormalization")},
    "Hardmax": Sample("z = Hardmax<axis=-1>(h)", keeps=ALL),
    "LayerNormalization": Sample("t = Transpose<perm=[0,2,3,1]>(h) n = LayerNormalization(t, g, b)",
                                 "float[6] g, float[6] b, float[6,4] out", "y = MatMul(n, out)", keeps=ALL),
    "RMSNormalization": Sample("t = Transpose<perm=[0,2,3,1]>(h) n = RMSNormalization(t, g)",
                               "float[6] g, float[6,4] out", "y = MatMul(n, out)", opset=23, keeps=ALL),
    "GroupNormalization": Sample("z = GroupNormalization<num_groups=2>(h, g, b)",
                                 "float[6] g, float[6] b, float[2,6,8,8] z", opset=21, keeps=ALL),
    "InstanceNormalization": Sample("z = InstanceNormalization(h, g, b)", "float[6] g, float[6] b"),
    "BatchNormalization": Sample("z = BatchNormalization(h, g, b, m, var)",
                                 "float[6] g, float[6] b, float[6] m, float[6] var"),
    "QuantizeLinear": Sample("q = QuantizeLinear(h, s, o) z = DequantizeLinear(q, s, o)",
                             "float s = {0.1}, int8 o = {3}"),
    "DequantizeLinear": Sample("q = QuantizeLinear<axis=1>(h, s, o) z = DequantizeLinear<axis=1>(q, s, o)",
                               "float[6] s = {0.1, 0.2, 0.1, 0.2, 0.1, 0.2}, int8[6] o = {0, 1, 2, 3, 4, 5}"),
    "DynamicQuantizeLinear": Sample("q, s, o = DynamicQuantizeLinear(h) z = DequantizeLinear(q, s, o)", keeps=CONSTANT),
    "Attention": Sample("z = Attention<scale=0.5>(h, h, h)", opset=23),
    "LRN": Sample("z = LRN<size=3>(h)", keeps=ALL),
}
