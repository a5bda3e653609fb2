"""Small graphs that every pass is run on, as exporters write them."""

import numpy as np

from tests.support.texts import model

IMAGE = "g (float[2,4,9,9] x) => (float[n,m,h,w] y)"
TOKENS = "g (float[2,5,8] x) => (float[n,m,k] y)"
BN = "float[6] gamma, float[6] beta, float[6] mean, float[6] var"


def conv(weights, nodes, opset=17):
    """A convolution c of x, followed by nodes."""
    return model(f"{IMAGE} <float[6,4,3,3] weight, {weights}>"
                 f"{{ c = Conv<pads=[1,1,1,1]>(x, weight) {nodes} }}", opset)


def linear(weights, nodes, opset=20, **values):
    """A product p of x and a matrix, followed by nodes."""
    return model(f"{TOKENS} <float[8,6] weight, float[6] bias, {weights}> {{ p = MatMul(x, weight) {nodes} }}", opset,
                 **values)


def activation(nodes, opset=20, weights="float s", **values):
    """A linear layer h followed by an activation y, written as nodes."""
    return linear(weights, f"h = Add(p, bias) {nodes}", opset, **values)


SQRT_HALF, SQRT_2, TANH = {"s": 2**-0.5, "half": 0.5, "one": 1}, {"s": 2**0.5, "half": 0.5, "one": 1}, {
    "s": 0.7978845608, "half": 0.5, "one": 1, "cube": 3, "third": 0.044715}
SCALARS = "float s, float half, float one"
CUBIC = f"{SCALARS}, float cube, float third"
SIX = "float three, float zero, float six, float sixth"
RELU6 = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6}

ACTIVATIONS = {  # how it is written -> (what it is, the model)
    "relu": ("relu", activation("y = Relu(h)")),
    "clip": ("clip", activation("y = Clip(h, zero, six)", weights=SIX, **RELU6)),
    "clip above": ("clip", activation("y = Clip(h, , six)", weights=SIX, **RELU6)),
    "clip below zero": ("relu", activation("y = Clip(h, zero)", weights=SIX, **RELU6)),
    "clip by attributes": ("clip", activation("y = Clip<min=-0.5, max=0.5>(h)", 7)),
    "min of max": ("clip", activation("m = Max(h, zero) y = Min(m, six)", weights=SIX, **RELU6)),
    "leaky relu": ("leaky_relu", activation("y = LeakyRelu<alpha=0.2>(h)")),
    "sigmoid": ("sigmoid", activation("y = Sigmoid(h)")),
    "tanh": ("tanh", activation("y = Tanh(h)")),
    "hard sigmoid": ("hard_sigmoid", activation("y = HardSigmoid(h)")),
    "hard sigmoid, clipped": ("hard_sigmoid", activation(
        "a = Add(h, three) c = Clip(a, zero, six) y = Div(c, six)", weights=SIX, **RELU6)),
    "hard swish": ("hard_swish", activation("y = HardSwish(h)")),
    "hard swish by hard sigmoid": ("hard_swish", activation("g = HardSigmoid<alpha=0.16666667>(h) y = Mul(h, g)")),
    "hard swish, divided last": ("hard_swish", activation(
        "a = Add(three, h) c = Clip(a, zero, six) m = Mul(h, c) y = Div(m, six)", weights=SIX, **RELU6)),
    "hard swish, gate first": ("hard_swish", activation(
        "a = Add(h, three) c = Clip(a, zero, six) d = Mul(c, sixth) y = Mul(d, h)", weights=SIX, **RELU6)),
    "silu": ("silu", activation("g = Sigmoid(h) y = Mul(h, g)")),
    "silu, swapped": ("silu", activation("g = Sigmoid(h) y = Mul(g, h)")),
    "gelu": ("gelu_erf", activation("y = Gelu(h)")),
    "gelu, tanh": ("gelu_tanh", activation('y = Gelu<approximate="tanh">(h)')),
    "gelu by erf, half last": ("gelu_erf", activation(
        "d = Div(h, s) e = Erf(d) a = Add(e, one) m = Mul(h, a) y = Mul(m, half)", 17, SCALARS, **SQRT_2)),
    "gelu by erf, half first": ("gelu_erf", activation(
        "d = Mul(h, s) e = Erf(d) a = Add(one, e) m = Mul(half, h) y = Mul(m, a)", 14, SCALARS, **SQRT_HALF)),
    "gelu by erf, half on the gate": ("gelu_erf", activation(
        "d = Div(h, s) e = Erf(d) a = Add(e, one) m = Mul(a, half) y = Mul(h, m)", 17, SCALARS, **SQRT_2)),
    "gelu of a product": ("gelu_erf", linear(
        f"float two, {SCALARS}", "k = Mul(p, two) h = Add(k, bias) g = Mul(h, two) d = Div(g, s) e = Erf(d)"
        "a = Add(e, one) m = Mul(g, a) y = Mul(m, half)", 17, two=2, **SQRT_2)),
    "gelu by tanh, pow": ("gelu_tanh", activation(
        "p3 = Pow(h, cube) t = Mul(third, p3) u = Add(h, t) v = Mul(u, s) w = Tanh(v) a = Add(w, one)"
        "m = Mul(h, half) y = Mul(m, a)", 17, CUBIC, **TANH)),
    "gelu by tanh, products": ("gelu_tanh", activation(
        "q = Mul(h, h) p3 = Mul(q, h) t = Mul(p3, third) u = Add(t, h) v = Mul(s, u) w = Tanh(v) a = Add(one, w)"
        "m = Mul(h, a) y = Mul(m, half)", 17, CUBIC, **TANH)),
    "gelu by tanh, factored": ("gelu_tanh", activation(
        "c = Mul(h, third) q = Mul(c, h) i = Add(q, one) v = Mul(h, s) u = Mul(v, i) w = Tanh(u) a = Add(w, one)"
        "m = Mul(half, h) y = Mul(m, a)", 17, CUBIC, **TANH)),
}

