"""Lowering of sparsec::Attention: one fused kernel, or one for each step where the kernel does not take its shapes."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.cuda import attention_cost
from sparsec.backends.cuda.context import CudaContext
from sparsec.cost.gpu import DEVICES
from sparsec.graph.annotations import OUTSIDE
from sparsec.graph.constants import scalar
from sparsec.graph.nodes import optional
from sparsec.graph.operators import DOMAIN
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cuda import attention, key_lists
from sparsec.kernels.cuda.attention_params import CHUNK, AttentionParams, reject, tiled
from sparsec.kernels.emit.projection import Projection
from sparsec.kernels.emit.tir import Kernel

op = relax.op


def lower(context: CudaContext, node: ir.Node) -> bool:
    """Emit the attention; its `OUTSIDE` is why it has no kernel of its own."""
    if reason := reject(params_of(node, context.half)):
        OUTSIDE.set(node, reason)
        return _by_steps(context, node)
    mask = optional(node, 3)
    p, lists = planned(context, node)
    sources = [_projection(value)[0] for value in node.inputs[:3]]
    inputs = [context.stored(source, (math.prod(context.shape(source)),)) for source in sources]
    if p.mask is not None:
        inputs.append(_flat(context, mask, p))
    if p.listed:
        inputs.append(_listed(context, mask, p) if lists is None else context.constant(lists.ravel()))
    outputs = [shape for name, shape in attention.arguments(p).items() if name in ("partial", "y")]
    y = context.launch(_kernel(p), inputs, outputs, "attention")
    context.bind(node.outputs[0], context.reshaped(y, context.shape(node.outputs[0])))
    return True


def planned(context: CudaContext, node: ir.Node) -> tuple[AttentionParams, np.ndarray | None]:
    """The attention in tiles, keys divided and hidden ones left out where it pays, and the lists of a constant mask."""
    p, mask = tiled(params_of(node, context.half), context.target.archs), optional(node, 3)
    device, lists = DEVICES[context.target.archs[0]], None
    plain = attention_cost.divided(p, attention_cost.every(p), device)
    if mask is None or p.mask is None or p.mask[-1] < p.keys or p.key_blocks == 1:
        return plain, None
    array = context.array(mask)
    if array is None:
        visits, readers = attention_cost.assumed(p), _readers(mask)
    else:
        lists = key_lists.lists_of(array.reshape(p.mask), p.tile.queries, p.tile.keys)
        visits, readers = attention_cost.Visits(float(lists[..., 0].mean()), int(lists[..., 0].max())), 1
    listed = attention_cost.divided(replace(p, listed=True), visits, device)
    gain = attention_cost.seconds(plain, attention_cost.every(p), device)
    gain -= attention_cost.seconds(listed, visits, device)
    cost = 0.0 if lists is not None else attention_cost.list_seconds(p, device)
    return (listed, lists) if readers * gain > cost else (plain, None)


def _readers(mask: ir.Value) -> int:
    """Attentions that a mask hides keys from."""
    return sum(user.op_type == "Attention" and user.domain == DOMAIN for user, _ in mask.uses())


def _flat(context: CudaContext, mask: ir.Value | None, p: AttentionParams) -> relax.Expr:
    assert p.mask is not None
    return context.reshaped(context.tensor(mask), (math.prod(p.mask),))


def _listed(context: CudaContext, mask: ir.Value | None, p: AttentionParams) -> relax.Expr:
    """The lists of a mask that only runs know, which all attentions share whose blocks are alike."""
    assert mask is not None
    assert p.mask is not None
    lists, params = context.lists.setdefault(mask, {}), key_lists.ListParams(p.tile.queries, p.tile.keys)
    if params not in lists:
        outputs = [(key_lists.peaks_length(p.mask, p.tile.keys), "float32"), attention.arguments(p)["lists"]]
        inputs = [_flat(context, mask, p), context.constant(np.zeros(1, np.int32))]
        lists[params] = context.launch(_listing(params, p.mask), inputs, outputs, "key_lists")
    return lists[params]


@functools.lru_cache(maxsize=64)
def _listing(p: key_lists.ListParams, shape: tuple[int, int, int, int]) -> Kernel:
    """The kernels that list what masks show."""
    return key_lists.build(p, shape)


def refusal(node: ir.Node) -> str | None:
    """Why the attention has no kernel of its own, or None."""
    return reject(params_of(node, "float16"))


def reads_slices(node: ir.Node) -> bool:
    """Whether a node is an attention with a kernel, which takes a slice of a tensor for a projection."""
    return node.domain == DOMAIN and node.op_type == "Attention" and refusal(node) is None


def params_of(node: ir.Node, half: str) -> AttentionParams:
    """The attention before it is cut into tiles; whether there is a kernel for it is `reject`'s."""
    (batch, queries, features), (_, keys, _) = (static_shape(value) or (0, 0, 0) for value in node.inputs[:2])
    q, k, v = (_projection(value)[1] for value in node.inputs[:3])
    heads, mask = node.attributes.get_int("heads"), (*node.inputs, None)[3]
    return AttentionParams(heads, features // heads, batch, queries, keys, node.attributes.get_float("scale"), q, k, v,
                           None if mask is None else _mask_shape(mask), half)


