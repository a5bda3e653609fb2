"""softmax(scale * Q K^T + mask) V over split heads becomes one `sparsec::Attention` on the unsplit projections.

How the heads are split and merged (any mix of Reshape, Transpose, Split, Slice and Gather) is recognised by what it
does, see `movement.py`; so are projections fused into one matrix and sequence-first tensors, which get a Slice or a
Transpose. The scale may stand on the scores, the queries or the keys. The rest is left alone, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph import operators
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import node_name
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite, split_heads
from sparsec.passes.context import Context, Note, Report
from sparsec.passes.movement import origins, scalar_factor

NOT_SPLIT = "queries, keys and values are not heads of one width split from tensors (batch, tokens, features)"


@dataclass(frozen=True)
class _Scores:
    """The scores in front of the softmax: factor * (query @ key) + mask, with key already transposed or not yet."""

    query: ir.Value
    key: ir.Value
    factor: float
    mask: ir.Value | None
    key_transposed: bool = True


def run(model: ir.Model, _context: Context) -> Report:
    """Fuses every attention it recognises, in place."""
    notes, fused = [], 0
    for node in list(model.graph):
        fuse = RULES.get(node.op_type)
        if fuse is not None and node.domain == "" and _is_candidate(node):
            reason = fuse(node)
            if reason is None:
                fused += 1
            else:
                notes.append(Note(node_name(node), f"not fused into attention: {reason}"))
    rewrite.clean(model)
    return Report("fuse_attention", bool(fused), {"Attention": fused} if fused else {}, tuple(notes))


def _is_candidate(node: ir.Node) -> bool:
    """Whether this may be meant as attention: not a classifier's softmax."""
    readers = {user.op_type for user in node.outputs[0].consumers()}
    return node.op_type == "Attention" or not readers.isdisjoint({"MatMul", "IsNaN"})


