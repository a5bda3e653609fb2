"""Scaled dot-product attention over tokens in the tiled layout: Y = softmax(scale * Q K^T + mask) V for every head.

A block of queries is held on the lanes: scores are computed transposed, S^T[key, query], the softmax runs down the
keys, and the product with V reads the same buffer; nothing is transposed or reduced across lanes. Keys beyond the
sequence's end, which hold anything, are never read; queries beyond it are computed and ignored. A query whose mask is
-inf for every key yields NaN, as in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators.attention import Attention
from sparsec.kernels.cpu.tensors.attention_bf16 import Bf16Pairs
from sparsec.kernels.cpu.tensors.attention_blocks import AttentionParams, Block, Head, block_row, by, by_tile, row_of
from sparsec.kernels.cpu.tensors.attention_pairs import KeyTiles, Pairs
from sparsec.kernels.cpu.tensors.attention_s16 import S16Pairs
from sparsec.kernels.cpu.tensors.attention_seen import LLVM as SEEN
from sparsec.kernels.cpu.tensors.attention_seen import Seen, find, gather
from sparsec.kernels.emit.activations import exp_below_one
from sparsec.kernels.emit.gelu import LANES
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store

PAIRS: dict[str, type[Pairs]] = {"bf16": Bf16Pairs, "s16": S16Pairs}
EVEN_ROWS = {1: 16, 2: 8, 3: 4, 4: 4}
"""Keys of a register block by vectors of queries where their number is found at run time: they divide a tile's."""


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None,
              params: AttentionParams) -> np.ndarray:
    """Y (batch, tokens, heads * depth) for the projections in ONNX's order."""
    inputs: list[Buffer] = [q, k, v, mask]
    return np.asarray(Attention.eval(*inputs, heads=params.heads, scale=params.scale))


def reject_pairs(params: AttentionParams, pairs: str, isa: Isa) -> str | None:
    """Why attention cannot multiply such pairs, or None."""
    if pairs == "bf16" and not isa.bf16:
        return "the processor has no dot products of bf16 pairs"
    if pairs == "s16" and (not isa.vnni or isa.lanes != LANES):
        return "the processor lacks AVX512_VNNI"
    if params.depth % 2:
        return "the features of a head do not pair up"
    return None