NORM = "float[8] scale, float[8] bias, float eps, float two, int64[1] last"
NORM_VALUES = {"eps": 1e-5, "two": 2, "last": -1}


def norm(nodes, opset=18, weights=NORM):
    """A layer normalisation written as nodes."""
    return model(f"{TOKENS} <{weights}> {{ {nodes} }}", opset, **NORM_VALUES)


NORMS = {
    "pow, div": norm("m = ReduceMean(x, last) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, last) e = Add(v, eps)"
                     "s = Sqrt(e) n = Div(d, s) k = Mul(n, scale) y = Add(k, bias)"),
    "mul, reciprocal": norm("m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)"
                            "e = Add(eps, v) s = Sqrt(e) r = Reciprocal(s) n = Mul(d, r) k = Mul(scale, n)"
                            "y = Add(bias, k)"),
    "axes as attributes": norm("m = ReduceMean<axes=[2]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)"
                               "e = Add(v, eps) s = Sqrt(e) n = Div(d, s) k = Mul(n, scale) y = Add(k, bias)", 13),
    "subtracted twice": norm("m = ReduceMean(x, last) d = Sub(x, m) f = Sub(x, m) q = Pow(f, two)"
                             "v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) k = Mul(n, scale)"
                             "y = Add(k, bias)"),
    "no bias, then a residual": norm("m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)"
                                     "e = Add(v, eps) s = Sqrt(e) n = Div(d, s) k = Mul(n, scale) y = Add(k, x)"),
}

HEADS = "float[8,8] wq, float[8,8] wk, float[8,8] wv, int64[4] heads, int64[3] merged, float scale"
HEAD_VALUES = {"heads": [2, 5, 2, 4], "merged": [2, 5, 8], "scale": 0.5}
PROJECTIONS = "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) "
SPLIT = ("q1 = Reshape(q0, heads) q = Transpose<perm=[0,2,1,3]>(q1) k1 = Reshape(k0, heads) "
         "k = Transpose<perm=[0,2,3,1]>(k1) v1 = Reshape(v0, heads) v = Transpose<perm=[0,2,1,3]>(v1) ")
MERGE = " t = Transpose<perm=[0,2,1,3]>(o) y = Reshape(t, merged)"


