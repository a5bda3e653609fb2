"""Pad in all its modes, with pads and axes known now or at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer.node import (
    Indices,
    Operand,
    Operator,
    choose,
    clamp,
    compute,
    item,
    operand,
    opset_of,
)
from sparsec.errors import UnsupportedOperatorError
from sparsec.kernels.emit.tir import Expr


def pad(context: LoweringContext, node: ir.Node) -> list[relax.Expr]:
    """Pad; negative pads crop."""
    x, mode = node.inputs[0], node.attributes.get_string("mode", "constant")
    dims, shape = context.shape(x), context.shape(node.outputs[0])
    if mode not in SOURCES:
        raise UnsupportedOperatorError(f"the mode '{mode}' is unknown")
    if opset_of(node) < 11:
        pads, value, axes = node.attributes.get_ints("pads"), node.attributes.get_float("value", 0.0), None
    else:
        pads, value, axes = (operand(context, v) for v in (*node.inputs[1:], None, None)[:3])
    count = len(dims) if axes is None else context.shape(node.inputs[3])[0]

    def element(i: Indices, x: Operand, pads: Operand, value: Expr, axes: Operand) -> Expr:
        first = [0] * len(dims)
        for axis in range(len(dims)):
            for k in range(count):
                named = k if axes is None else axes[k]
                first[axis] = choose((named + len(dims)) % len(dims) == axis, pads[k], first[axis])
        sources = [index - begin for index, begin in zip(i, first, strict=True)]
        inside = [SOURCES[mode](*place) for place in zip(sources, dims, shape, strict=True)]
        if mode != "constant":
            return x[tuple(clamp(at, 0, dim - 1) for at, dim in zip(inside, dims, strict=True))]
        conditions = [c for s, dim in zip(sources, dims, strict=True) for c in (s >= 0, s < dim)]
        fill = item(0 if value is None else value, x.dtype)
        return tirx.if_then_else(tirx.all(*conditions), x[tuple(sources)], fill)

    return [compute(context, "pad", shape, element, context.tensor(x), pads, value, axes)]


def _reflect(index: Expr, dim: int, size: int) -> Expr:
    """The mirrored index; the border elements are not repeated."""
    period = max(2 * (dim - 1), 1)
    position = _wrap(index, period, size)
    return choose(position < dim, position, period - position)


def _wrap(index: Expr, dim: int, size: int) -> Expr:
    """The index modulo the extent, by comparisons: LLVM 22's vectoriser miscompiles remainders of powers of two."""
    wrapped = index
    for turn in range(1, -(-size // dim) + 1):  # the padding on either side is shorter than the output
        wrapped = choose(index < dim * (1 - turn), index + dim * turn, wrapped)
        wrapped = choose(index >= dim * turn, index - dim * turn, wrapped)
    return wrapped


SOURCES: dict[str, Callable[[Any, int, int], Any]] = {  # by the index in the input, its extent and the output's
    "constant": lambda index, _dim, _size: index,
    "edge": lambda index, dim, _size: clamp(index, 0, dim - 1),
    "reflect": _reflect,
    "wrap": _wrap,
}

OPERATORS: dict[str, Operator] = {"Pad": pad}
