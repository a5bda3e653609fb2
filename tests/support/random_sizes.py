"""Random networks over (batch, tokens, features) whose first two dimensions are symbols, as exporters write them."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8


class Sized:
    """A graph under construction: `values` are (name, features) of shape (batch, tokens, features)."""

    def __init__(self, rng):
        self.rng, self.nodes, self.constants, self.values = rng, [], [], [("x", WIDTH), ("z", WIDTH)]

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, kind, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, *shape):
        weight = self.rng.standard_normal(shape) * (self.rng.random(shape) < 0.6)
        return self.constant(weight.astype(np.float32))

    def pick(self):
        return self.values[self.rng.integers(max(0, len(self.values) - 3), len(self.values))]


def linear(g, x, width):
    out = int(g.rng.choice([4, 8, 24]))
    product = g.node("MatMul", x, g.weight(width, out))
    return g.node("Add", product, g.weight(out)), out


def unary(g, x, width):
    return g.node(str(g.rng.choice(["Relu", "Tanh", "Sigmoid", "Neg", "Abs"])), x), width


def residual(g, x, width):
    same = [name for name, other in g.values if other == width]
    return g.node(str(g.rng.choice(["Add", "Mul", "Sub", "Max"])), x, str(g.rng.choice(same))), width


def norm(g, x, width):
    return g.node("LayerNormalization", x, g.weight(width), g.weight(width), axis=-1), width


def softmax(g, x, width):
    return g.node("Softmax", x, axis=-1), width


def across_tokens(g, x, width):
    return g.node("Sub", x, g.node("ReduceMean", x, axes=[1])), width


def positions(g, x, width):
    tokens = g.node("Gather", g.node("Shape", x), g.constant(1))
    steps = g.node("Cast", g.node("Range", g.constant(0), tokens, g.constant(1)), to=TensorProto.FLOAT)
    return g.node("Add", x, g.node("Unsqueeze", steps, g.constant([1]))), width


def reshaped(g, x, width):
    lead = g.node("Slice", g.node("Shape", x), g.constant([0]), g.constant([2]))
    wide = g.node("Concat", lead, g.constant([2, width // 2]), axis=0)
    turned = g.node("Transpose", g.node("Reshape", x, wide), perm=[0, 1, 3, 2])
    return g.node("Reshape", turned, g.constant([0, 0, width])), width


def attention(g, x, width):
    lead = g.node("Slice", g.node("Shape", x), g.constant([0]), g.constant([2]))
    split = g.node("Concat", lead, g.constant([2, 4]), axis=0)
    q, k, v = (g.node("Transpose", g.node("Reshape", g.node("MatMul", x, g.weight(width, 8)), split), perm=[0, 2, 1, 3])
               for _ in range(3))
    scores = g.node("Mul", g.node("MatMul", q, g.node("Transpose", k, perm=[0, 1, 3, 2])), g.constant(np.float32(0.5)))
    mixed = g.node("MatMul", g.node("Softmax", scores, axis=-1), v)
    return g.node("Reshape", g.node("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([0, 0, 8])), 8


def joined(g, x, width):
    other, more = g.pick()
    return g.node("Concat", x, other, axis=-1), width + more


def longer(g, x, width):
    doubled = g.node("Concat", x, x, axis=1)
    return g.node("Slice", doubled, g.constant([1]), g.node("Add", g.node(
        "Slice", g.node("Shape", x), g.constant([1]), g.constant([2])), g.constant([1])), g.constant([1])), width


STEPS = (linear, linear, linear, unary, residual, norm, softmax, across_tokens, positions, reshaped, attention, joined,
         longer)


def network(seed, steps=9):
    """A model of inputs x and z (batch, tokens, WIDTH), with an output by tokens and one by batch."""
    g = Sized(np.random.default_rng(seed))
    for _ in range(steps):
        x, width = g.pick()
        g.values.append(g.rng.choice(STEPS)(g, x, width))
    last, _ = g.values[-1]
    outputs = last, g.node("Gather", last, g.constant(0), axis=1)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes, f"sized{seed}", [info(name, TensorProto.FLOAT, ["batch", "tokens", WIDTH]) for name in ("x", "z")],
        [info(name, TensorProto.FLOAT, None) for name in outputs], g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
