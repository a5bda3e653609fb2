"""Lowering of the operators on codes of tokens that have no weight: conversions to codes and back, attention."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu.codes import LARGEST, attribute, bounds_of
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import integers
from sparsec.graph.codes import offset_of
from sparsec.graph.layout import Tiled, layout_of, tokens_of
from sparsec.graph.nodes import operand, optional
from sparsec.kernels.cpu.codes import attention, quantize
from sparsec.kernels.tensors import CodesParams


def lower_dynamic(context: LoweringContext, node: ir.Node) -> None:
    """Emit a DynamicQuantizeLinear."""
    layout = tokens_of(node.inputs[0])
    x = context.flat(node.inputs[0])
    known = context.ranges.get(operand(node, 0))
    kernel = (quantize.build_range(quantize.RangeParams(layout), context.isa) if known is None else
              quantize.build_ends(quantize.EndsParams(known.parts), context.isa))
    found = context.call(kernel, [x if known is None else known.ends], 1, 1)
    scale, zero = (context.bb.emit(found[i]) for i in range(2))
    kernel = quantize.build_flat(CodesParams(layout.size, interleaved=known is not None and known.interleaved),
                                 context.isa)
    codes, factor, zero_point = node.outputs
    context.bind(codes, context.call(kernel, [scale, zero, x], layout.size, dtype="uint8"))
    context.bind(factor, scale)
    context.bind(zero_point, context.bb.emit(relax.op.astype(zero, "uint8")))


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit a QuantizeLinear or DequantizeLinear of one constant scale."""
    layout = tokens_of(node.inputs[0])
    back = node.op_type == "DequantizeLinear"
    codes = operand(node, 0) if back else node.outputs[0]
    scale = np.asarray(context.array(node.inputs[1]), np.float32).reshape(1)
    given = context.array(optional(node, 2))
    zero = np.float32(0 if given is None else given.item()) + np.float32(offset_of(codes.dtype))
    kernel = quantize.build_flat(CodesParams(layout.size, back=back), context.isa)
    arguments = [*map(context.constant, (scale, zero.reshape(1))), context.flat(node.inputs[0])]
    context.bind(node.outputs[0], context.call(kernel, arguments, layout.size, dtype="float32" if back else "uint8"))


def lower_attention(context: LoweringContext, node: ir.Node) -> None:
    """Emit a QAttention."""
    if not isinstance(layout_of(node.outputs[0]), Tiled):
        integers.lower(context, node)
        return
    q, k = (tokens_of(value) for value in node.inputs[:2])
    heads, mask = node.attributes.get_int("heads"), optional(node, 3)
    meanings = _meanings(node)
    params = attention.AttentionParams(
        heads, q.features // heads, q.batch, q.tokens, k.tokens, q.width,
        None if mask is None else math.prod(context.shape(mask)) // k.tokens,
        "uint8" if mask is None else context.dtype(mask), meanings["p"].zero_point != 0)
    inputs = [*map(context.constant, attention.pack(meanings)),
              *(context.flat(value) for value in (*node.inputs[:3], mask) if value is not None)]
    context.bind(node.outputs[0], context.call(attention.build(params, context.isa), inputs, params.output.size,
                                               dtype="uint8"))


def _meanings(node: ir.Node) -> dict[str, attention.Meaning]:
    """What the codes of a QAttention's tensors stand for, as they lie: row-major ones of a mask as they are."""
    types: dict[str, ir.DataType | str | None] = {
        letter: operand(node, index).dtype for index, letter in enumerate("qkv")}
    types |= {letter: attribute(node, f"{letter}_type", "uint8") for letter in "stpy"} | {"m": ir.DataType.UINT8}
    found = {}
    for letter, dtype in types.items():
        offset = offset_of(dtype)
        low, high = 0, LARGEST
        if letter == "y":
            _, low, high = bounds_of(node, "y")
        found[letter] = attention.Meaning(attribute(node, f"{letter}_scale", 1.0),
                                          attribute(node, f"{letter}_zero_point", 0) + offset, low, high)
    return found