def _fuse_softmax(softmax: ir.Node) -> str | None:
    shape = static_shape(softmax.outputs[0])
    if shape is None or len(shape) not in (3, 4) or softmax.attributes.get_int("axis", -1) not in (-1, len(shape) - 1):
        return "the softmax is not along the last of three or four static dimensions"
    scores = _scores(softmax.inputs[0])
    if scores is None:
        return "its input is not a scaled product with an additive mask"
    mix = _mix(softmax.outputs[0], scores.mask)
    if mix is None or mix.inputs[1] is None:
        return "its output is not just multiplied by values"
    for batch in _batches(shape, scores.query):
        if _replace(mix, scores, mix.inputs[1], batch, int(np.prod(shape[:-2])) // batch):
            return None
    return NOT_SPLIT


def _fuse_standard(node: ir.Node) -> str | None:
    """ONNX's own Attention (opset 23) on split heads, without caches."""
    query, key, value, bias = (*node.inputs, None)[:4]
    q, k = static_shape(query), static_shape(key)
    if query is None or key is None or value is None or q is None or k is None or len(q) != 4 or q[1] != k[1]:
        return "its heads are not split alike into four dimensions"
    cached = any(x is not None for x in node.inputs[4:]) or any(output.uses() for output in node.outputs[1:])
    capped = node.attributes.get_float("softcap", 0.0) > 0
    if cached or capped or (bias is not None and bias.dtype != ir.DataType.FLOAT):
        return "it has a cache, a soft cap, a boolean mask or more outputs"
    if node.attributes.get_int("is_causal", 0):
        if bias is not None or q[2] != k[2] or node.graph is None:
            return "it is causal and has a mask or a cache"
        future = np.triu(np.full((q[2], k[2]), -np.inf, np.float32), 1)
        bias = add_constant(node.graph, f"{node_name(node)}.mask", future)
    scale = node.attributes.get_float("scale", 1 / math.sqrt(q[3]))
    if not _replace(node, _Scores(query, key, scale, bias, key_transposed=False), value, q[0], q[1]):
        return NOT_SPLIT
    return None


def _scores(value: ir.Value | None) -> _Scores | None:
    """Reads the scores upwards from the softmax; every value on the way has no other reader."""
    factor, mask = 1.0, None
    while value is not None and rewrite.only_use(value) is not None:
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "MatMul" and None not in node.inputs:
            query, key = node.inputs
            assert query is not None and key is not None  # noqa: PT018
            return _Scores(query, key, factor, mask)
        if (scaled := scalar_factor(node)) is not None:
            value, factor = scaled[0], factor * scaled[1]
        elif node.op_type == "Add" and mask is None and factor == 1.0:
            value, mask = _split_mask(node)
        else:
            return None
    return None


def _split_mask(add: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Which operand of an Add holds the scores, and which the mask."""
    a, b = add.inputs
    for value, mask in ((a, b), (b, a)):
        node = value.producer() if value is not None else None
        if node is not None and static_shape(value) == static_shape(add.outputs[0]) and (
                node.op_type == "MatMul" or scalar_factor(node) is not None):
            return value, mask
    return None, None


def _mix(weights: ir.Value, mask: ir.Value | None) -> ir.Node | None:
    """The MatMul of the weights by the values; PyTorch's guard against rows of NaN goes where no mask makes such."""
    readers = {node.op_type: node for node in weights.consumers()}
    if set(readers) == {"IsNaN", "Where"} and len(weights.uses()) == 2:
        guard = readers["Where"]
        never = mask is None or _is_finite(mask)
        if not never or guard.inputs[2] is not weights or guard.inputs[0] is not readers["IsNaN"].outputs[0]:
            return None
        weights = guard.outputs[0]
    node = rewrite.only_use(weights)
    return node if node is not None and node.op_type == "MatMul" and node.inputs[0] is weights else None


def _is_finite(mask: ir.Value) -> bool:
    """Whether a mask is known to hold no infinity: a finite constant or a choice between such."""
    node = mask.producer()
    values = node.inputs[1:] if node is not None and node.op_type == "Where" else [mask]
    return all((array := constant(value)) is not None and bool(np.isfinite(array).all()) for value in values)


def _batches(shape: tuple[int, ...], query: ir.Value) -> list[int]:
    """Batch sizes to try: the first of four dimensions; where batch and heads are one, those of the query's origins."""
    if len(shape) == 4:
        return [shape[0]]
    dims = {dim for moved in origins(query) for dim in static_shape(moved.source) or ()}
    return sorted(dim for dim in dims if dim and shape[0] % dim == 0)


def _replace(mix: ir.Node, scores: _Scores, value: ir.Value, batch: int, heads: int) -> bool:
    """Puts sparsec::Attention in the place of the mix, if queries, keys, values and output all are split heads."""
    operands = [split_heads.operand(origins(scores.query), batch, heads, transposed=False),
                split_heads.operand(origins(scores.key), batch, heads, transposed=scores.key_transposed),
                split_heads.operand(origins(value), batch, heads, transposed=False)]
    found = [operand for operand in operands if operand is not None]
    if len(found) < 3 or len({operand.width for operand in found}) > 1 or found[2].factor != 1.0:
        return False
    q, k, _ = found
    tokens, keys = ((static_shape(x.source) or ())[0 if x.sequence_first else 1] for x in (q, k))
    if not split_heads.fits(scores.mask, (batch, heads, tokens, keys), len(static_shape(mix.outputs[0]) or ())):
        return False
    merged = split_heads.merged_heads(mix.outputs[0], batch, heads)
    if merged is None:
        return False
    inputs = [split_heads.emit(mix, operand) for operand in found]
    inputs += [] if scores.mask is None else [scores.mask]
    attention = ir.node("Attention", inputs, {"heads": heads, "scale": scores.factor * q.factor * k.factor},
                        domain=operators.DOMAIN, name=node_name(mix))
    mix.prepend(attention)
    target, sequence_first = merged
    split_heads.emit_output(mix, attention.outputs[0], (batch, tokens, q.width), target, sequence_first=sequence_first)
    return True


RULES: dict[str, Callable[[ir.Node], str | None]] = {"Attention": _fuse_standard, "Softmax": _fuse_softmax}
"""By operator: fuses the attention around the node, or returns why not."""
