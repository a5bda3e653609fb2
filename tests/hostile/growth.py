"""Small models that ask for much: nodes, functions, sparse tensors, constants, sizes and times without end."""

import itertools
import re

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile import mutate
from tests.hostile.corpus import models
from tests.support.texts import model

SIZES = (1, 2, 7, 33, 500)
LARGE = (1, 3, 1 << 10, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 62) - 1)


def wide(kind, inputs, name):
    """An operator of many inputs under a name."""
    node = helper.make_node(kind, ["x"] * inputs, ["y"], name=name, **({"axis": 0} if kind == "Concat" else {}))
    return graph([node], [2 * inputs if kind == "Concat" else 2, 4]).SerializeToString()


def graph(nodes, output, constants=()):
    """A model of `x`, 2 by 4, to `y`."""
    made = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
                             [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
                             [numpy_helper.from_array(np.asarray(value), name) for name, value in
                              dict(constants).items()])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(kind, length, **attributes):
    """An operator of one input, or of the same input twice, again and again."""
    names = ["x", *(f"v{number}" for number in range(length - 1)), "y"]
    twice = 1 if kind in ("Relu", "Softmax") else 2
    return graph([helper.make_node(kind, [a] * twice, [b], **attributes) for a, b in itertools.pairwise(names)],
                 [2 << length if kind == "Concat" and length < 60 else 2, 4]).SerializeToString()


def split(parts):
    """As many parts of nothing."""
    sizes = {"sizes": np.array([2] + [0] * parts)}
    nodes = [helper.make_node("Split", ["x", "sizes"], ["y", *(f"p{part}" for part in range(parts))], axis=0)]
    return graph(nodes, [2, 4], sizes).SerializeToString()


