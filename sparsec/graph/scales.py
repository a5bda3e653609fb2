"""Whether the scales and zero points of quantised operators fit what they quantise, which ONNX's checker lets pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from sparsec.graph.shapes import static_shape

CONTRIBUTED = "com.microsoft"


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if 0 <= index < len(node.inputs) else None


def _check_types(codes: ir.Value | None, zero_point: ir.Value | None, what: str) -> None:
    """Raises ValueError where a zero point is of another type than its codes."""
    if codes is None or zero_point is None or codes.dtype is None or zero_point.dtype is None:
        return
    if codes.dtype != zero_point.dtype:
        raise ValueError(f"the zero point of {what} is {zero_point.dtype.name}, its codes are {codes.dtype.name}; "
                         "quantise both alike")


def _check_linear(node: ir.Node) -> None:
    """QuantizeLinear and DequantizeLinear: one scale, one for each slab of an axis, or one for each block."""
    x, scale, zero = _input(node, 0), _input(node, 1), _input(node, 2)
    codes = x if node.op_type == "DequantizeLinear" else node.outputs[0]
    _check_types(codes, zero, "its tensor")
    shape, of, at = static_shape(x), static_shape(scale), static_shape(zero)
    if of is not None and at is not None and of != at and {of, at} != {(), (1,)}:
        raise ValueError(f"its scale has shape {of} and its zero point {at}; they must be equal")
    if shape is None or of in (None, (), (1,)):
        return
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    assert of is not None
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"its axis {axis} is not among the {len(shape)} of its input {shape}")
    axis %= len(shape)
    if block:
        blocks = tuple(-(-dim // block) if index == axis else dim for index, dim in enumerate(shape))
        if of != blocks:
            raise ValueError(f"its scale has shape {of}, not {blocks} for blocks of {block} along axis {axis}")
    elif of != (shape[axis],):
        raise ValueError(f"its scale has shape {of}; axis {axis} of its input {shape} takes one number, or "
                         f"{shape[axis]}")


def _check_group(node: ir.Node, first: int, axis: int | None, what: str) -> None:
    """A tensor with scale and zero point behind it; the scale is one number, or one for each slab of an axis."""
    codes, scale, zero = (_input(node, first + offset) for offset in range(3))
    _check_types(codes, zero, what)
    shape, of = static_shape(codes), static_shape(scale)
    if shape is None or of in (None, (), (1,)) or of is None:
        return
    if len(of) == 1 and (axis is None or of != (shape[axis],)):
        count = "one number" if axis is None else f"one number, or {shape[axis]}"
        raise ValueError(f"the scale of {what} has shape {of}; {what} of shape {shape} takes {count}")


def _grouped(*groups: tuple[int, int | None, str]) -> Callable[[ir.Node], None]:
    def check(node: ir.Node) -> None:
        for first, axis, what in groups:
            _check_group(node, first, axis, what)

    return check


def _check_nbits(node: ir.Node) -> None:
    """MatMulNBits: packed codes, one scale and one zero point for each block of every output."""
    k, n, bits, block = (node.attributes.get_int(name, default) or default
                         for name, default in (("K", 0), ("N", 0), ("bits", 4), ("block_size", 32)))
    if min(k, n, bits, block) < 1 or bits not in (2, 4, 8):
        raise ValueError(f"its K, N, bits and block_size are {k}, {n}, {bits} and {block}; the first two and the last "
                         "are at least 1, bits are 2, 4 or 8")
    blocks = -(-k // block)
    zero = _input(node, 3)
    is_packed = zero is not None and zero.dtype == ir.DataType.UINT8
    for index, what, count in ((1, "codes", n * blocks * -(-block * bits // 8)), (2, "scales", n * blocks),
                               (3, "zero points", n * (-(-blocks * bits // 8) if is_packed else blocks))):
        shape = static_shape(_input(node, index)) if _input(node, index) is not None else None
        if shape is not None and math.prod(shape) != count:
            raise ValueError(f"its {what} have shape {shape}; {n} outputs of {k} inputs in blocks of {block} take "
                             f"{count} numbers")


X, A, B = "its input", "its first input", "its second input"
CHECKS: dict[tuple[str, str], Callable[[ir.Node], None]] = {
    ("", "QuantizeLinear"): _check_linear,
    ("", "DequantizeLinear"): _check_linear,
    (CONTRIBUTED, "QuantizeLinear"): _check_linear,
    (CONTRIBUTED, "DequantizeLinear"): _check_linear,
    (CONTRIBUTED, "MatMulNBits"): _check_nbits,
    ("", "QLinearConv"): _grouped((0, None, X), (3, 0, "its weight")),
    ("", "QLinearMatMul"): _grouped((0, -2, A), (3, -1, B)),
    (CONTRIBUTED, "QLinearAdd"): _grouped((0, None, A), (3, None, B)),
    (CONTRIBUTED, "QLinearMul"): _grouped((0, None, A), (3, None, B)),
    **{(CONTRIBUTED, name): _grouped((0, None, X)) for name in (
        "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax")},
}
"""By domain and operator: raises ValueError where scales and zero points do not fit."""
