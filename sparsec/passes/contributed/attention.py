"""Attention on projections, written out with heads as ONNX's exporters write them, so that it is fused again."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.passes.contributed import sized
from sparsec.passes.contributed.body import Body
from sparsec.passes.contributed.rotary import positions_of, rotated, tables

MASKED = -10000.0
"""The default that is added to the scores of masked keys."""
SINK = 11
"""The input of GroupQueryAttention that has a sink for every head."""
LOWEST = float(np.finfo(np.float32).min)


def attention(b: Body) -> None:
    """Attention of com.microsoft: the projections of one weight, masks of every kind but of four dimensions."""
    if b.integer("do_rotary") or b.integer("past_present_share_buffer"):
        raise b.refused("it rotates, or shares the buffer of its past")
    heads, weight = b.integer("num_heads"), b.needed(1)
    width = b.dim(weight, -1)
    sizes = list(b.node.attributes.get_ints("qkv_hidden_sizes", []) or [width // 3] * 3)
    projected = b.add(b.put("MatMul", b.needed(0), weight), b.input(2))
    q, k, v = (_split(b, part, heads) for part in b.split(projected, -1, sizes))
    past = b.input(4)
    if past is not None:
        k, v = (b.put("Concat", b.put("Gather", past, _scalar(b, index)), each, axis=2)
                for index, each in enumerate((k, v)))
    if b.wants(1):
        b.result(1, b.put("Concat", b.unsqueeze(k, 0), b.unsqueeze(v, 0), axis=0))
    scale = b.real("scale", 0.0) or 1 / math.sqrt(sizes[0] // heads)
    _core(b, (q, k, v), scale, _terms(b, b.input(3), b.input(5), q, k))


def multi_head(b: Body) -> None:
    """MultiHeadAttention: projections apart, or packed by heads, of queries, keys and values of any origin."""
    heads, query, key, value, bias = b.integer("num_heads"), b.needed(0), b.input(1), b.input(2), b.input(3)
    if b.input(8) is not None or b.input(9) is not None:
        raise b.refused("its past has a buffer of its own")
    if b.rank(query) == 5:  # (batch, tokens, heads, 3, depth)
        q, k, v = (b.put("Transpose", b.put("Squeeze", part, b.integers(3)), perm=[0, 2, 1, 3])
                   for part in b.split(query, 3, [1, 1, 1]))
    else:
        if bias is not None:
            query, key, value = _biased(b, bias, query, key, value)
        q = _split(b, query, heads)
        rank = 0 if key is None else b.rank(b.needed(1))
        if key is not None and rank == 5:  # (batch, tokens, heads, 2, depth)
            k, v = (b.put("Transpose", b.put("Squeeze", part, b.integers(3)), perm=[0, 2, 1, 3])
                    for part in b.split(key, 3, [1, 1]))
        else:
            k, v = (_split(b, each, heads) if rank != 4 else each  # heads apart already
                    for each in (_present(b, key, 1), _present(b, value, 2)))
    k, v = (each if (past := b.input(index)) is None else b.put("Concat", past, each, axis=2)
            for each, index in ((k, 6), (v, 7)))
    b.result(1, k)
    b.result(2, v)
    if b.wants(3):
        raise b.refused("it gives the scores")
    scale = b.real("scale", 0.0) or 1 / math.sqrt(_depth(b, heads))
    _core(b, (q, k, v), scale, _terms(b, b.input(4), b.input(5), q, k))


def _present(b: Body, value: ir.Value | None, index: int) -> ir.Value:
    if value is None:
        raise b.refused(f"its input {index} is absent")
    return value


def _depth(b: Body, heads: int) -> int:
    """The features of a head."""
    query = b.needed(0)
    return b.dim(query, -1) if b.rank(query) == 5 else b.dim(query, -1) // heads  # packed by heads


def _biased(b: Body, bias: ir.Value, query: ir.Value, key: ir.Value | None,
            value: ir.Value | None) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """The projections plus their biases; keys whose heads are apart already have theirs."""
    total, width = b.dim(bias, 0), b.dim(query, -1)
    parts = b.split(bias, 0, [width, width, total - 2 * width])
    query = b.put("Add", query, parts[0])
    if key is not None and b.rank(key) == 3:  # (batch, tokens, features)
        key = b.put("Add", key, parts[1])
    if value is not None and b.rank(value) == 3:  # (batch, tokens, features)
        value = b.put("Add", value, parts[2])
    return query, key, value


def _split(b: Body, x: ir.Value, heads: int) -> ir.Value:
    """(batch, tokens, features) as (batch, heads, tokens, depth)."""
    return b.put("Transpose", b.reshape(x, 0, 0, heads, -1), perm=[0, 2, 1, 3])


def _scalar(b: Body, value: int) -> ir.Value:
    return b.put("Squeeze", b.integers(value))


def _range(b: Body, length: ir.Value) -> ir.Value:
    """0, 1, … below a length."""
    return b.put("Range", _scalar(b, 0), length, _scalar(b, 1))


def _core(b: Body, qkv: tuple[ir.Value, ir.Value, ir.Value], scale: float, terms: list[ir.Value]) -> None:
    """Softmax of the scaled scores and what is added to them, times the values, with the heads merged."""
    q, k, v = qkv
    scores = b.put("Mul", b.put("MatMul", q, b.put("Transpose", k, perm=[0, 1, 3, 2])), b.number(scale))
    scores = b.capped(scores, b.real("softcap", 0.0))
    if terms:
        scores = b.put("Add", scores, b.add(*terms))
    mixed = b.put("MatMul", _weights(b, scores), v)
    b.result(0, b.reshape(b.put("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, -1))


def _weights(b: Body, scores: ir.Value) -> ir.Value:
    """Softmax of scores (batch, heads, queries, keys), with a sink that takes its share where a head has one."""
    if b.node.op_type != "GroupQueryAttention" or (b.input(SINK) is None and b.integer("smooth_softmax") <= 0):
        return b.put("Softmax", scores, axis=-1)
    sink = b.number(0) if b.input(SINK) is None else b.reshape(b.needed(SINK), 1, -1, 1, 1)
    rows = b.put("Concat", b.put("Shape", scores, end=3), b.integers(1), axis=0)
    sunk = b.put("Concat", scores, b.put("Expand", sink, rows), axis=-1)
    return b.put("Slice", b.put("Softmax", sunk, axis=-1), b.integers(0), b.integers(-1), b.integers(-1))


def _terms(b: Body, mask: ir.Value | None, bias: ir.Value | None, q: ir.Value, k: ir.Value) -> list[ir.Value]:
    """What is added to the scores (batch, heads, queries, keys): masks, the causal one, and a bias."""
    terms = [] if bias is None else [bias]
    filter_value = b.real("mask_filter_value", MASKED)
    hidden = None if mask is None else _hidden(b, mask, k)
    if hidden is not None:
        terms.append(b.put("Where", hidden, b.number(filter_value), b.number(0)))
    raw = mask is not None and b.rank(mask) == 3  # a mask for every query is used alone
    if b.integer("unidirectional") and not raw:
        terms.append(b.put("Where", future(b, q, k), b.number(_lowest(b)), b.number(0)))
    return terms


def _lowest(b: Body) -> float:
    return float(np.finfo(b.float.numpy()).min) / 2


def future(b: Body, q: ir.Value, k: ir.Value) -> ir.Value:
    """Which keys lie behind a query (queries, keys), where the last of both are the same token."""
    queries, keys = b.length(q, 2), b.length(k, 2)
    at = b.put("Add", _range(b, queries), b.put("Sub", keys, queries))
    return b.put("Less", b.unsqueeze(at, 1), b.unsqueeze(_range(b, keys), 0))


def _hidden(b: Body, mask: ir.Value, k: ir.Value) -> ir.Value:
    """Which keys a mask of integers hides, as it broadcasts to the scores."""
    rank = b.rank(mask)
    if rank == 1:
        ends = _ends(b, mask, k)
        at = b.put("Cast", b.unsqueeze(_range(b, b.length(k, 2)), 0), to=ir.DataType.INT32)
        hidden = b.put("Not", b.put("Less", at, b.unsqueeze(ends[0], 1)))
        if len(ends) > 1:
            hidden = b.put("Or", hidden, b.put("Less", at, b.unsqueeze(ends[1], 1)))
        return b.unsqueeze(hidden, 1, 2)
    zero = b.put("Cast", b.integers(0), to=ir.DataType.INT32)
    hidden = b.put("Not", b.put("Greater", b.put("Cast", mask, to=ir.DataType.INT32), zero))
    if rank == 2:  # (batch, keys)
        return b.unsqueeze(hidden, 1, 2)
    if rank == 3:  # (batch, queries, keys)
        return b.unsqueeze(hidden, 1)
    raise b.refused("its mask has four dimensions")


def _ends(b: Body, mask: ir.Value, k: ir.Value) -> list[ir.Value]:
    """Where the keys of every text end, and perhaps where they begin, from a vector of both."""
    whole = b.needed(0) if k.shape is None else k
    assert whole.shape is not None
    assert mask.shape is not None
    batch, count = whole.shape[0], mask.shape[0]
    if batch == count and count is not None and count != ir.SymbolicDim(None):
        return [mask]
    if isinstance(batch, int) and isinstance(count, int) and count == 2 * batch:
        return b.split(mask, 0, [batch, batch])
    if isinstance(batch, int) and isinstance(count, int):
        raise b.refused("its mask is of cumulated lengths")
    raise b.refused(f"its mask has {count} lengths for {batch} texts: name both alike, or bind them with dims")


def grouped(b: Body) -> None:
    """GroupQueryAttention: keys and values of fewer heads, causal, with rotation and a past of growing length."""
    heads, kv_heads = b.integer("num_heads"), b.integer("kv_num_heads")
    if b.integer("k_quant_bits") or b.integer("v_quant_bits") or b.wants(3):
        raise b.refused("it has a cache of few bits, or gives the scores")
    if not all(map(b.is_static, (0, 1, 2, 3, 4))):
        sized.grouped(b, heads, kv_heads, _core, _lowest(b))
        return
    query, key, value = b.needed(0), b.input(1), b.input(2)
    depth = b.dims(query)[-1] // (heads if key is not None else heads + 2 * kv_heads)
    if key is None or value is None:
        query, key, value = b.split(query, -1, [depth * heads, depth * kv_heads, depth * kv_heads])
    q, k, v = (_split(b, each, count) for each, count in ((query, heads), (key, kv_heads), (value, kv_heads)))
    tokens, past = b.dims(b.needed(0))[1], b.input(3)
    length = 0 if past is None else b.dims(past)[2]
    start = _scalar(b, 0) if not length else b.put("Sub", b.put("Cast", b.needed(5), to=ir.DataType.INT64),
                                                   b.put("Squeeze", b.integers(tokens - 1)))
    start = b.reshape(start, -1, 1)  # (batch or 1, 1): the position of the first new token
    at = b.put("Add", start, b.unsqueeze(_range(b, _scalar(b, tokens)), 0))
    if b.integer("do_rotary"):
        places = b.input(9) if b.input(9) is not None else at
        cos, sin = tables(b, b.needed(7), b.needed(8), _present(b, places, 9))
        interleaved = bool(b.integer("rotary_interleaved"))
        half = b.dims(b.needed(7))[1]
        q, k = (rotated(b, each, cos, sin, (half, depth), interleaved=interleaved) for each in (q, k))
    if length:
        k, v = (_appended(b, _present(b, b.input(3 + i), 3 + i), new, start, length + tokens)
                for i, new in enumerate((k, v)))
    b.result(1, k)
    b.result(2, v)
    group = heads // kv_heads
    if group > 1:
        index = b.integers(*(head // group for head in range(heads)))
        k, v = b.put("Gather", k, index, axis=1), b.put("Gather", v, index, axis=1)
    keys = b.unsqueeze(_range(b, _scalar(b, length + tokens)), 0, 1)
    limit = b.unsqueeze(at, 2)
    hidden = b.put("Greater", keys, limit)
    window = b.integer("local_window_size", -1)
    if window > 0:
        near = b.put("Sub", limit, _scalar(b, window))
        hidden = b.put("Or", hidden, b.put("Not", b.put("Greater", keys, near)))
    masked = b.put("Where", b.unsqueeze(hidden, 1), b.number(_lowest(b)), b.number(0))
    bias = b.input(10)
    scale = b.real("scale", 0.0) or 1 / math.sqrt(depth)
    _core(b, (q, k, v), scale, [masked] if bias is None else [masked, bias])


def _appended(b: Body, past: ir.Value, new: ir.Value, start: ir.Value, total: int) -> ir.Value:
    """The past of so many tokens as each row has, then the new ones; zeros of `total` behind them."""
    batch, heads, length, depth = b.dims(past)
    tokens = total - length
    places = b.put("Sub", b.unsqueeze(_range(b, _scalar(b, total)), 0), start)  # (batch, total): the new token there
    inside = b.put("And", b.put("Not", b.put("Less", places, _scalar(b, 0))),
                   b.put("Less", places, _scalar(b, tokens)))
    clipped = b.put("Min", b.put("Max", places, _scalar(b, 0)), _scalar(b, tokens - 1))
    index = b.put("Expand", b.unsqueeze(clipped, 1, 3), b.integers(batch, heads, total, depth))
    old = b.put("Where", b.unsqueeze(b.put("Less", places, _scalar(b, 0)), 1, 3),
                b.put("Concat", past, new, axis=2), b.number(0))
    return b.put("Where", b.unsqueeze(inside, 1, 3), b.put("GatherElements", new, index, axis=2), old)


def rotary(b: Body) -> None:
    """RotaryEmbedding of com.microsoft, of tokens or of heads apart."""
    x, cos = b.needed(0), b.needed(2)
    if b.integer("is_packed_batching"):
        raise b.refused("its batch is packed")
    rank, half = b.rank(x), b.dim(cos, 1)
    heads = b.integer("num_heads") or (b.dim(x, -1) // (2 * half) if rank == 3 else 0)  # tokens
    apart = _split(b, x, heads) if rank == 3 else x  # (batch, tokens, features)
    tables_ = tables(b, cos, b.needed(3), positions_of(b, b.needed(1), b.length(x, 1 if rank == 3 else 2)))
    depth = b.dim(x, -1) // (heads if rank == 3 else 1)  # tokens
    y = rotated(b, apart, *tables_, (half, depth), interleaved=bool(b.integer("interleaved")))
    b.result(0, b.reshape(b.put("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, -1) if rank == 3 else y)


WRITERS: dict[str, Callable[[Body], None]] = {
    "Attention": attention, "MultiHeadAttention": multi_head, "GroupQueryAttention": grouped, "RotaryEmbedding": rotary,
}
"""By operator of com.microsoft."""
