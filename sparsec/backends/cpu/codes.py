"""What follows the sums of a quantised product, from the attributes of its node."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
import onnx_ir as ir

from sparsec.backends.relax.weights import constant_vector
from sparsec.graph.codes import constant_residual, offset_of
from sparsec.graph.layout import Tiled, layout_of
from sparsec.graph.nodes import operand, optional
from sparsec.graph.operators import integers, products
from sparsec.kernels.cpu.codes.finish import Finish, Quantized

T = TypeVar("T")

LARGEST = 255  # byte


def attribute(node: ir.Node, name: str, default: T) -> T:
    """An attribute's value."""
    found = node.attributes.get(name)
    return default if found is None else cast("T", found.value)


def finish_of(node: ir.Node, weight: np.ndarray) -> tuple[Finish, Quantized]:
    """What follows the product of a QConv or QMatMul with a weight (outputs, columns), less its zero points."""
    dynamic = optional(node, products.X_SCALE) is not None
    y_type = attribute(node, "y_type", "uint8")
    residual, shifts = optional(node, products.RESIDUAL) is not None, constant_residual(node)
    scales = constant_vector(node, products.SCALE)
    assert scales is not None
    bias, addends = (constant_vector(node, place) for place in (products.BIAS, products.FLOAT_BIAS))
    totals = weight.sum(axis=1, dtype=np.int64)
    begins = np.zeros(len(weight), np.int64) if bias is None else bias.astype(np.int64)
    if not dynamic:
        scales = np.float32(attribute(node, "x_scale", 1.0)) * scales
        begins = begins - (attribute(node, "x_zero_point", 0) + offset_of(operand(node, 0).dtype)) * totals
    if y_type == "float32":
        numbers = Quantized(scales, begins, totals, np.zeros(len(weight), np.float32) if addends is None else addends)
        return Finish(True, residual, activation=attribute(node, "activation", "none"),
                      alpha=attribute(node, "alpha", 0.0), beta=attribute(node, "beta", 0.0), dynamic=dynamic,
                      coded=not residual and _is_coded(node.outputs[0])), numbers
    numbers = _codes(node, scales, begins, totals, residual=residual)
    clamped = numbers.low > 0 or numbers.high < LARGEST
    if shifts is not None:
        return Finish(False, clamped=clamped, far=numbers.is_far(weight), shifted=True), _shifted(node, numbers, shifts)
    return Finish(False, residual, clamped, numbers.is_far(weight), dynamic=dynamic), numbers


def _is_coded(value: ir.Value) -> bool:
    """Whether nothing but a DynamicQuantizeLinear of tiles without padding reads a value."""
    layout, users = layout_of(value), [user for user, _ in value.uses()]
    return (isinstance(layout, Tiled) and layout.tokens % layout.width == 0 and not value.is_graph_output()
            and bool(users) and all(user.op_type == "DynamicQuantizeLinear" for user in users))


def _shifted(node: ir.Node, numbers: Quantized, codes: np.ndarray) -> Quantized:
    """The numbers with a constant residual of codes (outputs,)."""
    centred = codes.astype(np.float32) - np.float32(attribute(node, "r_zero_point", 0))
    return replace(numbers, addends=np.asarray(centred * np.float32(numbers.r_ratio), np.float32))


def bounds_of(node: ir.Node, letter: str) -> tuple[int, int, int]:
    """Zero point, least and largest code of a result (y) or of a product before its residual (p), as they lie."""
    prefix, dtype = ("" if letter == "y" else "p_"), attribute(node, f"{letter}_type", "uint8")
    low, high = integers.limits(dtype, attribute(node, f"{prefix}low", -128), attribute(node, f"{prefix}high", 255))
    offset = offset_of(dtype)
    return attribute(node, f"{letter}_zero_point", 0) + offset, low + offset, high + offset


def _codes(node: ir.Node, scales: np.ndarray, begins: np.ndarray, totals: np.ndarray, *, residual: bool) -> Quantized:
    y_scale, none = attribute(node, "y_scale", 1.0), np.zeros(0, np.float32)
    y = bounds_of(node, "y")
    if not residual:
        return Quantized(np.asarray(integers.units(scales, y_scale)), begins, totals, none, *y)
    p_scale, r_scale = attribute(node, "p_scale", 1.0), attribute(node, "r_scale", 1.0)
    r_zero = attribute(node, "r_zero_point", 0) + offset_of(operand(node, products.RESIDUAL).dtype)
    return Quantized(np.asarray(integers.units(scales, p_scale)), begins, totals, none, *y, *bounds_of(node, "p"),
                     r_zero, float(integers.units(p_scale, y_scale)), float(integers.units(r_scale, y_scale)))
