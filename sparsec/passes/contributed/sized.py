"""GroupQueryAttention where the run tells how many tokens and how long the past is."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from sparsec.graph.sized import APPEND, SIZED_DOMAIN
from sparsec.passes.contributed.body import Body
from sparsec.passes.contributed.rotary import rotated, tables

Core = Callable[[Body, tuple[ir.Value, ir.Value, ir.Value], float, list[ir.Value]], None]
"""Writes the softmax of the scores with what is added to them, times the values."""


def grouped(b: Body, heads: int, kv_heads: int, core: Core, lowest: float) -> None:
    """As `attention.grouped`, whose forms these are; the caches are appended to."""
    query, key, value = b.needed(0), b.input(1), b.input(2)
    depth = b.dim(query, -1) // (heads if key is not None else heads + 2 * kv_heads)
    if key is None or value is None:
        query, key, value = b.split(query, -1, [depth * heads, depth * kv_heads, depth * kv_heads])
    q, k, v = (b.put("Transpose", b.reshape(each, 0, 0, count, -1), perm=[0, 2, 1, 3])
               for each, count in ((query, heads), (key, kv_heads), (value, kv_heads)))
    one, zero = (b.put("Squeeze", b.integers(number)) for number in (1, 0))
    past, tokens = b.input(3), b.length(query, 1)
    start = b.integers(0)
    if past is not None:
        start = b.put("Sub", b.put("Cast", b.needed(5), to=ir.DataType.INT64), b.put("Sub", tokens, one))
        start = b.reshape(start, -1)
    at = b.put("Add", b.unsqueeze(start, 1), b.unsqueeze(b.put("Range", zero, tokens, one), 0))
    if b.integer("do_rotary"):
        cos, sin = tables(b, b.needed(7), b.needed(8), at if b.input(9) is None else b.needed(9))
        q, k = (rotated(b, each, cos, sin, (b.dim(b.needed(7), 1), depth),
                        interleaved=bool(b.integer("rotary_interleaved"))) for each in (q, k))
    if past is not None:
        k, v = (_appended(b, b.needed(3 + index), new, start, depth) for index, new in enumerate((k, v)))
    b.result(1, k)
    b.result(2, v)
    limit, keys = b.unsqueeze(at, 2), b.unsqueeze(b.put("Range", zero, b.length(k, 2), one), 0, 1)
    hidden = b.put("Greater", keys, limit)
    if (window := b.integer("local_window_size", -1)) > 0:
        near = b.put("Sub", limit, b.integers(window))
        hidden = b.put("Or", hidden, b.put("Not", b.put("Greater", keys, near)))
    terms = [b.put("Where", b.unsqueeze(hidden, 1), b.number(lowest), b.number(0))]
    if (bias := b.input(10)) is not None:
        terms.append(bias)
    if heads > kv_heads:
        index = b.integers(*(head // (heads // kv_heads) for head in range(heads)))
        k, v = b.put("Gather", k, index, axis=1), b.put("Gather", v, index, axis=1)
    core(b, (q, k, v), b.real("scale", 0.0) or 1 / math.sqrt(depth), terms)


def _appended(b: Body, past: ir.Value, new: ir.Value, start: ir.Value, depth: int) -> ir.Value:
    """The past of every row with its new tokens from `start` on."""
    node = ir.node(APPEND, [past, new, start], domain=SIZED_DOMAIN, name=f"{b.node.name}/append.{past.name}")
    whole = node.outputs[0]
    whole.name, whole.type = f"{node.name}.0", past.type
    heads = past.shape[1] if past.shape is not None else None
    whole.shape = ir.Shape([None if past.shape is None else past.shape[0], heads, None, depth])
    b.node.prepend(node)
    if b.node.graph is not None:
        b.node.graph.opset_imports.setdefault(SIZED_DOMAIN, 1)
    return whole
