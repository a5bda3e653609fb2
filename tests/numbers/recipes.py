"""A small graph for every operator of ONNX whose meaning or types changed since opset 7: by the version it is for.

A graph stands for its version and those that follow, up to the next one given; which versions there are says ONNX.
"""

import onnx
from onnx import defs

OLDEST = 7
X = "float[2,3,4] x"
Y = "float[2,3,4] y"
UNARY = ("Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity "
         "LeakyRelu Log LpNormalization Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign "
         "Sqrt Swish Tan Tanh ThresholdedRelu Celu Shrink").split()
BINARY = "Add Sub Mul Div Pow PRelu Max Min Mean Sum Mod".split()
COMPARISONS = "Equal Greater GreaterOrEqual Less LessOrEqual".split()
REDUCTIONS = ("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
              "ReduceSumSquare").split()
POOL = "(float[1,2,7,9] x) => (float y) "
AXIS = "<int64[1] one = {1}>"


def _reduce(op):
    old = f"({X}) => (float a, float b, float c) {{ a = {op}<axes=[-2]>(x) b = {op}<keepdims=0, axes=[0,2]>(x) c = {op}(x) }}"
    new = (f"({X}) => (float a, float b, float c, float d) <int64[1] one = {{1}}, int64[2] two = {{0, 2}}> "
           f"{{ a = {op}(x, one) b = {op}<keepdims=0>(x, two) c = {op}(x) d = {op}<noop_with_empty_axes=1>(x) }}")
    return old.replace("[-2]", "[1]"), new.replace("{1}", "{-2}"), old


def _reductions():
    for op in (*REDUCTIONS, "ReduceSum"):
        oldest, new, old = _reduce(op)
        yield op, {7: oldest, 11: old, 13 if op == "ReduceSum" else 18: new}


def _softmax(op):
    default = f"({X}) => (float a, float b, float c) {{ a = {op}(x) b = {op}<axis=0>(x) c = {op}<axis=2>(x) }}"
    return {7: default, 11: default.replace("axis=2", "axis=-2")}


def _recurrent(op, gates):
    text = (f"(float[4,2,5] x, float[1,{3 * gates},5] w, float[1,{3 * gates},3] r, float[1,{6 * gates}] b) => (float y, "
            f"float h) {{ y, h = {op}<hidden_size=3>(x, w, r, b) }}")
    return {7: text}