def attention(nodes, weights="float s", split=SPLIT, merge=MERGE, opset=17, inputs=TOKENS, **values):
    """Two heads of four features over x, with what makes o from q, k (transposed) and v written as nodes."""
    return model(f"{inputs} <{HEADS}, {weights}> {{ {PROJECTIONS} {split} {nodes} {merge} }}", opset,
                 **{**HEAD_VALUES, **values})


MASK = "float[2,1,1,5] mask"
FUSED = "float[8,24] w, int64[4] heads, int64[3] merged, float scale, "
ATTENTIONS = {
    "scaled scores": attention("a = MatMul(q, k) b = Mul(a, scale) c = Softmax<axis=-1>(b) o = MatMul(c, v)"),
    "divided scores and mask": attention(
        "a = MatMul(q, k) b = Div(a, scale) m = Add(b, mask) c = Softmax<axis=3>(m) o = MatMul(c, v)", MASK),
    "mask first": attention(
        "a = MatMul(q, k) b = Mul(scale, a) m = Add(mask, b) c = Softmax(m) o = MatMul(c, v)", MASK, opset=13),
    "scaled queries": attention(
        "r = Mul(q, scale) a = MatMul(r, k) m = Add(a, mask) c = Softmax(m) o = MatMul(c, v)", MASK),
    "scaled queries and keys": attention(
        "r = Mul(q, scale) j = Mul(k, scale) a = MatMul(r, j) c = Softmax(a) o = MatMul(c, v)"),
    "no scale": attention("a = MatMul(q, k) c = Softmax(a) o = MatMul(c, v)"),
    "keys transposed apart": attention(
        "j = Reshape(k, flat) l = Transpose<perm=[0,2,1]>(j) n = Transpose<perm=[0,2,1]>(l) r = Reshape(n, four)"
        "a = MatMul(q, r) b = Mul(a, scale) c = Softmax(b) o = MatMul(c, v)", "int64[3] flat, int64[4] four",
        flat=[4, 4, 5], four=[2, 2, 4, 5]),
    "batch and heads in one": attention(
        "q3 = Reshape(q, rows) k3 = Reshape(k, columns) v3 = Reshape(v, rows) a = MatMul(q3, k3) b = Mul(a, scale)"
        "c = Softmax(b) o3 = MatMul(c, v3) o = Reshape(o3, four)", "int64[3] rows, int64[3] columns, int64[4] four",
        rows=[4, 5, 4], columns=[4, 4, 5], four=[2, 2, 5, 4]),
    "finite mask with a guard": attention(
        "a = MatMul(q, k) f = Where(keep, zero, low) m = Add(a, f) c = Softmax(m) n = IsNaN(c) g = Where(n, zero, c)"
        "o = MatMul(g, v)", "float zero, float low", inputs=TOKENS.replace(") =>", ", bool[5,5] keep) =>"),
        zero=0, low=-1e9),
    "one projection, split": model(
        f"{TOKENS} <{FUSED} int64[3] thirds> {{ p = MatMul(x, w) q0, k0, v0 = Split<axis=2>(p, thirds) {SPLIT}"
        f"a = MatMul(q, k) b = Mul(a, scale) c = Softmax(b) o = MatMul(c, v) {MERGE} }}", 17,
        **HEAD_VALUES, thirds=[8, 8, 8]),
    "one projection, five dimensions": model(
        f"{TOKENS} <{FUSED} int64[5] five, int64 i0, int64 i1, int64 i2> {{ p = MatMul(x, w) f = Reshape(p, five)"
        "t5 = Transpose<perm=[2,0,3,1,4]>(f) q = Gather(t5, i0) k0 = Gather(t5, i1) v = Gather(t5, i2)"
        "k = Transpose<perm=[0,1,3,2]>(k0) a = MatMul(q, k) b = Mul(a, scale) c = Softmax(b) o = MatMul(c, v)"
        f"{MERGE} }}", 17, **HEAD_VALUES, five=[2, 5, 3, 2, 4], i0=0, i1=1, i2=2),
    "sequence first": attention(
        "a = MatMul(q, k) b = Mul(a, scale) c = Softmax(b) o = MatMul(c, v)", "int64[3] pairs",
        "qt = Transpose<perm=[1,0,2]>(q0) q1 = Reshape(qt, pairs) q2 = Transpose<perm=[1,0,2]>(q1)"
        "kt = Transpose<perm=[1,0,2]>(k0) k1 = Reshape(kt, pairs) k = Transpose<perm=[1,2,0]>(k1)"
        "vt = Transpose<perm=[1,0,2]>(v0) v1 = Reshape(vt, pairs) v = Transpose<perm=[1,0,2]>(v1) q = Identity(q2)",
        " t = Transpose<perm=[1,0,2]>(o) s0 = Reshape(t, merged) y = Transpose<perm=[1,0,2]>(s0)",
        pairs=[5, 4, 4], merged=[5, 2, 8]),
    "standard operator": attention(
        "kk = Transpose<perm=[0,1,3,2]>(k) o = Attention(q, kk, v, mask)", "float[5,5] mask", opset=23),
    "standard operator, causal": attention(
        "kk = Transpose<perm=[0,1,3,2]>(k) o = Attention<is_causal=1, scale=0.3>(q, kk, v)", opset=23),
}

