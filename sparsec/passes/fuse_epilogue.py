"""What follows a `sparsec::Conv` or `sparsec::MatMul` moves into it: activation(conv(X, W) + B + R).

As long as nothing else reads the value in between: additions, multiplications and BatchNorms by constants along the
output channels (into W and B), one addition of a tensor of the same shape (R), and last one activation; or, where the
target has kernels for it, no addition and behind the activation one product with such a tensor. A scale and an
offset that are the same for all channels may follow one that clips: a clip(y, low, high) + d for a > 0 is
clip(a y + d, a low + d, a high + d). An activation behind moves of all numbers comes in front of them for it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from sparsec.graph import operators
from sparsec.graph.activations import ACTIVATIONS, Activation
from sparsec.graph.constants import add_constant, add_derived, constant, constant_shape
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.operators.products import FLOAT_BIAS, SCALE
from sparsec.graph.operators.products import RESIDUAL as R
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Report

PLACES = {"Conv": (1, 2, 3), "MatMul": (1, 2, 3), "QConv": (SCALE, FLOAT_BIAS, R), "QMatMul": (SCALE, FLOAT_BIAS, R)}
"""By operator the input positions of what scales its outputs, of the bias and of the residual."""

FLOATS = ("Conv", "MatMul")
"""Operators whose residual may multiply."""

MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that give the same numbers other places."""


def run(model: ir.Model, context: Context) -> Report:
    """Fuses epilogues, in place."""
    counts: Counter[str] = Counter()
    for node in list(model.graph):
        if node.domain == operators.DOMAIN and node.op_type in PLACES and node.outputs[0].dtype == ir.DataType.FLOAT:
            while absorbed := _absorb(node) or (_product(node) if context.target.lanes else None):
                counts[absorbed] += 1
    rewrite.clean(model)
    return Report("fuse_epilogue", bool(counts), counts)


def _absorb(node: ir.Node) -> str | None:
    """Takes one more step into the node and says which, or None if the next step is not one of its epilogue."""
    activation = node.attributes.get_string("activation", "none")
    user = rewrite.only_use(node.outputs[0])
    if node.attributes.get_int("multiplies", 0):
        return None
    if activation != "none":
        return _affine_behind(node, user) if activation in CLIPS and user is not None and not user.domain else None
    if user is None:
        return _silu(node)
    if user.domain:
        return None
    return _affine(node, user) or _residual(node, user) or _activation(node, _in_front_of_moves(node, user))


def _in_front_of_moves(node: ir.Node, user: ir.Node) -> ir.Node:
    """The activation that moves of the layer's numbers stand in front of, now behind the layer; else the reader."""
    last: ir.Node | None = user
    while last is not None and not last.domain and last.op_type in MOVES:
        last = rewrite.only_use(last.outputs[0])
    known = None if last is None or last.domain or last is user else ACTIVATIONS.get(last.op_type)
    if last is None or known is None or known(last) is None or user.inputs[0] is not node.outputs[0]:
        return user
    own, moved, old = node.outputs[0], operand(last, 0), last.outputs[0]
    made = ir.Node("", last.op_type, [own, *last.inputs[1:]], list(last.attributes.values()), num_outputs=1)
    user.prepend(made)
    made.outputs[0].type, made.outputs[0].shape = own.type, own.shape
    user.replace_input_with(0, made.outputs[0])
    rewrite.take_over(moved, old)
    assert last.graph is not None
    last.graph.remove(last, safe=True)
    return made


def _set_input(node: ir.Node, index: int, value: ir.Value) -> None:
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _become(node: ir.Node, last: ir.Node) -> None:
    """Lets the node stand where `last`, the end of what it has absorbed, stood."""
    assert node.graph is not None
    graph = node.graph
    graph.remove(node)
    last.prepend(node)
    rewrite.take_over(node.outputs[0], last.outputs[0])
    graph.remove(last, safe=True)


def _affine(node: ir.Node, user: ir.Node) -> str | None:
    """Takes scale * y + offset, by constants along the output channels, into W and B."""
    found = _scale_and_offset(node, user)
    return None if found is None else _scaled(node, user, *found)


CLIPS = ("relu", "clip")
"""Activations that are bounds, which scales and offsets move."""


def _affine_behind(node: ir.Node, user: ir.Node) -> str | None:
    """Takes scale * clip(y) + offset, by one number each, into W, B and the bounds."""
    found = _scale_and_offset(node, user)
    if found is None or any(array.min() != array.max() for array in found) or not found[0].all():
        return None
    scale, offset = (float(array.reshape(-1)[0]) for array in found)
    relu = node.attributes.get_string("activation") == "relu"
    low, high = (0.0, np.inf) if relu else (node.attributes.get_float(name, 0.0) for name in ("alpha", "beta"))
    least, most = sorted((scale * low + offset, scale * high + offset))
    kind = _scaled(node, user, *found)
    if kind is not None and ((least, most) != (0.0, np.inf) or not relu):
        _set_attributes(node, ("clip", float(least), float(most)))
    return kind