def build(params: AttentionParams, isa: Isa) -> Kernel:
    """The kernel: (q, k, v, [mask], [bounds]) -> y; a buffer that holds several projections is passed for each."""
    arguments: dict[str, tuple[int | None, str]] = {
        name: (params.layout(name).size, "float32") for name in ("q", "k", "v")}
    if params.mask is not None:
        arguments["mask"] = (int(np.prod(params.mask)), "float32")
    if params.bounded:
        arguments["bounds"] = (2 * -(-params.tokens // (params.vectors(isa) * isa.lanes)), "int32")
    arguments["y"] = (params.output.size, "float32")
    needed = PAIRS[params.pairs].llvm(isa) + SEEN if params.pairs else ""
    return kernel(arguments, lambda b: _emit(b, params, isa), needed)


def _emit(b: Buffers, p: AttentionParams, isa: Isa) -> None:
    """Whole blocks of queries, then the queries of every sequence that do not fill one."""
    vectors = p.vectors(isa)
    blocks = p.tokens // (vectors * isa.lanes)
    rest = -(-(p.tokens - blocks * vectors * isa.lanes) // isa.lanes)
    for first, count, size in ((0, blocks, vectors), (blocks, 1, rest)):
        if count * size:
            _blocks(b, p, isa, (first * vectors * isa.lanes, count), size)


def _blocks(b: Buffers, p: AttentionParams, isa: Isa, blocks: tuple[int, int], vectors: int) -> None:
    """`count` blocks of queries from token `first` on, in every sequence; the unit of work is some heads of a block."""
    first, count = blocks
    if p.pairs and not p.masks_queries:
        _blocks_by_head(b, p, isa, blocks, vectors)
        return
    even = (n for n in range(1, p.heads) if p.heads % n == 0 and p.batch * count * n % isa.threads == 0)
    parts = next(even, p.heads)
    heads, width = p.heads // parts, vectors * isa.lanes
    with shared(p.batch * count * parts, isa) as unit:
        block = Block(T.Bind(T.floordiv(unit, count * parts)),
                       T.Bind(first + T.floormod(T.floordiv(unit, parts), count) * width),
                       vectors, isa.lanes, rows=isa.registers // 2 // vectors)
        scores = T.alloc_buffer((p.keys * width,), "float32")
        mask = T.alloc_buffer((p.keys * width,), "float32") if p.masks_queries else None
        pairs = _pairs(p, width, isa)
        chunks = _chunks(b, p, block, isa)
        if mask is not None and not p.masks_heads:
            _transpose_mask(b, p, block, 0, mask, chunks)
        with T.serial(0, heads) as i:
            head = T.Bind(T.floormod(unit, parts) * heads + i)
            if mask is not None and p.masks_heads:
                _transpose_mask(b, p, block, head, mask, chunks)
            made = _head(block, head, scores, mask, pairs)
            if pairs is not None:
                _fill_keys(b, p, made, pairs)
            if chunks is None:
                _attend(b, p, made)
            else:
                _attend_within(b, p, made, chunks)


def _blocks_by_head(b: Buffers, p: AttentionParams, isa: Isa, blocks: tuple[int, int], vectors: int) -> None:
    """As `_blocks`, where the unit of work is all blocks of a head, whose keys are paired once."""
    first, count = blocks
    width = vectors * isa.lanes
    with shared(p.batch * p.heads, isa) as unit:
        scores, pairs = T.alloc_buffer((p.layout("k").tiles * p.width * width,), "float32"), _pairs(p, width, isa)
        sequence, index = T.Bind(T.floordiv(unit, p.heads)), T.Bind(T.floormod(unit, p.heads))
        assert pairs is not None
        for_keys = Block(sequence, first, vectors, isa.lanes, rows=isa.registers // 2 // vectors)
        seen = None if p.mask is None else Seen.allocate(p, isa.lanes)
        if seen is None:
            _fill_keys(b, p, _head(for_keys, index, scores, None, pairs), pairs)
        else:
            for_keys = replace(for_keys, rows=EVEN_ROWS[vectors])
            find(b, p, seen, _mask_row(p, sequence, index, 0), isa.lanes)
            pairs.fill_keys(seen.buffers, gather(b, p, seen, (sequence, index), for_keys))
        with T.serial(0, count) as i:
            head = _head(replace(for_keys, first=T.Bind(first + i * width)), index, scores, None, pairs)
            if seen is None:
                _attend(b, p, head)
            else:
                _attend_seen({**b, **seen.buffers}, seen.params(p), head, T.Bind(seen.count[0]))


def _pairs(p: AttentionParams, width: int, isa: Isa) -> Pairs | None:
    """Scratch for a head's pairs, where it multiplies such."""
    return PAIRS[p.pairs].allocate(p.depth, width, p.layout("k"), isa.lanes) if p.pairs else None


def _head(block: Block, index: Expr, scores: Buffer, mask: Buffer | None, pairs: Pairs | None) -> Head:
    maxima, sums = registers(block.vectors, block.lanes), registers(block.vectors, block.lanes)
    return Head(block, index, scores, mask, maxima, sums, pairs)


def _mask_row(p: AttentionParams, b: Expr, head: Expr, query: Expr) -> Expr:
    """Index of the mask's first key for a query; dimensions of 1 are broadcast."""
    assert p.mask is not None
    batch, heads, queries, keys = p.mask
    row = (b if batch > 1 else 0) * heads + (head if heads > 1 else 0)
    return (row * queries + (query if queries > 1 else 0)) * keys


def _chunks(b: Buffers, p: AttentionParams, block: Block, isa: Isa) -> tuple[Expr, Expr] | None:
    """The first chunk of keys that the queries of a block see, and the end of the last; None where that is all."""
    if not p.bounded:
        return None
    number = T.floordiv(block.first, p.vectors(isa) * isa.lanes)
    return T.Bind(b["bounds"][2 * number]), T.Bind(b["bounds"][2 * number + 1])


def _transpose_mask(b: Buffers, p: AttentionParams, block: Block, head: Expr, mask: Buffer,
                    chunks: tuple[Expr, Expr] | None) -> None:
    """The mask of a block as (keys, queries); queries beyond the end take the last one's."""
    length = p.step * p.width
    first, end = (0, p.keys) if chunks is None else (chunks[0] * length, T.min(chunks[1] * length, p.keys))
    with T.serial(0, block.width) as query:
        row = T.Bind(_mask_row(p, block.b, head, T.min(block.first + query, p.tokens - 1)))
        with T.serial(0, end - first) as key:
            T.buffer_store(mask, b["mask"][row + first + key], [(first + key) * block.width + query])


def _attend(b: Buffers, p: AttentionParams, head: Head) -> None:
    """All scores of a head, then their softmax and the weighted sums by chunks of keys."""
    block = head.block
    for v in range(block.vectors):
        store(head.maxima, v * block.lanes, splat(-np.inf, block.lanes))
        store(head.sums, v * block.lanes, splat(0.0, block.lanes))
    if head.pairs is not None:
        head.pairs.fill_queries(b, block_row(p.layout("q"), block, p.q.offset + head.index * p.depth), p.width)
    by_tile(p, (0, p.keys), lambda tile, keys: by(block.rows, keys, lambda first, count: _scores(
        b, p, head, (tile, first, count))))

    step = p.step
    last = (p.keys - 1) // (step * p.width)
    if last:
        _weigh(b, p, head, (0, step * p.width), first=True, last=False)
    if last > 1:
        with T.serial(1, last) as i:
            _weigh(b, p, head, (i * step, step * p.width), first=False, last=False)
    _weigh(b, p, head, (last * step, p.keys - last * step * p.width), first=last == 0, last=True)


def _attend_within(b: Buffers, p: AttentionParams, head: Head, chunks: tuple[Expr, Expr]) -> None:
    """As `_attend`, of some chunks of keys alone."""
    block, (first, end), length = head.block, chunks, p.step * p.width
    whole = p.keys // length
    for v in range(block.vectors):
        store(head.maxima, v * block.lanes, splat(-np.inf, block.lanes))
        store(head.sums, v * block.lanes, splat(0.0, block.lanes))
    _scale_output(b, p, head, [splat(0.0, block.lanes)] * block.vectors, begun=False)

    def every(body: Callable[[Expr, int], None]) -> None:
        with T.serial(0, T.min(end, whole) - first) as i:
            body((first + i) * p.step, length)
        if p.keys % length:
            with T.If(end > whole), T.Then():
                body(whole * p.step, p.keys % length)

    every(lambda tile, keys: by_tile(p, (tile, keys), lambda tile, keys: by(
        block.rows, keys, lambda first, count: _scores(b, p, head, (tile, first, count)))))
    every(lambda tile, keys: _weigh(b, p, head, (tile, keys), first=False, last=False))
    _divide_output(b, p, head)


def _attend_seen(b: Buffers, p: AttentionParams, head: Head, keys: Expr) -> None:
    """As `_attend`, of keys that have been moved together, a number of them that the run tells."""
    block, length = head.block, p.step * p.width
    for v in range(block.vectors):
        store(head.maxima, v * block.lanes, splat(-np.inf, block.lanes))
        store(head.sums, v * block.lanes, splat(0.0, block.lanes))
    assert head.pairs is not None
    head.pairs.fill_queries(b, block_row(p.layout("q"), block, p.q.offset + head.index * p.depth), p.width)
    with T.serial(0, T.floordiv(keys, block.rows)) as i:
        _scores(b, p, head, (0, i * block.rows, block.rows))
    if p.keys <= length:
        _weigh(b, p, head, (0, keys), first=True, last=True)
        return
    _scale_output(b, p, head, [splat(0.0, block.lanes)] * block.vectors, begun=False)
    with T.serial(0, T.floordiv(keys + (length - 1), length)) as i:
        _weigh(b, p, head, (i * p.step, T.Bind(T.min(T.int32(length), keys - i * length))), first=False, last=False)
    _divide_output(b, p, head)


def _divide_output(b: Buffers, p: AttentionParams, head: Head) -> None:
    """A head of a block of y by the sums of its weights."""
    block = head.block
    _scale_output(b, p, head, [T.Bind(splat(1.0, block.lanes) / load(head.sums, v * block.lanes, block.lanes))
                               for v in range(block.vectors)], begun=True)


def _scale_output(b: Buffers, p: AttentionParams, head: Head, factors: list[Expr], *, begun: bool) -> None:
    """A head of a block of y times factors, or the factors in its place where it is not begun."""
    with T.serial(0, p.depth) as feature:
        y = T.Bind(block_row(p.output, head.block, head.index * p.depth + feature))
        for v, factor in enumerate(factors):
            at = y + v * head.block.lanes
            store(b["y"], at, load(b["y"], at, head.block.lanes) * factor if begun else factor)


def _fill_keys(b: Buffers, p: AttentionParams, head: Head, pairs: Pairs) -> None:
    """Pair the keys and values of a head."""
    feature = head.index * p.depth
    k, v = (partial(row_of, p.layout(name), head.block.b, feature=getattr(p, name).offset + feature) for name in "kv")
    pairs.fill_keys(b, KeyTiles(lambda tile: (k(tile), v(tile)), p.keys // p.width, p.keys % p.width, p.width, p.width))


def _scores(b: Buffers, p: AttentionParams, head: Head, keys: tuple[Expr, Expr, int]) -> None:
    """The scores of `count` keys from the `first` of a tile on, mask added; raises the maxima."""
    tile, first, count = keys
    block = head.block
    lanes, vectors = block.lanes, block.vectors
    totals = registers(count * vectors, lanes)
    for i in range(count * vectors):
        store(totals, i * lanes, splat(0.0, lanes))
    if head.pairs is not None:
        head.pairs.add_scores(totals, tile * p.width + first, count)
    else:
        _add_scores(b, p, head, totals, keys)
    for r in range(count):
        key = tile * p.width + first + r
        for v in range(vectors):
            score = load(totals, (r * vectors + v) * lanes, lanes) * splat(p.scale, lanes)
            if head.mask is not None:
                score = score + load(head.mask, key * block.width + v * lanes, lanes)
            elif p.mask is not None:
                score = score + splat(b["mask"][_mask_row(p, block.b, head.index, 0) + key], lanes)
            score = T.Bind(score)
            store(head.scores, key * block.width + v * lanes, score)
            store(head.maxima, v * lanes, T.max(load(head.maxima, v * lanes, lanes), score))


def _add_scores(b: Buffers, p: AttentionParams, head: Head, totals: Buffer, keys: tuple[Expr, Expr, int]) -> None:
    """Add the products of the block's queries with `count` keys to the totals (count x vectors)."""
    tile, first, count = keys
    block = head.block
    lanes, vectors = block.lanes, block.vectors
    q = T.Bind(block_row(p.layout("q"), block, p.q.offset + head.index * p.depth))
    k = T.Bind(row_of(p.layout("k"), block.b, tile, p.k.offset + head.index * p.depth) + first)
    with T.serial(0, p.depth) as d:
        queries = [T.Bind(load(b["q"], q + d * p.width + v * lanes, lanes)) for v in range(vectors)]
        for r in range(count):
            key = T.Bind(splat(b["k"][k + d * p.width + r], lanes))
            for v in range(vectors):
                add_to(totals, (r * vectors + v) * lanes, key * queries[v])


def _weigh(b: Buffers, p: AttentionParams, head: Head, chunk: tuple[Expr, Expr], *, first: bool, last: bool) -> None:
    """Softmax and weighted sums of a chunk of keys; the first chunk begins y, the last divides it by the sums."""
    block, (tile, keys) = head.block, chunk
    sums = head.sums if first and last else registers(block.vectors, block.lanes)  # of the chunk
    if sums is not head.sums:
        for v in range(block.vectors):
            store(sums, v * block.lanes, splat(0.0, block.lanes))
    with T.serial(0, keys) as key:
        for v in range(block.vectors):
            at = (tile * p.width + key) * block.width + v * block.lanes
            difference = load(head.scores, at, block.lanes) - load(head.maxima, v * block.lanes, block.lanes)
            power = T.Bind(exp_below_one(difference, block.lanes))
            store(head.scores, at, power)
            add_to(sums, v * block.lanes, power)
    if sums is not head.sums:
        for v in range(block.vectors):
            add_to(head.sums, v * block.lanes, load(sums, v * block.lanes, block.lanes))
    if head.pairs is not None:
        head.pairs.fill_weights(head.scores, sums, tile * p.width, keys)
    factors = registers(block.vectors, block.lanes)
    for v in range(block.vectors):
        total = load(head.sums, v * block.lanes, block.lanes)
        store(factors, v * block.lanes, splat(1.0, block.lanes) / total if last else splat(1.0, block.lanes))
    by(block.rows, p.depth, lambda feature, count: _weighted(
        b, p, head, (feature, count), chunk, factors, begun=not first))


def _weighted(b: Buffers, p: AttentionParams, head: Head, features: tuple[Expr, int], chunk: tuple[Expr, Expr],
              factors: Buffer, *, begun: bool) -> None:
    """Weighted sums of some features of V over a chunk of keys, added to y if that is begun, times the factors."""
    first, count = features
    block = head.block
    lanes, vectors = block.lanes, block.vectors
    y = T.Bind(block_row(p.output, block, head.index * p.depth + first))
    places = [(v, (r * vectors + v) * lanes, y + r * p.width + v * lanes) for r in range(count) for v in range(vectors)]
    totals = registers(count * vectors, lanes)
    for _, at, target in places:
        store(totals, at, load(b["y"], target, lanes) if begun else splat(0.0, lanes))

    def of_keys(tile: Expr, keys: int) -> None:
        values = T.Bind(row_of(p.layout("v"), block.b, tile, p.v.offset + head.index * p.depth + first))
        with T.serial(0, keys) as key:
            row = T.Bind((tile * p.width + key) * block.width)
            weights = [T.Bind(load(head.scores, row + v * lanes, lanes)) for v in range(vectors)]
            for r in range(count):
                value = T.Bind(splat(b["v"][values + r * p.width + key], lanes))
                for v in range(vectors):
                    add_to(totals, (r * vectors + v) * lanes, value * weights[v])

    if head.pairs is not None:
        head.pairs.add_weighted(totals, (chunk[0] * p.width, chunk[1]), first, count)
    else:
        by_tile(p, chunk, of_keys)
    for v, at, target in places:
        store(b["y"], target, load(totals, at, lanes) * load(factors, v * lanes, lanes))