def _mask_shape(mask: ir.Value) -> tuple[int, int, int, int]:
    """The mask's shape with all four dimensions."""
    shape = static_shape(mask)
    assert shape is not None  # the fusion has compared it with the scores'
    batch, heads, queries, keys = (1, 1, 1, 1, *shape)[-4:]
    return batch, heads, queries, keys


@functools.lru_cache(maxsize=64)
def _kernel(p: AttentionParams) -> Kernel:
    """The kernel; attentions with equal parameters share the object, and so the compiled code."""
    return attention.build(p)


def _projection(value: ir.Value | None) -> tuple[ir.Value, Projection]:
    """Where a projection (batch, tokens, features) lies: in itself, or in the tensor that it is a slice of."""
    assert value is not None
    moved = _before_views(value)
    node = moved.producer()
    if node is not None and node.op_type == "Slice" and len(node.inputs) == 4:  # as passes leave it
        source, start, _, axis = node.inputs
        dims, offset, along = static_shape(source) or (0,), scalar(start), scalar(axis)
        aligned = offset is not None and offset >= 0 and offset % CHUNK == dims[-1] % CHUNK == 0
        if source is not None and offset is not None and along in (-1, len(dims) - 1) and aligned:
            return source, Projection(dims[-1], int(offset))
    return value, Projection((static_shape(value) or (0,))[-1])


def _before_views(value: ir.Value) -> ir.Value:
    """The value before nodes that leave rows of features where they are: reshapes, and moves of axes of size 1."""
    node = value.producer()
    while node is not None and not node.domain and node.op_type in ("Reshape", "Squeeze", "Transpose", "Unsqueeze"):
        source = node.inputs[0]
        old, new = static_shape(source), static_shape(value)
        if source is None or not old or not new or old[-1] != new[-1]:
            break
        if node.op_type == "Transpose":
            order = [axis for axis in node.attributes.get_ints("perm", range(len(old))[::-1]) if old[axis] != 1]
            if order != sorted(order):
                break
        value, node = source, source.producer()
    return value


def _by_steps(context: CudaContext, node: ir.Node) -> bool:
    """Scores and weights in float32, both products on half-precision operands."""
    heads, scale = node.attributes.get_int("heads"), node.attributes.get_float("scale")
    q, k, v = (_heads(context, value, heads) for value in node.inputs[:3])
    scores = op.multiply(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2]), out_dtype="float32"),
                         relax.const(scale, "float32"))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        scores = op.add(scores, context.tensor(node.inputs[3]))
    weights = op.astype(op.nn.softmax(scores, axis=-1), context.half)
    joined = op.permute_dims(op.matmul(weights, v, out_dtype="float32"), [0, 2, 1, 3])
    result = context.bb.emit(op.astype(joined, context.half))
    context.bind(node.outputs[0], context.reshaped(result, context.shape(node.outputs[0])))
    return True


def _heads(context: CudaContext, value: ir.Value | None, heads: int) -> relax.Expr:
    """A projection (batch, tokens, heads * width) as (batch, heads, tokens, width)."""
    batch, tokens, features = context.shape(value)
    split = context.stored(value, (batch, tokens, heads, features // heads))
    return context.bb.emit(op.permute_dims(split, [0, 2, 1, 3]))