def _scale_and_offset(node: ir.Node, user: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """By output channel what a node's output is multiplied with and what is added to it."""
    shape = static_shape(node.outputs[0])
    if shape is None or static_shape(user.outputs[0]) != shape:
        return None
    left = node.attributes.get_string("side") == "left"
    axis = 1 if node.op_type.endswith("Conv") else len(shape) - (2 if left else 1)
    if user.op_type == "BatchNormalization":
        found = rewrite.batch_norm(user) if axis == 1 else None
    else:
        found = _arithmetic(node, user, shape, axis)
    return found if found is not None and np.isfinite(found).all() else None


def _scaled(node: ir.Node, user: ir.Node, scale: np.ndarray, offset: np.ndarray) -> str | None:
    """Takes a scale and an offset by output channel."""
    assert node.graph is not None
    scaling, bias_at, residual_at = PLACES[node.op_type]
    weight = constant_shape(node.inputs[scaling])
    bias = constant(optional(node, bias_at))
    scaled = bool((scale != 1).any())
    if weight is None or (bias is None and optional(node, bias_at) is not None) or (
            scaled and optional(node, residual_at) is not None):
        return None
    name = node_name(node)
    if scaled:
        factors = scale.astype(np.float32).reshape(-1, *[1] * (len(weight) - 1))
        _set_input(node, scaling, add_derived(node.graph, f"{name}.weight", operand(node, scaling),
                                              lambda array: array * factors, weight))
    total = offset if bias is None else bias * scale + offset
    _set_input(node, bias_at, add_constant(node.graph, f"{name}.bias", total.astype(np.float32)))
    kind = user.op_type
    _become(node, user)
    return kind


def _arithmetic(node: ir.Node, user: ir.Node, shape: tuple[int, ...],
                axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and offset of Add, Sub, Mul or Div by a constant that varies along one axis at most."""
    if user.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    first = user.inputs[0] is node.outputs[0]
    array = constant(user.inputs[1 if first else 0])
    if array is None or any(dim != 1 for i, dim in enumerate(array.shape[::-1]) if len(shape) - 1 - i != axis):
        return None
    c = np.broadcast_to(array.reshape(-1).astype(np.float64), (shape[axis],))
    one, zero = np.ones_like(c), np.zeros_like(c)
    if user.op_type == "Div":
        return (1 / c, zero) if first and (c != 0).all() else None
    return {"Add": (one, c), "Sub": (one, -c) if first else (-one, c), "Mul": (c, zero)}[user.op_type]


def _residual(node: ir.Node, user: ir.Node) -> str | None:
    """Takes y + R for a tensor R of y's shape; the node moves behind whatever computes R."""
    place = PLACES[node.op_type][2]
    if user.op_type != "Add" or optional(node, place) is not None:
        return None
    other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    if other is None or static_shape(other) is None or static_shape(other) != static_shape(node.outputs[0]):
        return None
    _set_input(node, place, other)
    _become(node, user)
    return "residual"


def _product(node: ir.Node) -> str | None:
    """Takes y * R for a computed tensor R of y's shape, behind the activation."""
    user, residual = rewrite.only_use(node.outputs[0]), PLACES[node.op_type][2]
    if user is None or user.domain or user.op_type != "Mul" or node.op_type not in FLOATS or \
            optional(node, residual) is not None:
        return None
    other = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    shape = static_shape(node.outputs[0])
    if other is None or other.const_value is not None or shape is None or static_shape(other) != shape:
        return None
    _set_input(node, residual, other)
    node.attributes.add(ir.AttrInt64("multiplies", 1))
    _become(node, user)
    return "product"


def _activation(node: ir.Node, user: ir.Node) -> str | None:
    read = ACTIVATIONS.get(user.op_type)
    found = read(user) if read is not None else None
    return None if found is None else _set_activation(node, user, found)


def _silu(node: ir.Node) -> str | None:
    """Takes y * sigmoid(y)."""
    found = rewrite.silu(node.outputs[0])
    return None if found is None else _set_activation(node, found[0], ("silu", 0.0, 0.0), found[1])


def _set_activation(node: ir.Node, last: ir.Node, activation: Activation, *inner: ir.Node) -> str:
    assert node.graph is not None
    graph = node.graph
    _set_attributes(node, activation)
    _become(node, last)
    graph.remove(inner, safe=True)
    return activation[0]


def _set_attributes(node: ir.Node, activation: Activation) -> None:
    name, alpha, beta = activation
    for attribute in ir.convenience.convert_attributes({"activation": name, "alpha": alpha, "beta": beta}):
        node.attributes.add(attribute)