ROWS = "float[2,5,8] x"
PRODUCTS = {  # how it is written -> the model, in which one matrix stands behind `products`
    **{f"einsum {equation}": model(f"g ({x} x) => (float[{'abcde'[:rank]}] y) <{w} w>"
                                   f'{{ p = Einsum<equation="{equation}">({operands}) y = Relu(p) }}')
       for equation, x, w, rank, operands in [
           ("btc,co->bto", "float[2,5,8]", "float[8,6]", 3, "x, w"),
           ("btc,co", "float[2,5,8]", "float[8,6]", 3, "x, w"),
           ("oc,...c->...o", "float[2,3,5,8]", "float[6,8]", 4, "w, x"),
           ("btd,dhk->bthk", "float[2,5,8]", "float[8,2,3]", 4, "x, w"),
           ("bthk,hkd->btd", "float[2,5,2,4]", "float[2,4,6]", 3, "x, w"),
           ("oc,bct->bot", "float[2,8,5]", "float[6,8]", 3, "w, x"),
           ("bcij,cd->djib", "float[2,8,3,5]", "float[8,6]", 4, "x, w"),
           ("i,ji->j", "float[8]", "float[6,8]", 1, "x, w"),
           ("bhi,ih->b", "float[2,3,4]", "float[4,3]", 1, "x, w")]},
    "one matrix in a batch": model(f"g ({ROWS}) => (float[a,b,c,d] y) <float[1,1,8,6] w> {{ y = MatMul(x, w) }}"),
    "equal matrices in a batch": model(f"g ({ROWS}) => (float[a,b,c] y) <float[2,8,6] w> {{ y = MatMul(x, w) }}",
                                       w=np.stack([np.eye(8, 6)] * 2)),
    "matrices that share rows": model("g (float[1,5,8] x) => (float[a,b,c] y) <float[3,8,6] w> { y = MatMul(x, w) }"),
    "sparse matrices with rows each": model(
        "g (float[2,3,5,8] x) => (float[a,b,c,d] y) <float[3,8,6] w> { y = MatMul(x, w) }",
        w=[np.eye(8, 6, k) for k in range(3)]),
}

