"""Lowering of the operators on tokens that have no weight to choose a format for: layer norm, attention, reshapes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext, Range
from sparsec.cost.precisions import allows
from sparsec.graph.annotations import NARROW
from sparsec.graph.codes import CODE_TYPES
from sparsec.graph.layout import tokens_of
from sparsec.graph.nodes import optional
from sparsec.kernels.cpu.tensors import attention, layer_norm
from sparsec.kernels.cpu.tensors.attention_blocks import AttentionParams
from sparsec.kernels.cpu.tensors.attention_bounds import bounds_of
from sparsec.kernels.emit.codes import SIDES
from sparsec.kernels.emit.projection import Projection

MOST_UNITS = 8  # of a normalisation, whose ranges a DynamicQuantizeLinear puts together


def lower_layer_norm(context: LoweringContext, node: ir.Node) -> None:
    """Emit a LayerNormalization over the features."""
    layout = tokens_of(node.outputs[0])
    params = layer_norm.LayerNormParams(layout, node.attributes.get_float("epsilon", 1e-5))
    bias = optional(node, 2)
    inputs = [context.flat(node.inputs[1]),
              context.constant(np.zeros(layout.features, np.float32)) if bias is None else context.flat(bias),
              context.flat(node.inputs[0])]
    y = node.outputs[0]
    units = params.units(context.isa)[0]
    whole = layout.tokens % layout.width == 0 and units <= MOST_UNITS
    if not whole or all(user.op_type != "DynamicQuantizeLinear" for user, _ in y.uses()):
        context.bind(y, context.call(layer_norm.build(params, context.isa), inputs, layout.size))
        return
    params = replace(params, ranged=True)
    found = context.call(layer_norm.build(params, context.isa), inputs, layout.size,
                         units * SIDES * context.isa.lanes)
    result, ends = (context.bb.emit(found[index]) for index in range(2))
    context.ranges[y] = Range(ends, units, interleaved=False)
    context.bind(y, result)


def lower_reshape(context: LoweringContext, node: ir.Node) -> None:
    """Bind other numbers for the same tokens; the layout pass has seen that they lie alike."""
    context.bind(node.outputs[0], context.flat(node.inputs[0]))


def lower_attention(context: LoweringContext, node: ir.Node) -> None:
    """Emit a sparsec::Attention."""
    q, k, v = (tokens_of(value) for value in node.inputs[:3])
    heads, mask = node.attributes.get_int("heads"), optional(node, 3)
    shape = None if mask is None else _mask_shape(context, mask, k.tokens)
    params = AttentionParams(
        heads, q.features // heads, q.batch, q.tokens, k.tokens, q.width, node.attributes.get_float("scale"),
        Projection(q.features), Projection(k.features), Projection(v.features), shape)
    narrow = ["bf16"] if allows(context.precision, "bf16") else ["s16"] if _becomes_codes(node.outputs[0]) else []
    params = next((replace(params, pairs=each) for each in narrow
                   if attention.reject_pairs(params, each, context.isa) is None), params)
    if params.pairs and narrow == ["bf16"]:
        NARROW.set(node, params.pairs)
    inputs = [context.flat(value) for value in node.inputs[:3]]
    if mask is not None and shape is not None:
        inputs.append(_mask(context, mask, shape))
    bounds = None if mask is None or shape is None or params.pairs else _bounds(context, mask, shape, params)
    if bounds is not None:
        params = replace(params, bounded=True)
        inputs.append(context.constant(bounds.ravel()))
    context.bind(node.outputs[0], context.call(attention.build(params, context.isa), inputs, params.output.size))


def _becomes_codes(value: ir.Value) -> bool:
    """Whether nothing but codes of 8 bits are made of a value, which show nothing of what 16-bit integers round."""
    users = [user for user, _ in value.uses()]
    return bool(users) and not value.is_graph_output() and all(
        user.op_type == "DynamicQuantizeLinear" or (user.op_type == "QuantizeLinear"
                                                    and user.outputs[0].dtype in CODE_TYPES) for user in users)


def _mask_shape(context: LoweringContext, mask: ir.Value, keys: int) -> tuple[int, int, int, int]:
    """The mask's shape as (batch, heads, queries, keys), where all but the keys may be 1."""
    batch, heads, queries = (1, 1, 1, *context.shape(mask)[:-1])[-3:]
    return batch, heads, queries, keys


def _bounds(context: LoweringContext, mask: ir.Value, shape: tuple[int, int, int, int],
            params: AttentionParams) -> np.ndarray | None:
    """The chunks of keys that blocks of queries see, where the mask is constant and differs from query to query."""
    array = context.array(mask)
    if array is None or shape[2] == 1:
        return None
    whole = np.broadcast_to(array.reshape((1,) * (4 - array.ndim) + array.shape), shape)
    return bounds_of(whole, params.vectors(context.isa) * context.isa.lanes, params.step * params.width)


def _mask(context: LoweringContext, mask: ir.Value, shape: tuple[int, ...]) -> relax.Expr:
    """The mask as one flat buffer; one that is the same for all keys is spread over them."""
    if math.prod(context.shape(mask)) == math.prod(shape):
        return context.flat(mask)
    spread = relax.op.broadcast_to(context.tensor(mask), (*context.shape(mask)[:-1], shape[-1]))
    return context.bb.emit(relax.op.reshape(context.bb.emit(spread), (math.prod(shape),)))