def nested(depth, kind):
    """Ifs or Loops in one another."""
    inner = [helper.make_node("Relu", ["x"], [f"o{depth}"])]
    for level in reversed(range(depth)):
        made = [helper.make_tensor_value_info(f"o{level + 1}", TensorProto.FLOAT, [2, 4])]
        if kind == "If":
            body = helper.make_graph(inner, f"b{level}", [], made)
            other = helper.make_graph([helper.make_node("Neg", ["x"], [f"e{level}"])], f"c{level}", [],
                                      [helper.make_tensor_value_info(f"e{level}", TensorProto.FLOAT, [2, 4])])
            inner = [helper.make_node("If", ["c"], [f"o{level}"], then_branch=body, else_branch=other)]
        else:
            state = f"s{level}"
            going = [helper.make_node("Identity", [f"in{level}"], [f"go{level}"]), *inner]
            body = helper.make_graph(going, f"b{level}", [
                helper.make_tensor_value_info(f"i{level}", TensorProto.INT64, []),
                helper.make_tensor_value_info(f"in{level}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(state, TensorProto.FLOAT, [2, 4])],
                [helper.make_tensor_value_info(f"go{level}", TensorProto.BOOL, []), *made])
            inner = [helper.make_node("Loop", ["n", "c", "x"], [f"o{level}"], body=body)]
    return graph([*inner, helper.make_node("Identity", ["o0"], ["y"])], [2, 4],
                 {"c": np.array(True), "n": np.array(3)}).SerializeToString()


TEXTS = {  # what grows with SIZE at run time, or while constants are computed
    # not by halves, which onnxruntime rounds with a tolerance that ONNX does not have
    "resize": 'y = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">'
              '(x, , scales)',
    "pad": "y = Pad(x, pads)", "tile": "y = Tile(x, times)",
    "expand": "m = Expand(one, to) q = ReduceMax<keepdims=0>(m) y = Add(x, q)", "scatter": "y = Expand(x, deep)",
    "one hot": "i = Cast<to=7>(x) y = OneHot<axis=-1>(i, depth, two)",
    "range": "i = ReduceMax<keepdims=0>(x) y = Range(zero, real, i)",
    "outer": 'y = Einsum<equation="ab,cd,ef,gh->abcdefgh">(x, x, x, x)',
    "loop": "y = Loop(count, yes, x) <body = b (int64 i, bool go, float[2,4] s) => (bool more, float[2,4] t)"
            "{ more = Identity(go) t = Relu(s) }>",
    "constant loop": "l = Loop(count, yes, one) <body = b (int64 i, bool go, float s) => (bool more, float t)"
                     "{ more = Identity(go) t = Relu(s) }> y = Add(x, l)",
    "scans": "f, l = Loop(count, yes, one) <body = b (int64 i, bool go, float s) => (bool more, float t, float u)"
             "{ more = Identity(go) t = Relu(s) u = Relu(s) }> y = Add(x, f)",
    "constant product": "m = Expand(one, to) q = MatMul(m, m) r = ReduceMax<keepdims=0>(q) y = Add(x, r)",
    "constant sort": "m = Expand(one, to) s = Reshape(m, flat) q, u = TopK<axis=0>(s, few)"
                     " r = ReduceMax<keepdims=0>(q) y = Add(x, r)",
    "eye": "m = Expand(one, to) q = EyeLike(m) r = ReduceMax<keepdims=0>(q) y = Add(x, r)",
    "window": "h = HannWindow(count) r = ReduceMax<keepdims=0>(h) y = Add(x, r)",
    "random": "h = RandomUniform<shape=[SIZE, SIZE]>() r = ReduceMax<keepdims=0>(h) y = Add(x, r)",
    "transposed": "f = Unsqueeze(x, first) y = ConvTranspose<strides=[SIZE]>(f, w)",
    "pooling": "f = Unsqueeze(x, first) y = AveragePool<kernel_shape=[SIZE], ceil_mode=1>(f)",
    "padded convolution": "f = Unsqueeze(x, first) y = Conv<pads=[SIZE, SIZE]>(f, w)",
    "recurrent": "f = Expand(x, steps) y = RNN<hidden_size=4>(f, wi, wr)",
    "cumulative": "m = Expand(one, to) s = CumSum(m, axis) r = ReduceMax<keepdims=0>(s) y = Add(x, r)",
    "found": "m = Expand(one, to) z = NonZero(m) r = Cast<to=1>(z) q = ReduceMax<keepdims=0>(r) y = Add(x, q)",
    "gathered": "z = ConstantOfShape<value = int64[1] {0}>(to) y = Gather(x, z)",
}


def of_text(kind, n):
    """A model of `TEXTS` with a size of n."""
    text, short = TEXTS[kind].replace("SIZE", str(n)), min(n, 1 << 20)
    vectors = {"scales": ("float", [1.0, float(n)]), "pads": ("int64", [0, 0, 0, n]), "times": ("int64", [1, n]),
               "to": ("int64", [short, short]), "depth": ("int64", [n]), "two": ("float", [0.0, 1.0]),
               "few": ("int64", [min(n, 5)]), "steps": ("int64", [short, 2, 4]), "first": ("int64", [0]),
               "flat": ("int64", [-1]), "deep": ("int64", [n, 2, 4])}
    scalars = {"count": ("int64", n), "real": ("float", float(n)), "zero": ("float", 0.0), "one": ("float", 1.0),
               "yes": ("bool", 1), "axis": ("int64", 0)}
    weights = {"w": "2, 2, 3", "wi": "1, 4, 4", "wr": "1, 4, 4"}
    used = set(re.split(r"\W+", text))
    lines = [f"{dtype}[{len(values)}] {name} = {{{', '.join(map(str, values))}}}"
             for name, (dtype, values) in vectors.items() if name in used]
    lines += [f"{dtype} {name} = {{{value}}}" for name, (dtype, value) in scalars.items() if name in used]
    lines += [f"float[{shape}] {name}" for name, shape in weights.items() if name in used]
    return model(f"g (float[2, 4] x) => (float[] y) <{', '.join(lines)}> {{ {text} }}")


def undeclared(proto):
    """The model, whose outputs have whatever shape they have."""
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto.SerializeToString()


def mutant(rng, _seeds):
    """One of all of them."""
    size, name = rng.choice(SIZES), rng.choice(mutate.NAMES)
    return rng.choice([
        lambda: models.calls(rng.randint(1, 40)), lambda: models.many_sparse(size), lambda: models.chain(10 * size),
        lambda: models.expanding(rng.choice(list(models.EXPANDING))), lambda: models.renamed(name),
        lambda: wide(rng.choice(["Max", "Min", "Sum", "Mean", "Concat"]), size, name),
        lambda: chain("Concat", rng.choice([3, 20, 40, 61]), axis=0), lambda: chain("Add", size),
        lambda: chain("Softmax", min(size, 33)), lambda: split(min(size, 33)),
        lambda: nested(rng.choice([1, 3, 8, 15]), rng.choice(["If", "Loop"])),
        *[lambda: undeclared(of_text(rng.choice(list(TEXTS)), rng.choice(LARGE)))] * 10])()


def seeds():
    """None: it makes every one."""
    return []


def proto(path):
    """What a case's file holds, for looking at."""
    return onnx.load_from_string(path.read_bytes())