RECIPES = {
    **{op: {7: f"({X}) => ({Y}) {{ y = {op}(x) }}"} for op in UNARY},
    **{op: {7: f"(float[2,3,4] x, float[3,1] z) => ({Y}) {{ y = {op}(x, z) }}"} for op in BINARY},
    **{op: {7: f"(float[2,3,4] x, float[3,1] z) => (bool[2,3,4] y) {{ y = {op}(x, z) }}"} for op in COMPARISONS},
    **dict(_reductions()),
    **{op: _softmax(op) for op in ("Softmax", "LogSoftmax", "Hardmax")},
    "Mod": {10: f"(float[2,3,4] x, float[3,1] z) => ({Y}) {{ y = Mod<fmod=1>(x, z) }}",
            28: f"(float[2,3,4] x, float[3,1] z) => ({Y}) {{ y = Mod(x, z) }}"},
    "ArgMax": {7: f"({X}) => (int64 a, int64 b) {{ a = ArgMax(x) b = ArgMax<axis=2, keepdims=0>(x) }}",
               12: f"({X}) => (int64 a, int64 b) {{ a = ArgMax<axis=-1, select_last_index=1>(x) b = ArgMax(x) }}"},
    "ArgMin": {7: f"({X}) => (int64 a, int64 b) {{ a = ArgMin(x) b = ArgMin<axis=2, keepdims=0>(x) }}",
               12: f"({X}) => (int64 a, int64 b) {{ a = ArgMin<axis=-1, select_last_index=1>(x) b = ArgMin(x) }}"},
    "AveragePool": {7: POOL + "{ y = AveragePool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,1,0]>(x) }",
                    10: POOL + "{ y = AveragePool<kernel_shape=[3,2], strides=[2,2], ceil_mode=1, count_include_pad=1>(x) }",
                    19: POOL + "{ y = AveragePool<kernel_shape=[3,2], dilations=[2,1], pads=[1,1,1,1], "
                               "count_include_pad=1>(x) }"},
    "BatchNormalization": {7: "(float[2,3,4] x, float[3] g, float[3] b, float[3] m) => (float y) "
                              "<float[3] v = {0.5, 1.0, 2.0}> { y = BatchNormalization<epsilon=0.001>(x, g, b, m, v) }"},
    "BitShift": {11: '(uint8[4] x, uint8[4] s) => (uint8 y) { y = BitShift<direction="LEFT">(x, s) }'},
    "Cast": {7: f"({X}) => (int32 a, bool b, double c, float16 d) "
                "{ a = Cast<to=6>(x) b = Cast<to=9>(x) c = Cast<to=11>(x) d = Cast<to=10>(x) }"},
    "CastLike": {15: f"({X}, int32 t) => (int32 y) {{ y = CastLike(x, t) }}"},
    "Clip": {7: f"({X}) => (float y, float z) {{ y = Clip<min=-0.5, max=0.7>(x) z = Clip<max=0.1>(x) }}",
             11: f"({X}, float a) => (float y, float z, float w) <float h = {{0.7}}> "
                 "{ y = Clip(x, a, h) z = Clip(x, , h) w = Clip(x) }"},
    "Compress": {9: f"({X}) => (float[2,2,4] y) <bool[3] c = {{1, 0, 1}}> {{ y = Compress<axis=1>(x, c) }}"},
    "Concat": {7: f"({X}, float[2,1,4] z) => (float y) {{ y = Concat<axis=1>(x, z) }}",
               11: f"({X}, float[2,1,4] z) => (float y) {{ y = Concat<axis=-2>(x, z) }}"},
    "Constant": {7: f"({X}) => (float y) {{ c = Constant<value = float[4] {{1, 2, 3, 4}}>() y = Add(x, c) }}",
                 12: f"({X}) => (float y) {{ c = Constant<value_floats=[1.0, 2.0, 3.0, 4.0]>() y = Add(x, c) }}"},
    "ConstantOfShape": {9: f"({X}) => (float y) {{ s = Shape(x) c = ConstantOfShape<value = float[1] {{2}}>(s) y = Add(x, c) }}"},
    "Conv": {7: "(float[1,2,7,9] x, float[4,2,3,3] w, float[4] b) => (float y, float z) "
                '{ y = Conv<strides=[2,1], pads=[1,0,1,2]>(x, w, b) z = Conv<auto_pad="SAME_UPPER">(x, w) }'},
    "ConvTranspose": {7: "(float[1,2,5,4] x, float[2,3,3,3] w) => (float y, float z) "
                         "{ y = ConvTranspose<strides=[2,1], pads=[1,0,1,2]>(x, w) "
                         "z = ConvTranspose<strides=[3,2], output_padding=[1,1]>(x, w) }"},
    "CumSum": {11: f"({X}) => (float y) <int32 a = {{1}}> {{ y = CumSum<exclusive=1, reverse=1>(x, a) }}"},
    "DepthToSpace": {7: "(float[1,8,2,3] x) => (float y) { y = DepthToSpace<blocksize=2>(x) }",
                     11: '(float[1,8,2,3] x) => (float y) { y = DepthToSpace<blocksize=2, mode="CRD">(x) }'},
    "SpaceToDepth": {7: "(float[1,2,4,6] x) => (float y) { y = SpaceToDepth<blocksize=2>(x) }"},
    "DequantizeLinear": {10: "(uint8[2,4] x) => (float y) <float s = {0.5}, uint8 z = {3}> { y = DequantizeLinear(x, s, z) }",
                         13: "(int8[2,4] x) => (float y) <float[4] s = {0.5, 1, 2, 3}, int8[4] z = {3, 0, -2, 1}> "
                             "{ y = DequantizeLinear<axis=1>(x, s, z) }"},
    "QuantizeLinear": {10: "(float[2,4] x) => (uint8 y) <float s = {0.1}, uint8 z = {3}> { y = QuantizeLinear(x, s, z) }",
                       13: "(float[2,4] x) => (int8 y) <float[4] s = {0.1, 1, 2, 3}, int8[4] z = {3, 0, -2, 1}> "
                           "{ y = QuantizeLinear<axis=1>(x, s, z) }"},
    "Det": {11: "(float[2,3,3] x) => (float y) { y = Det(x) }"},
    "Dropout": {7: f"({X}) => (float y) {{ y = Dropout<ratio=0.3>(x) }}",
                10: f"({X}) => (float y, bool m) {{ y, m = Dropout<ratio=0.3>(x) }}",
                12: f"({X}) => (float y, bool m) <float r = {{0.3}}, bool t = {{0}}> {{ y, m = Dropout(x, r, t) }}"},
    "Einsum": {12: '(float[2,3] x, float[3,4] z) => (float y) { y = Einsum<equation="ij,jk->ik">(x, z) }'},
    "Expand": {8: "(float[3,1] x) => (float y) <int64[3] s = {2, 1, 4}> { y = Expand(x, s) }"},
    "EyeLike": {9: "(float[3,4] x) => (float y) { y = EyeLike<k=1>(x) }"},
    "Flatten": {7: f"({X}) => (float a, float b) {{ a = Flatten(x) b = Flatten<axis=0>(x) }}",
                11: f"({X}) => (float a) {{ a = Flatten<axis=-1>(x) }}"},
    "GRU": _recurrent("GRU", 3), "LSTM": _recurrent("LSTM", 4), "RNN": _recurrent("RNN", 1),
    "Gather": {7: f"({X}) => (float y) <int64[2] i = {{2, 0}}> {{ y = Gather<axis=1>(x, i) }}",
               11: f"({X}) => (float y) <int64[2] i = {{-1, 0}}> {{ y = Gather<axis=-2>(x, i) }}"},
    "GatherElements": {11: f"({X}) => (float y) <int64[2,1,4] i = {{0,1,2,0,0,1,1,-1}}> {{ y = GatherElements<axis=1>(x, i) }}"},
    "GatherND": {11: f"({X}) => (float y) <int64[2,2] i = {{0,1,1,2}}> {{ y = GatherND(x, i) }}",
                 12: f"({X}) => (float y) <int64[2,1] i = {{1,2}}> {{ y = GatherND<batch_dims=1>(x, i) }}"},
    "Gemm": {7: "(float[4,3] a, float[4,5] b, float[5] c) => (float y) { y = Gemm<transA=1, alpha=0.5, beta=2.0>(a, b, c) }",
             11: "(float[3,4] a, float[4,5] b) => (float y) { y = Gemm(a, b) }"},
    "GlobalAveragePool": {7: POOL + "{ y = GlobalAveragePool(x) }"}, "GlobalMaxPool": {7: POOL + "{ y = GlobalMaxPool(x) }"},
    "GlobalLpPool": {7: POOL + "{ y = GlobalLpPool<p=3>(x) }"},
    "GridSample": {16: '(float[1,2,4,5] x, float[1,3,3,2] g) => (float y) { y = GridSample<mode="bilinear">(x, g) }',
                   20: '(float[1,2,4,5] x, float[1,3,3,2] g) => (float y) { y = GridSample<mode="cubic">(x, g) }'},
    "GroupNormalization": {18: "(float[2,4,5] x, float[2] g, float[2] b) => (float[2,4,5] y) "
                               "{ y = GroupNormalization<num_groups=2>(x, g, b) }",
                           21: "(float[2,4,5] x, float[4] g, float[4] b) => (float[2,4,5] y) "
                               "{ y = GroupNormalization<num_groups=2>(x, g, b) }"},
    "If": {7: f"({X}, bool c) => (float[2,3,4] y) {{ y = If(c) <then_branch = t () => (float[2,3,4] p) {{ p = Exp(x) }}, "
              "else_branch = e () => (float[2,3,4] n) { n = Neg(x) }> }"},
    "InstanceNormalization": {7: "(float[2,3,8] x, float[3] g, float[3] b) => (float y) { y = InstanceNormalization(x, g, b) }"},
    "IsInf": {10: f"({X}) => (bool y) {{ y = IsInf(x) }}"}, "IsNaN": {9: f"({X}) => (bool y) {{ y = IsNaN(x) }}"},
    "LRN": {7: "(float[1,6,3,2] x) => (float y) { y = LRN<size=3>(x) }"},
    "LpPool": {7: POOL + "{ y = LpPool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,1,0]>(x) }",
               18: POOL + "{ y = LpPool<kernel_shape=[3,2], dilations=[1,2], ceil_mode=1>(x) }"},
    "MatMul": {7: "(float[2,3,4] x, float[4,5] w) => (float y) { y = MatMul(x, w) }"},
    "MaxPool": {7: POOL + "{ y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,1,0]>(x) }",
                8: "(float[1,2,7,9] x) => (float y, int64 i) { y, i = MaxPool<kernel_shape=[3,2], storage_order=1>(x) }",
                10: POOL + "{ y = MaxPool<kernel_shape=[3,2], strides=[2,2], dilations=[2,1], ceil_mode=1>(x) }"},
    "MaxUnpool": {9: "(float[1,1,2,2] x) => (float y) <int64[1,1,2,2] i = {1, 3, 9, 10}> "
                     "{ y = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(x, i) }"},
    "MeanVarianceNormalization": {9: "(float[2,3,4,2] x) => (float[2,3,4,2] y) { y = MeanVarianceNormalization(x) }"},
    "NegativeLogLikelihoodLoss": {12: "(float[3,2] x) => (float y) <int64[3] t = {0, 1, 1}> "
                                      "{ y = NegativeLogLikelihoodLoss(x, t) }"},
    "SoftmaxCrossEntropyLoss": {12: "(float[3,2] x) => (float y) <int64[3] t = {0, 1, 1}> "
                                    "{ y = SoftmaxCrossEntropyLoss(x, t) }"},
    "OneHot": {9: "(int64[3] x) => (float y) <int64 d = {4}, float[2] v = {0.5, 2}> { y = OneHot<axis=0>(x, d, v) }"},
    "Pad": {7: f'({X}) => (float a, float b) {{ a = Pad<pads=[0,1,2,1,0,-1], value=1.5>(x) '
               'b = Pad<mode="reflect", pads=[1,1,2,0,1,1]>(x) }',
            11: f'({X}) => (float a, float b) <int64[6] p = {{0,1,2,1,0,-1}}, float v = {{1.5}}> '
                '{ a = Pad(x, p, v) b = Pad<mode="edge">(x, p) }',
            18: f'({X}) => (float a) <int64[2] p = {{1,2}}, float v = {{1.5}}, int64[1] s = {{-1}}> {{ a = Pad(x, p, v, s) }}',
            19: f'({X}) => (float a) <int64[6] p = {{0,1,2,1,0,1}}> {{ a = Pad<mode="wrap">(x, p) }}'},
    "Range": {11: f"({X}) => (float y) <float a = {{0}}, float b = {{4}}, float d = {{1}}> {{ r = Range(a, b, d) y = Add(x, r) }}"},
    "Reshape": {7: f"({X}) => (float y) <int64[2] s = {{0, -1}}> {{ y = Reshape(x, s) }}",
                14: f"({X}) => (float y) <int64[2] s = {{6, 4}}> {{ y = Reshape<allowzero=1>(x, s) }}"},
    "Resize": {10: '(float[1,2,4,5] x) => (float a, float b) <float[4] s = {1, 1, 2, 1.5}> '
                   '{ a = Resize(x, s) b = Resize<mode="linear">(x, s) }',
               11: '(float[1,2,4,5] x) => (float a, float b, float c) <float[4] s = {1, 1, 2, 1.5}, float[0] r = {}> '
                   '{ a = Resize(x, r, s) b = Resize<mode="linear">(x, r, s) c = Resize<mode="cubic">(x, r, s) }',
               13: '(float[1,2,4,5] x) => (float a, float b) <float[4] s = {1, 1, 2, 1.5}, int64[4] z = {1, 2, 6, 3}> '
                   '{ a = Resize<mode="linear">(x, , s) b = Resize<mode="cubic">(x, , , z) }',
               18: '(float[1,2,4,5] x) => (float a) <float[2] s = {2, 1.5}> '
                   '{ a = Resize<mode="linear", axes=[2,3], antialias=1>(x, , s) }'},
    "Upsample": {7: '(float[1,2,4,5] x) => (float a, float b) { a = Upsample<scales=[1.0,1.0,2.0,3.0]>(x) '
                    'b = Upsample<mode="linear", scales=[1.0,1.0,2.0,1.5]>(x) }',
                 9: '(float[1,2,4,5] x) => (float a, float b) <float[4] s = {1, 1, 2, 1.5}> '
                    '{ a = Upsample(x, s) b = Upsample<mode="linear">(x, s) }'},
    "ReverseSequence": {10: f"({X}) => (float y) <int64[3] l = {{1, 2, 1}}> {{ y = ReverseSequence(x, l) }}"},
    "RoiAlign": {10: "(float[1,2,6,6] x) => (float y) <float[1,4] r = {0, 1, 4, 5}, int64[1] b = {0}> "
                     "{ y = RoiAlign<output_height=2, output_width=2, sampling_ratio=2>(x, r, b) }"},
    "Scatter": {9: f"({X}, float[1,3,4] u) => (float y) <int64[1,3,4] i = {{0,1,0,1,0,1,0,1,0,1,0,1}}> {{ y = Scatter(x, i, u) }}"},
    "ScatterElements": {11: f"({X}, float[1,3,4] u) => (float y) <int64[1,3,4] i = {{0,1,0,1,0,1,0,1,0,1,0,1}}> "
                            "{ y = ScatterElements(x, i, u) }",
                        16: f"({X}, float[1,3,4] u) => (float y) <int64[1,3,4] i = {{0,1,0,1,0,1,0,1,0,1,0,1}}> "
                            '{ y = ScatterElements<reduction="add">(x, i, u) }'},
    "ScatterND": {11: f"({X}, float[1,4] u) => (float y) <int64[1,2] i = {{1,2}}> {{ y = ScatterND(x, i, u) }}",
                  16: f'({X}, float[1,4] u) => (float y) <int64[1,2] i = {{1,2}}> {{ y = ScatterND<reduction="mul">(x, i, u) }}'},
    "Shape": {7: f"({X}) => (int64 y) {{ y = Shape(x) }}", 15: f"({X}) => (int64 y) {{ y = Shape<start=1>(x) }}"},
    "Size": {7: f"({X}) => (int64 y) {{ y = Size(x) }}"},
    "Slice": {7: f"({X}) => (float y) {{ y = Slice<axes=[1,2], starts=[0,-3], ends=[2,1000]>(x) }}",
              10: f"({X}) => (float y) <int64[2] s = {{-1, 0}}, int64[2] e = {{-10, 4}}, int64[2] a = {{1, 2}}, "
                  "int64[2] t = {-1, 2}> { y = Slice(x, s, e, a, t) }"},
    "Split": {7: f"({X}) => (float a, float b) {{ a, b = Split<axis=2, split=[1,3]>(x) }}",
              11: f"({X}) => (float a, float b) {{ a, b = Split<axis=-1>(x) }}",
              13: f"({X}) => (float a, float b) <int64[2] s = {{1, 3}}> {{ a, b = Split<axis=2>(x, s) }}",
              18: f"({X}) => (float a, float b, float c) {{ a, b, c = Split<axis=2, num_outputs=3>(x) }}"},
    "Squeeze": {7: "(float[1,3,1,4] x) => (float a, float b) { a = Squeeze<axes=[2]>(x) b = Squeeze(x) }",
                11: "(float[1,3,1,4] x) => (float a) { a = Squeeze<axes=[-2]>(x) }",
                13: "(float[1,3,1,4] x) => (float a) <int64[1] s = {-2}> { a = Squeeze(x, s) }"},
    "Unsqueeze": {7: f"({X}) => (float a) {{ a = Unsqueeze<axes=[0,3]>(x) }}",
                  11: f"({X}) => (float a) {{ a = Unsqueeze<axes=[-1]>(x) }}",
                  13: f"({X}) => (float a) <int64[2] s = {{0, -1}}> {{ a = Unsqueeze(x, s) }}"},
    "Tile": {7: f"({X}) => (float y) <int64[3] r = {{2, 1, 3}}> {{ y = Tile(x, r) }}"},
    "TopK": {7: f"({X}) => (float y, int64 i) {{ y, i = TopK<k=2>(x) }}",
             10: f"({X}) => (float y, int64 i) <int64[1] k = {{2}}> {{ y, i = TopK<axis=1>(x, k) }}",
             11: f"({X}) => (float y, int64 i) <int64[1] k = {{2}}> {{ y, i = TopK<largest=0>(x, k) }}"},
    "Transpose": {7: f"({X}) => (float y) {{ y = Transpose<perm=[2,0,1]>(x) }}"},
    "Where": {9: f"(bool[3,1] c, {X}, float[4] z) => (float y) {{ y = Where(c, x, z) }}"},
}
RECIPES["Equal"] = {11: RECIPES["Equal"][7]}
RECIPES["ThresholdedRelu"] = {10: RECIPES["ThresholdedRelu"][7]}


def versions():
    """(operator, version, graph) of every version since opset 7 that a recipe is there for."""
    for schema in sorted(defs.get_all_schemas_with_history(), key=lambda each: (each.name, each.since_version)):
        later = [other.since_version for other in defs.get_all_schemas_with_history()
                 if not other.domain and other.name == schema.name and schema.since_version < other.since_version <= OLDEST]
        texts = RECIPES.get(schema.name, {}) if not schema.domain and not schema.deprecated and not later else {}
        opset = max(schema.since_version, OLDEST)
        fitting = [text for since, text in sorted(texts.items()) if since <= opset]
        if fitting:
            yield schema.name, opset, fitting[-1]


def model(opset, text):
    """The model of a graph, checked, with the types of its outputs filled in."""
    imports = f'<ir_version: {10 if opset < 23 else 13}, opset_import: ["": {opset}]>'
    proto = onnx.parser.parse_model(f"{imports} g {text}")
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    for value in inferred.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            raise ValueError(f"no shape of {value.name}: {text}")
    return inferred
