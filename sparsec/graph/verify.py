"""Shape inference and validity of a graph of standard and `sparsec` operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ShapeInferencePass

from sparsec.errors import ModelError, ShapeError, counted
from sparsec.graph import operators, scales
from sparsec.graph.ceilings import drop_late_windows
from sparsec.graph.constants import constant
from sparsec.graph.faults import plain
from sparsec.graph.guards import ALWAYS, guards
from sparsec.graph.limits import MOST_ELEMENTS
from sparsec.graph.quiet import quiet
from sparsec.graph.shapes import BROADCAST, Declared, static_shape

SAME_SHAPE = {"Abs", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Erf", "Exp", "Floor", "GroupNormalization", "Identity",
              "Log", "MeanVarianceNormalization", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sin",
              "Softmax", "Sqrt", "Tanh"}
"""Operators whose output has the shape of their first input."""

ALONG_AXIS = {"Hardmax", "LogSoftmax", "LpNormalization", "Softmax"}
"""Operators along an axis that ONNX's inference does not look at."""

WEIGHT_POSITIONS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "DeformConv": 1, "QLinearConv": 3}
"""The input that holds a convolution's weight."""

WINDOW = ("kernel_shape", "strides", "dilations", "pads")
"""Attributes that say where windows lie."""


def infer(model: ir.Model, where: str, declared: Declared | None = None) -> None:
    """Infers the type and shape of every value it can, in place.

    `declared` serves where ONNX has no inference (other domains), may fail (operators that are functions), or leaves
    dimensions open because they depend on values: these get the sizes that the shapes declared behind them imply, where
    all inputs have sizes. Otherwise a number in their place may be that of the example which the file was exported for.

    Raises:
        ModelError: nodes do not fit together; says which.

    """
    infer_leniently = ShapeInferencePass(strict_mode=False)
    with quiet():
        infer_leniently(model)
        while drop_late_windows(model) or _carry_over(model):
            infer_leniently(model)
        lost = [(node, value) for node in model.graph.all_nodes() for value in node.outputs if value.shape is None]
        bound = all(static_shape(value) is not None for value in model.graph.inputs)
        known = {value: shape for value, shape in (declared or {}).items()
                 if value.shape is None or (bound and _fills_in(shape, value.shape))}
        if known:
            _substitute(model, known)
            infer_leniently(model)
    if any(value.shape is None or not _may_fail(node, model.graph.opset_imports) for node, value in lost):
        _check_by_onnx(model, where, strictly=True)


def _carry_over(model: ir.Model) -> bool:
    """Give outputs the shape of their input where ONNX, which defines no inference for the operator, left it open."""
    found = False
    for node in model.graph.all_nodes():
        x, y = node.inputs[0] if node.inputs else None, node.outputs[0] if node.outputs else None
        if (node.op_type in SAME_SHAPE and node.domain == "" and x is not None and y is not None
                and y.shape is None and x.shape is not None):
            y.shape, y.type, found = x.shape, y.type or x.type, True
    return found


def _fills_in(declared: ir.Shape, inferred: ir.Shape) -> bool:
    """Whether a declared shape says more than the inferred one, and nothing else."""
    return declared.is_static() and len(declared) == len(inferred) and not inferred.is_static() and all(
        new == old for new, old in zip(declared, inferred, strict=True) if isinstance(old, int))


