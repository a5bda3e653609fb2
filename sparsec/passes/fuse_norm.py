"""Layer normalisation written out becomes LayerNormalization, over the last axis, with constant scale and bias.

    d = x - mean(x);   d / sqrt(mean(d^2) + epsilon) * scale [+ bias]

The square may be Pow or Mul, and the division a multiplication by Reciprocal.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.constants import constant, scalar
from sparsec.graph.nodes import node_name
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report

SINCE = 17


def run(model: ir.Model, _context: Context) -> Report:
    """Replaces every written-out layer normalisation, in place."""
    fused, notes = 0, []
    opset = model.graph.opset_imports[""]
    for node in list(model.graph):
        if node.domain or node.op_type != "Mul":
            continue
        for normalised, scale in (node.inputs, node.inputs[::-1]):
            found = _normalised(normalised)
            if found is None or not _is_vector(scale, found[0]):
                continue
            if opset < SINCE:
                text = f"stays written out: opset {opset} has no LayerNormalization"
                notes.append(Note(node_name(node), text))
            else:
                _replace(node, *found, scale)
                fused += 1
            break
    rewrite.clean(model)
    return Report("fuse_norm", bool(fused), {"LayerNormalization": fused} if fused else {}, tuple(notes))


def _producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard node of one of these types that computes the value."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def _is_vector(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether the value is a constant along the last axis of x."""
    shape, array = static_shape(x), constant(value)
    return array is not None and bool(shape) and array.shape == shape[-1:]  # type: ignore[index]  # bool(shape)


def _normalised(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """The x and epsilon of a value (x - mean) / sqrt(variance + epsilon)."""
    quotient = _producer(value, "Div", "Mul")
    if quotient is None:
        return None
    deviation, divisor = quotient.inputs
    if quotient.op_type == "Mul":
        reciprocal = _producer(divisor, "Reciprocal") or _producer(deviation, "Reciprocal")
        if reciprocal is None:
            return None
        deviation = quotient.inputs[0] if divisor is reciprocal.outputs[0] else divisor
        divisor = reciprocal.inputs[0]
    root, centre = _producer(divisor, "Sqrt"), _producer(deviation, "Sub")
    shifted = _producer(root.inputs[0], "Add") if root is not None else None
    if centre is None or shifted is None:
        return None
    x, mean = centre.inputs
    for variance, epsilon in (shifted.inputs, shifted.inputs[::-1]):
        number = scalar(epsilon)
        if number is not None and x is not None and _mean_of(mean) is x and _is_square(_mean_of(variance), deviation):
            return x, number
    return None


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """The v of a mean of v over its last axis, kept as a dimension of 1."""
    node = _producer(value, "ReduceMean")
    if node is None or not node.attributes.get_int("keepdims", 1):
        return None
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes")
    rank = len(static_shape(node.inputs[0]) or ())
    return node.inputs[0] if axes is not None and [axis % rank for axis in axes] == [rank - 1] else None


def _is_square(value: ir.Value | None, base: ir.Value | None) -> bool:
    node = _producer(value, "Mul", "Pow")
    if node is None or node.inputs[0] is not base:
        return False
    return node.inputs[1] is base if node.op_type == "Mul" else scalar(node.inputs[1]) == 2.0


def _replace(mul: ir.Node, x: ir.Value, epsilon: float, scale: ir.Value | None) -> None:
    """Puts LayerNormalization in the place of the scaling, and of an addition of a bias behind it."""
    target, inputs = mul.outputs[0], [x, scale]
    add = rewrite.only_use(target)
    if add is not None and add.op_type == "Add" and add.domain == "":
        bias = add.inputs[1] if add.inputs[0] is target else add.inputs[0]
        if _is_vector(bias, x):
            target, inputs = add.outputs[0], [x, scale, bias]
    node = ir.node("LayerNormalization", inputs, {"axis": -1, "epsilon": epsilon}, name=node_name(mul))
    mul.prepend(node)
    rewrite.take_over(node.outputs[0], target)