OTHERS = {
    "einsum of equal indices": model(
        'g (float[2,8] x) => (float[a,b,c] y) <float[8,8] w>'
        '{ e = Einsum<equation="bi,ii->bi">(x, w) y = Einsum<equation="bi,ij->bij">(e, w) }'),
    "matrices and rows that broadcast": model("g (float[2,1,5,8] x) => (float[a,b,c,d] y) <float[3,8,6] w>"
                                              "{ y = MatMul(x, w) }"),
    "many columns from the left": model("g (float[2,8,33] x, float[2,6,33] z) => (float[a,b,c] y) <float[6,8] w>"
                                        "{ p = MatMul(w, x) a = Add(p, z) y = Relu(a) }"),
    "residual block": conv("float[6,6,1,1] w2, float[6] b2, float[6,4,1,1] w3",
                           "r = Relu(c) d = Conv(r, w2, b2) e = Conv(x, w3) s = Add(d, e) y = Relu(s)"),
    "batch norms": conv(BN, "b = BatchNormalization(c, gamma, beta, mean, var) a = Relu(b)"
                            "y = BatchNormalization<epsilon=0.1>(a, gamma, beta, mean, var)"),
    "batch norm behind gemm": model(
        f"g (float[5,8] x) => (float[n,m] y) <float[6,8] weight, float[6] bias, {BN}>"
        "{ h = Gemm<transB=1, alpha=0.5, beta=2.0>(x, weight, bias)"
        "y = BatchNormalization(h, gamma, beta, mean, var) }", 15),
    "shared weight": conv(BN, "b = BatchNormalization(c, gamma, beta, mean, var) e = Conv<pads=[1,1,1,1]>(x, weight)"
                              "y = Add(b, e)"),
    "transposed convolution": conv(f"float[6,6,2,2] up, {BN}",
                                   "t = ConvTranspose<strides=[2,2]>(c, up) "
                                   "y = BatchNormalization(t, gamma, beta, mean, var)"),
    "scale and shift": conv("float[6,1,1] k, float[1,6,1,1] l, float one",
                            "a = Mul(c, k) b = Sub(l, a) d = Div(b, k) e = Sub(d, one) y = Add(e, one)"),
    "scale and shift behind relu": conv("float varied, float t", "r = Relu(c) m = Mul(r, varied) y = Add(t, m)"),
    "silu of one layer times another": activation(
        "s = Sigmoid(h) m = Mul(h, s) u = MatMul(x, other) y = Mul(m, u)", weights="float[8,6] other"),
    "relu of one layer times another": activation(
        "u = MatMul(x, other) r = Relu(h) y = Mul(r, u)", weights="float[8,6] other"),
    "relu of one image times another": conv(
        "float[6,4,1,1] other", "u = Conv(x, other) r = Relu(c) y = Mul(u, r)"),
    "subtraction of a clip": conv("float floor, float varied, float shift",
                                  "r = Clip(c, floor, varied) d = Mul(r, varied) y = Sub(shift, d)"),
    "product from the left": model(
        "g (float[2,8,5] x) => (float[n,m,k] y) <float[6,8] w, float[6,1] b, float[1,6,1] k>"
        "{ p = MatMul(w, x) s = Mul(p, k) a = Add(b, s) y = Relu(a) }"),
    "sum, dropout, identity": conv("float r", "d = Dropout(c) s = Sum(c, d, c) i = Identity(s) y = Sum(i)"),
    "concat and pooling": conv("float[6,4,1,1] w2", "e = Conv(x, w2) k = Concat<axis=1>(c, e) r = Relu(k)"
                                                    "p = MaxPool<kernel_shape=[2,2]>(r) y = GlobalAveragePool(p)"),
    "concat and batch norm": conv(
        "float[2,4,1,1] w2, float[8] gamma, float[8] beta, float[8] mean, float[8] var",
        "e = Conv(x, w2) k = Concat<axis=1>(c, e) n = BatchNormalization(k, gamma, beta, mean, var) y = Relu(n)"),
    "output in the middle": model("g (float[5,8] x) => (float[5,6] h, float[5,6] y) <float[8,6] weight>"
                                  "{ h = MatMul(x, weight) y = Relu(h) }"),
    "used twice": linear("float[5,6] other", "y0 = Add(p, p) y1 = Add(y0, bias) z = Relu(y1) y2 = Mul(z, y1)"
                                             "y = Add(y2, other)"),
    "constant output": model("g (float[2] x) => (float[2] y, float[3] z) <float[3] w> { y = Relu(x) z = Relu(w) }"),
    "input as output": model("g (float[2] x) => (float[2] y) { y = Identity(x) }"),
}

GRAPHS = {
    **{f"activation {name}": proto for name, (_, proto) in ACTIVATIONS.items()},
    **{f"norm {name}": proto for name, proto in NORMS.items()},
    **{f"attention {name}": proto for name, proto in ATTENTIONS.items()},
    **{f"product {name}": proto for name, proto in PRODUCTS.items()},
    **OTHERS,
}