def _substitute(model: ir.Model, known: Declared) -> None:
    """Puts in the known shapes, and what follows from them: sizes of symbols, and inputs of the same shape."""
    symbols: dict[str | None, int | ir.SymbolicDim] = {
        dim.value: size for value, shape in known.items() for dim, size in zip(value.shape or (), shape, strict=False)
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([dim if isinstance(dim, int) else symbols.get(dim.value, dim)
                                        for dim in value.shape])
    for value, shape in known.items():
        value.shape = shape
    for node in reversed(list(model.graph.all_nodes())):
        x = node.inputs[0] if node.op_type in SAME_SHAPE and node.domain == "" else None
        if x is not None and x.shape is None and static_shape(node.outputs[0]) is not None:
            x.shape = node.outputs[0].shape


def _may_fail(node: ir.Node, opsets: Mapping[str, int]) -> bool:
    """Whether ONNX infers the node's shape through its definition as a function, or not at all."""
    if node.domain or not onnx.defs.has(node.op_type, opsets[""]):
        return True
    schema: Any = onnx.defs.get_schema(node.op_type, opsets[""])  # its stubs lack the attributes
    return bool(schema.has_function or schema.has_context_dependent_function)


def check(model: ir.Model, where: str) -> None:
    """Checks the graph against ONNX's rules and the nodes of `sparsec` against their schemas and shapes.

    Raises:
        ModelError: the graph is not valid; says where and why.
        ShapeError: elements of a node's inputs do not meet: the sizes are not those that the network was made for.

    """
    _check_by_onnx(model, where, strictly=False)
    always = {node for node, guard in guards(model.graph).items() if guard == ALWAYS}
    for node in model.graph.all_nodes():
        try:
            if node in always:  # a branch that is never taken may have sizes that make no sense
                _check_sizes(node)
            if node.domain == operators.DOMAIN:
                _check_shapes(node)
            elif node.domain == "" and node.op_type in _CHECKS:
                _CHECKS[node.op_type](node)
            if (node.domain, node.op_type) in scales.CHECKS:
                scales.CHECKS[node.domain, node.op_type](node)
        except ValueError as error:
            raise ModelError(f"{where}: node '{node.name}' ({node.op_type}): {error}") from error


def _check_by_onnx(model: ir.Model, where: str, *, strictly: bool) -> None:
    """Strictly, it is an error where shape inference fails, as it does for a few valid operators of ONNX."""
    try:
        with quiet():
            CheckerPass(full_check=strictly)(model)
    except Exception as error:  # the checker's errors have no common base
        reason = plain(" ".join(str(error.__cause__ or error).split()))
        if "declared" in reason and (name := _misdeclared(model)):
            reason = f"{name} has another shape than is declared for it"
        raise ModelError(f"{where}: not a valid ONNX graph: {reason}") from error


def _misdeclared(model: ir.Model) -> str:
    """The tensor whose shape is not the declared one; empty where there is none."""
    wrong = [name for name, value in model.graph.initializers.items()
             if value.const_value is not None and value.shape is not None
             and tuple(value.shape) != tuple(value.const_value.shape)]
    return f"tensor '{wrong[0]}'" if wrong else ""


def _check_groups(node: ir.Node) -> None:
    """Raises ValueError if a convolution's channels do not divide into its groups, which ONNX's checker lets pass."""
    x, w = static_shape(node.inputs[0]), static_shape(node.inputs[WEIGHT_POSITIONS[node.op_type]])
    group = node.attributes.get_int("group", 1) or 0
    if x is None or w is None:
        return
    channels = w[0] if node.op_type == "ConvTranspose" else w[1] * group
    if group < 1 or w[0] % group or x[1] != channels:
        raise ValueError(f"its input has {x[1]} channels and its weight the shape {w}, which do not divide into "
                         f"{counted(group, 'group')}")


def _check_broadcast(node: ir.Node) -> None:
    """Raises ShapeError if inputs do not broadcast; shape inference lets pass what only contents told it."""
    shapes = [shape for value in node.inputs if (shape := static_shape(value)) is not None]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError as error:
        told = " and ".join(map(str, shapes))
        raise ShapeError(f"the sizes of the inputs do not fit the network: at node '{node.name}' ({node.op_type}) "
                         f"tensors of shapes {told} meet; give others, such as those that a table of positions has"
                         ) from error


def _check_sizes(node: ir.Node) -> None:
    """Raises ValueError if sizes make no sense: negative, too large for a tensor, or others than a Reshape takes."""
    for value in node.outputs:
        shape = static_shape(value) or ()
        if min(shape, default=0) < 0:
            raise ValueError(f"its output would have the shape {shape}")
        if math.prod(shape) > MOST_ELEMENTS:
            raise ValueError(f"its output of shape {shape} has {math.prod(shape)} elements, and sparsec's tensors have "
                             f"up to {MOST_ELEMENTS}")
    if node.domain == "" and node.op_type == "Reshape":
        _check_elements(node)
    for name in WINDOW:
        if any(abs(each) > MOST_ELEMENTS for each in node.attributes.get_ints(name, ()) or ()):
            raise ValueError(f"its {name} are beyond {MOST_ELEMENTS}, and no image is as large")


def _check_parts(node: ir.Node) -> None:
    """Raises ValueError if channels do not divide into the groups that are normalised."""
    x, groups = static_shape(node.inputs[0]), node.attributes.get_int("num_groups", 1) or 0
    if x is not None and (groups < 1 or x[1] % groups):
        raise ValueError(f"its {x[1]} channels do not divide into {groups} groups")


def _check_axis(node: ir.Node) -> None:
    """Raises ValueError if an operator's axis is none of its input's."""
    axis, shape = node.attributes.get_int("axis", -1) or 0, node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is not None and len(shape) and not -len(shape) <= axis < len(shape):
        raise ValueError(f"its axis is {axis}, and its input has {counted(len(shape), 'dimension')}")


def _check_cumulated(node: ir.Node) -> None:
    """Raises ValueError if a CumSum's axis, a constant, is none of its input's."""
    axis, shape = constant(node.inputs[1]), node.inputs[0].shape if node.inputs[0] is not None else None
    if axis is None or axis.size != 1 or shape is None or not len(shape):
        return
    if not -len(shape) <= int(axis.reshape(())) < len(shape):
        raise ValueError(f"its axis is {int(axis.reshape(()))}, and its input has {counted(len(shape), 'dimension')}")


def _check_blocks(node: ir.Node) -> None:
    """Raises ValueError if channels do not divide into the blocks that DepthToSpace spreads."""
    x, side = static_shape(node.inputs[0]), node.attributes.get_int("blocksize", 0) or 0
    if x is not None and len(x) > 1 and (side < 1 or x[1] % (side * side)):
        raise ValueError(f"its {x[1]} channels do not divide into blocks of {side} x {side}")


def _check_slope(node: ir.Node) -> None:
    """Raises ValueError if a PRelu's slope does not broadcast to its input; shape inference takes no notice of it."""
    x, slope = static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if x is None or slope is None:
        return
    aligned = zip(reversed(slope), reversed(x), strict=False)
    if len(slope) > len(x) or any(size not in (1, length) for size, length in aligned):
        raise ValueError(f"its slope of shape {slope} does not broadcast to its input's {x}")


def _check_elements(node: ir.Node) -> None:
    """Raises ValueError if a Reshape is to give other elements than it takes, which shape inference lets pass."""
    given, made = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if given is not None and made is not None and math.prod(given) != math.prod(made):
        raise ValueError(f"its input has the shape {given} and its output {made}, of another number of elements")


def _check_shapes(node: ir.Node) -> None:
    """Raises ValueError if the static shapes around a node of `sparsec` do not fit together."""
    shapes = [static_shape(value) for value in node.inputs]
    if any(shape is None and value is not None for shape, value in zip(shapes, node.inputs, strict=True)):
        return
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    expected, actual = operators.OUTPUT_SHAPES[node.op_type](shapes, attributes), static_shape(node.outputs[0])
    if actual != expected:
        raise ValueError(f"its output has shape {actual}, not {expected}")


_CHECKS: dict[str, Callable[[ir.Node], None]] = {
    **dict.fromkeys(BROADCAST, _check_broadcast), **dict.fromkeys(WEIGHT_POSITIONS, _check_groups),
    **dict.fromkeys(ALONG_AXIS, _check_axis), "PRelu": _check_slope, "GroupNormalization": _check_parts,
    "CumSum": _check_cumulated, "DepthToSpace": _check_blocks,
}
"""What ONNX's checker lets pass, by operator."""
