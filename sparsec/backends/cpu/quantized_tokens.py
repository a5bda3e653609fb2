"""Lowering of the operators that quantise tokens in their tiles, with scales that are constant or found at run time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.graph.codes import offset_of
from sparsec.graph.layout import tokens_of
from sparsec.graph.nodes import operand, optional
from sparsec.kernels.cpu.codes import quantize


def lower_dynamic(context: LoweringContext, node: ir.Node) -> None:
    """Emit a DynamicQuantizeLinear."""
    layout = tokens_of(node.inputs[0])
    x = context.flat(node.inputs[0])
    found = context.call(quantize.build_range(quantize.RangeParams(layout), context.isa), [x], 1, 1)
    scale, zero = (context.bb.emit(found[i]) for i in range(2))
    kernel = quantize.build_flat(quantize.FlatParams(layout.size), context.isa)
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
    kernel = quantize.build_flat(quantize.FlatParams(layout.size, back), context.isa)
    arguments = [*map(context.constant, (scale, zero.reshape(1))), context.flat(node.inputs[0])]
    context.bind(node.outputs[0], context.call(kernel, arguments, layout.size, dtype="float32" if back else "uint8"))
