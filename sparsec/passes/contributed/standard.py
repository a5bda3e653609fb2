"""ONNX's own operators in forms that nobody lowers, written out in others.

They are Attention and RotaryEmbedding (opset 23 on) where sizes are symbolic, and LayerNormalization whose scale or
bias has not the shape of what is normalised.

Definitions follow ONNX's Operators.md and its reference implementation. Of static sizes, `passes.fuse_attention` and
the functions that define these operators take care.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.graph.shapes import static_shape
from sparsec.passes.contributed import recurrent
from sparsec.passes.contributed.body import Body
from sparsec.passes.contributed.rotary import rotated

HIDDEN = float("-inf")


def attention(b: Body) -> None:
    """Attention on projections (batch, tokens, features) or on heads (batch, heads, tokens, depth), with its caches."""
    apart = b.rank(b.needed(0)) == 4  # heads are a dimension
    heads, groups = (b.dim(b.needed(0), 1), b.dim(b.needed(1), 1)) if apart else (
        b.integer("q_num_heads"), b.integer("kv_num_heads"))
    q, k, v = (b.needed(index) if apart else _split(b, b.needed(index), count)
               for index, count in ((0, heads), (1, groups), (2, groups)))
    depth = b.dim(b.needed(0), -1) // (1 if apart else heads)
    past = b.input(4)
    if past is not None:
        k, v = (b.put("Concat", each, new, axis=2) for each, new in ((past, k), (b.needed(5), v)))
    b.result(1, k)
    b.result(2, v)
    bias, guarded = _bias(b, q, k, past)
    if heads > groups:
        index = b.integers(*(head // (heads // groups) for head in range(heads)))
        k, v = b.put("Gather", k, index, axis=1), b.put("Gather", v, index, axis=1)
    scores = b.put("Mul", b.put("MatMul", q, b.put("Transpose", k, perm=[0, 1, 3, 2])),
                   b.number(b.real("scale", 0.0) or 1 / math.sqrt(depth)))
    capped = b.capped(scores, b.real("softcap", 0.0))
    hidden = capped if bias is None else b.put("Add", capped, bias)
    weights = b.put("Softmax", hidden, axis=-1)
    y = b.put("MatMul", weights, v)
    if bias is not None and guarded:  # a query that sees no key gives zeros
        seen = b.put("Greater", b.highest(bias), b.number(HIDDEN))
        y = b.put("Where", seen, y, b.number(0))
        weights = b.put("Where", seen, weights, b.number(0)) if b.wants(3) else weights
    if b.wants(3):  # of which ONNX infers none, or no keys
        b.node.outputs[3].shape = ir.Shape([None] * 4)
    b.result(3, (scores, capped, hidden, weights)[b.integer("qk_matmul_output_mode")])
    b.result(0, y if apart else b.reshape(b.put("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, -1))


def _split(b: Body, x: ir.Value, heads: int) -> ir.Value:
    """(batch, tokens, features) as (batch, heads, tokens, depth)."""
    return b.put("Transpose", b.reshape(x, 0, 0, heads, -1), perm=[0, 2, 1, 3])


def _range(b: Body, length: ir.Value) -> ir.Value:
    """0, 1, … below a length."""
    zero, one = (b.put("Squeeze", b.integers(number)) for number in (0, 1))
    return b.put("Range", zero, length, one)


def _bias(b: Body, q: ir.Value, k: ir.Value, past: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """What is added to the scores (batch, heads, queries, keys), and whether it may hide all keys of a query."""
    mask, filled, terms = b.input(3), b.input(6), []
    if mask is not None:
        shown = b.put("Where", mask, b.number(0), b.number(HIDDEN)) if mask.dtype == ir.DataType.BOOL else mask
        terms.append(shown if past is not None else _over_keys(b, shown, mask))
    keys = b.length(k, 2)
    left, right = b.integer("left_window_size", -1), b.integer("right_window_size", -1)
    if b.integer("is_causal") or left >= 0 or right >= 0:
        offset = b.integers(0) if past is None else b.reshape(b.length(past, 2), 1)
        if past is None and filled is not None:
            offset = b.unsqueeze(b.put("Sub", filled, b.length(q, 2)), 1, 2)  # of every text
        at = b.put("Add", b.unsqueeze(_range(b, b.length(q, 2)), 1), offset)
        ends = [("Greater", right)] if right >= 0 and not b.integer("is_causal") else []
        ends += [("Greater", 0)] if b.integer("is_causal") else []
        ends += [("Less", -left)] if left >= 0 else []
        for side, distance in ends:
            bound = b.put("Add", at, b.integers(distance)) if distance else at
            beyond = b.put(side, b.unsqueeze(_range(b, keys), 0), bound)
            beyond = beyond if past is not None or filled is None else b.unsqueeze(beyond, 1)
            terms.append(b.put("Where", beyond, b.number(HIDDEN), b.number(0)))
    if filled is not None:
        inside = b.put("Less", b.unsqueeze(_range(b, keys), 0), b.unsqueeze(filled, 1))
        terms.append(b.unsqueeze(b.put("Where", inside, b.number(0), b.number(HIDDEN)), 1, 2))
    return (b.add(*terms) if terms else None), mask is not None or filled is not None or left >= 0


def _over_keys(b: Body, shown: ir.Value, mask: ir.Value) -> ir.Value:
    """What a mask adds, with the keys behind its end hidden, where the file does not say that it has all of them."""
    rank = b.rank(mask)
    k = b.needed(1)
    ends, keys = (str(value.shape[axis] if value.shape else None) for value, axis in ((mask, -1), (k, -2)))
    if ends == keys:
        return shown
    none = b.integers(*[0] * (2 * rank - 1))
    missing = b.put("Sub", b.length(k, b.rank(k) - 2), b.length(mask, rank - 1))
    ends_by = b.unsqueeze(b.put("Max", missing, b.constant(0, np.int64)), 0)
    return b.put("Pad", shown, b.put("Concat", none, ends_by, axis=0), b.number(HIDDEN))


def rotary(b: Body) -> None:
    """RotaryEmbedding of tokens or of heads apart, by tables of positions, or of the tokens themselves."""
    x, positions = b.needed(0), b.input(3)
    apart = b.rank(x) == 4  # heads are a dimension
    heads = b.dim(x, 1) if apart else b.integer("num_heads")
    depth = b.dim(x, -1) // (1 if apart else heads)
    half = (b.integer("rotary_embedding_dim") or depth) // 2
    cos, sin = (b.unsqueeze(table if positions is None else b.put("Gather", table, positions), 1)
                for table in (b.needed(1), b.needed(2)))
    y = rotated(b, x if apart else _split(b, x, heads), cos, sin, (half, depth),
                interleaved=bool(b.integer("interleaved")))
    b.result(0, y if apart else b.reshape(b.put("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, heads * depth))


def layer_norm(b: Body) -> None:
    """LayerNormalization with ones, times the scale and plus the bias, which broadcast."""
    x, axis = b.needed(0), b.integer("axis", -1)
    ones = b.put("Expand", b.number(1), b.integers(*b.dims(x)[axis:]))
    y = b.several("LayerNormalization", len(b.node.outputs), x, ones, axis=axis, epsilon=b.real("epsilon", 1e-5))
    for index, value in enumerate(y[1:], 1):
        b.result(index, value)
    scaled = b.put("Mul", y[0], b.needed(1))
    b.result(0, scaled if b.input(2) is None else b.put("Add", scaled, b.needed(2)))


def _is_symbolic(node: ir.Node) -> bool:
    """Whether a size of an input is known at run time only."""
    return any(value is not None and value.shape is not None and not value.shape.is_static() for value in node.inputs)


def _broadcasts(node: ir.Node) -> bool:
    """Whether the scale or the bias has another shape than what is normalised, all of which is known."""
    x, *affine = (None if value is None else static_shape(value) for value in node.inputs)
    axis = node.attributes.get_int("axis", -1)
    return x is not None and any(shape is not None and shape != x[axis:] for shape in affine)


WRITERS: dict[str, Callable[[Body], None]] = {
    "Attention": attention, "RotaryEmbedding": rotary, "LayerNormalization": layer_norm, **recurrent.WRITERS}
"""By operator of ONNX."""

WANTED: dict[str, Callable[[ir.Node], bool]] = {
    "Attention": _is_symbolic, "RotaryEmbedding": _is_symbolic, "LayerNormalization": _broadcasts,
    **dict.fromkeys(recurrent.WRITERS, recurrent.wanted)}
"""By operator: whether a node has the form that is written out."""
