"""Fused attention on tensor cores: Y = softmax(scale * Q K^T + mask) V for every head, in one pass over the keys.

A thread block takes some queries of a head, and its warps share the keys and values that arrive in shared memory. The
scores never leave the registers: the sums of Q K^T lie in a warp as its left operand of the product with V does, and
the sums so far are scaled whenever a row's maximum rises (Dao, FlashAttention-2, 2023, algorithm 1).

Projections are read, and Y is written, as (batch, tokens, heads * width); where sizes and strides are the run's, see
`sized_attention.py`. Keys beyond the end weigh nothing. A query whose mask is -inf for every key yields NaN, and one
whose mask is the same large negative number weighs all keys alike, as in onnxruntime.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.errors import FormatError
from sparsec.kernels.cuda import attention_parts, pipeline, ptx
from sparsec.kernels.cuda.attention_params import CHUNK, LOG2E, STAGES, STEP, AttentionParams, reject, unit
from sparsec.kernels.cuda.attention_sizes import QUAD, Block, Fixed, Sizes, token_of
from sparsec.kernels.cuda.attention_turns import Every, Listed, Stage, Turns
from sparsec.kernels.cuda.block import all_of, deal
from sparsec.kernels.cuda.mma_dense import INSTRUCTIONS
from sparsec.kernels.cuda.params import VECTOR_BYTES
from sparsec.kernels.cuda.staging import swizzled
from sparsec.kernels.divided_keys import partial_length
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

LOWEST = float(np.finfo(np.float32).min)
AHEAD = STAGES - 1  # turns of keys that are being copied, as `attention_turns` has it


@dataclass(frozen=True)
class _Registers:
    """What a thread keeps; rows are numbered by blocks of 16 and their halves, sums lie as the instruction leaves them.

    Attributes:
        queries: the fragments of Q, four registers for every block of rows and step.
        scores: of a stage's keys, four for every block of rows and eight keys; then their weights.
        sums: of weighted values, four for every block of rows and eight features.
        maxima: the largest score so far by row.
        totals: this lane's part of the sum of weights by row.

    """

    queries: Buffer
    scores: Buffer
    sums: Buffer
    maxima: Buffer
    totals: Buffer


def arguments(p: AttentionParams) -> pipeline.Arguments:
    """The kernel's buffers in order: q, k, v, mask, lists of keys and what shares leave where there are such, y."""
    result = {name: (p.batch * tokens * getattr(p, name).features, p.dtype)
              for name, tokens in (("q", p.queries), ("k", p.keys), ("v", p.keys))}
    if p.mask is not None:
        result["mask"] = (int(np.prod(p.mask)), "float32")
    if p.listed:
        result["lists"] = (p.lists * (1 + p.key_blocks), "int32")
    if p.splits > 1:
        result["partial"] = (partial_length(p.rows, p.width, p.splits), "float32")
    result["y"] = (p.batch * p.queries * p.heads * p.width, p.dtype)
    return result


def build(p: AttentionParams) -> Kernel:
    """The kernel: (q, k, v, [mask], [lists]) -> [partial], y; several projections of one buffer are passed for each.

    Raises:
        FormatError: no kernel computes the attention.

    """
    if reason := reject(p):
        raise FormatError(f"no kernel for {p}: {reason}")
    def body(buffers: Buffers) -> None:
        attend(p, Fixed(p), buffers)
        if p.splits > 1:
            attention_parts.combine(buffers, p.rows, p.splits, p.width, unit(masked=p.mask is not None))

    return pipeline.prim_func(arguments(p), body)


def attend(p: AttentionParams, sizes: Sizes, buffers: Buffers) -> None:
    """Emit the launch, for sizes that are those of the parameters or the run's."""
    t, shares = p.tile, not isinstance(sizes.splits, int) or sizes.splits > 1
    with ExitStack() as frames:
        number = frames.enter_context(T.launch_thread("blockIdx.x", sizes.blocks))
        share = frames.enter_context(T.launch_thread("blockIdx.y", sizes.splits)) if shares else 0
        thread = frames.enter_context(T.launch_thread("threadIdx.x", t.threads))
        shared, matrix = ptx.shared_memory(p.shared_bytes), T.Bind(number // sizes.query_blocks)
        block = number % sizes.query_blocks
        if p.listed:  # those of a causal mask that see most come first
            block = sizes.query_blocks - 1 - block
        b = Block(p, sizes, buffers, shared, thread, T.Bind(thread % 32), T.Bind(thread // 32 * (16 * t.row_blocks)),
                  T.Bind(block * t.queries), T.Bind(matrix % sizes.heads), T.Bind(matrix // sizes.heads), share)
        _copy(b, "q", 0, b.query, t.queries, sizes.queries)
        ptx.commit()
        turns = _turns(b)
        turns.start()
        r = _go_over(b, turns, sizes.last_keys if isinstance(turns.count, int) else None)
        _store(b, r)


def _turns(b: Block) -> Turns:
    """The stages that the block goes over."""
    sizes, count, begin, there = b.sizes, b.sizes.key_blocks, None, b.sizes.listed()
    if b.params.listed:
        begin = T.Bind(sizes.list_begin(b))
        listed = b.buffers["lists"][begin]
        count = T.Bind(listed if there is True else T.if_then_else(there, listed, count))
    if isinstance(sizes.splits, int) and sizes.splits == 1:
        first, own = 0, count
    else:
        most = T.Bind((count + (sizes.splits - 1)) // sizes.splits)
        first = T.Bind(b.share * most)
        own = T.Bind(T.min(most, count - first))
    return Every(first, own) if begin is None else Listed(b.buffers["lists"], begin, (first, own, count), there)


def _go_over(b: Block, turns: Turns, last_keys: int | None) -> _Registers:
    """Multiply all turns; `last_keys` are those of the last one, None where only the run knows."""
    p = b.params

    def fill(turn: Expr) -> None:
        base, first = T.Bind(_stage(p, turn)), turns.copied * p.tile.keys
        _copy(b, "k", base, first, p.tile.keys, b.sizes.keys)
        _copy(b, "v", base + p.stage_bytes // 2, first, p.tile.keys, b.sizes.keys)

    def one(turn: Expr, keys: int, *, ends: bool = False) -> None:
        turns.step(turn)
        pipeline.advance(AHEAD, turn, turns.count, fill)
        first = turns.multiplied * p.tile.keys
        _attend(b, r, Stage(turn, first, keys, T.Bind(b.sizes.keys - first) if ends else None, turns.masked))

    pipeline.prefill(AHEAD, turns.count, fill)
    r = _begin(b)
    last = turns.count - 1
    if not isinstance(last, int) or last:
        with T.serial(0, last if isinstance(last, int) else T.max(last, 0)) as turn:
            one(turn, p.tile.keys)
    if last_keys is not None:
        one(last, last_keys)
        return r
    with T.If(last >= 0), T.Then():
        one(last, p.tile.keys, ends=True)
    return r


def _stage(p: AttentionParams, turn: Expr) -> Expr:
    """The byte at which the stage of a turn begins."""
    return p.query_bytes + turn % STAGES * p.stage_bytes


def _copy(b: Block, name: str, base: Expr, first: Expr, count: int, tokens: Expr) -> None:
    """Start copying a head's features of `count` tokens of a projection to byte `base`; zeros beyond the last one."""
    p = b.params
    chunks = p.steps * STEP // CHUNK

    def one(number: Expr) -> None:
        row, chunk = T.Bind(number // chunks), T.Bind(number % chunks)
        token = first + row
        inside = []
        if b.sizes.ends_within(name, count):
            inside.append(token < tokens)
        if p.width % STEP:
            inside.append(chunk < p.width // CHUNK)
        index = b.sizes.first(b, name, token) + chunk * CHUNK
        ptx.copy_async(b.shared, base + swizzled(row, chunk, p.row_chunks), b.buffers[name], index, VECTOR_BYTES,
                       all_of(inside))

    deal(p.tile.threads, b.thread, count * chunks, one)


def _begin(b: Block) -> _Registers:
    """The registers before the first key."""
    p, rows = b.params, b.params.tile.row_blocks
    r = _Registers(ptx.registers(rows * p.steps * 4), ptx.registers(rows * p.tile.keys // 2, "float32"),
                   ptx.registers(rows * p.width // 2, "float32"), ptx.registers(2 * rows, "float32"),
                   ptx.registers(2 * rows, "float32"))
    ptx.wait(AHEAD)  # for the queries, which were the first to be copied
    ptx.barrier()
    for block in range(rows):
        for step in range(p.steps):
            row, chunk = b.row + block * 16 + b.lane % 16, step * 2 + b.lane // 16
            ptx.load_matrices(r.queries, b.shared, swizzled(row, chunk, p.row_chunks), transposed=False,
                              first=(block * p.steps + step) * 4)
    _set(r.sums, rows * p.width // 2, 0.0)
    _set(r.maxima, 2 * rows, LOWEST)  # finite, so that its difference from a row of -inf is no NaN
    _set(r.totals, 2 * rows, 0.0)
    return r


def _set(registers: Buffer, count: int, value: float) -> None:
    for i in range(count):
        T.buffer_store(registers, T.float32(value), [i])


def _attend(b: Block, r: _Registers, stage: Stage) -> None:
    """Add the values of a stage's keys."""
    p = b.params
    base = T.Bind(_stage(p, stage.turn))
    _multiply_keys(b, r, base, stage.keys)
    _finish_scores(b, r, stage)
    _softmax(b, r, unit(masked=p.mask is not None), stage.keys)
    _multiply_values(b, r, base + p.stage_bytes // 2, stage.keys)


def _multiply_keys(b: Block, r: _Registers, base: Expr, keys: int) -> None:
    """The scores' products: queries times keys."""
    p, rows = b.params, b.params.tile.row_blocks
    fragment = ptx.registers(4)
    _set(r.scores, rows * p.tile.keys // 2, 0.0)
    for step in range(p.steps):
        for pair in range(-(-keys // 16)):  # of blocks of eight keys
            row, chunk = pair * 16 + b.lane // 16 * 8 + b.lane % 8, step * 2 + b.lane // 8 % 2
            ptx.load_matrices(fragment, b.shared, base + swizzled(row, chunk, p.row_chunks), transposed=False)
            for column_block in range(pair * 2, min(pair * 2 + 2, -(-keys // 8))):
                right = [fragment[column_block % 2 * 2 + i] for i in range(2)]
                for block in range(rows):
                    left = [r.queries[(block * p.steps + step) * 4 + i] for i in range(4)]
                    ptx.multiply(INSTRUCTIONS[p.dtype], r.scores, _sums(p.tile.keys, block, column_block), left, right)


def _sums(columns: int, block: int, column_block: int) -> int:
    """The first of a lane's four sums in a block of 16 rows and eight columns: two of row g, two of row g + 8."""
    return (block * columns // 8 + column_block) * 4


def _elements(p: AttentionParams, keys: int, row: int) -> Iterator[tuple[int, int, int]]:
    """The scores that a lane holds of a row: their registers, blocks of eight keys, and places in the lane's pair."""
    for column_block in range(-(-keys // 16) * 2):
        for i in range(2):
            yield _sums(p.tile.keys, row // 2, column_block) + row % 2 * 2 + i, column_block, i


def _finish_scores(b: Block, r: _Registers, stage: Stage) -> None:
    """Scores from products with a stage's keys: scaled, masked, and -inf beyond the last key."""
    p, mask, keys = b.params, None, stage.keys
    factor = p.scale * LOG2E if p.mask is None else p.scale
    for row in range(2 * p.tile.row_blocks):
        if p.mask is not None:
            own = b.sizes.mask(b, stage, row)
            mask = mask if own is None else own
        for at, column_block, i in _elements(p, keys, row):
            score = r.scores[at] * T.float32(factor)
            if mask is not None:
                score = score + mask[column_block * 2 + i]
            if stage.valid is not None or (column_block + 1) * 8 > keys:
                inside = column_block * 8 + b.lane % QUAD * 2 + i < (keys if stage.valid is None else stage.valid)
                score = T.Select(inside, score, T.float32(-np.inf))
            T.buffer_store(r.scores, score, [at])


def _softmax(b: Block, r: _Registers, unit: float, keys: int) -> None:
    """Scores to weights relative to the rows' maxima, to which what was summed before is scaled.

    A score s stands for the power e^(s * unit / log2 e).
    """
    p, rows = b.params, 2 * b.params.tile.row_blocks
    before = ptx.registers(rows, "float32")
    for row in range(rows):
        T.buffer_store(before, r.maxima[row], [row])
        highest = functools.reduce(T.max, [r.scores[at] for at, _, _ in _elements(p, keys, row)])
        T.buffer_store(r.maxima, T.max(r.maxima[row], T.cuda.warp_max(highest, QUAD)), [row])
    for row in range(rows):
        ptx.exp2(before, row, (before[row] - r.maxima[row]) * T.float32(unit))
        _rescale(b, r, row, before[row])
        for at, _, _ in _elements(p, keys, row):
            ptx.exp2(r.scores, at, (r.scores[at] - r.maxima[row]) * T.float32(unit))
            T.buffer_store(r.totals, r.totals[row] + r.scores[at], [row])


def _rescale(b: Block, r: _Registers, row: int, factor: Expr) -> None:
    """Multiply a row's total and sums."""
    T.buffer_store(r.totals, r.totals[row] * factor, [row])
    for column_block in range(b.params.width // 8):
        for i in range(2):
            at = _sums(b.params.width, row // 2, column_block) + row % 2 * 2 + i
            T.buffer_store(r.sums, r.sums[at] * factor, [at])


def _multiply_values(b: Block, r: _Registers, base: Expr, keys: int) -> None:
    """Add the products of weights and values."""
    p, rows = b.params, b.params.tile.row_blocks
    weights, fragment = ptx.registers(rows * 4), ptx.registers(4)
    for step in range(-(-keys // STEP)):
        for block in range(rows):
            for i in range(4):  # halves of the columns, then of the rows
                at = _sums(p.tile.keys, block, step * 2 + i // 2) + i % 2 * 2
                ptx.pack_halves(weights, block * 4 + i, r.scores[at], r.scores[at + 1], p.dtype)
        for pair in range(p.steps):  # of blocks of eight features
            row, chunk = step * STEP + b.lane % 16, pair * 2 + b.lane // 16
            ptx.load_matrices(fragment, b.shared, base + swizzled(row, chunk, p.row_chunks), transposed=True)
            for column_block in range(pair * 2, min(pair * 2 + 2, p.width // 8)):
                right = [fragment[column_block % 2 * 2 + i] for i in range(2)]
                for block in range(rows):
                    ptx.multiply(INSTRUCTIONS[p.dtype], r.sums, _sums(p.width, block, column_block),
                                 [weights[block * 4 + i] for i in range(4)], right)


def _store(b: Block, r: _Registers) -> None:
    """Store the rows' results, or what the block's share of the keys has come to."""
    for row in range(2 * b.params.tile.row_blocks):
        T.buffer_store(r.totals, T.cuda.warp_sum(r.totals[row], QUAD), [row])
    if isinstance(b.sizes.splits, int):
        if b.sizes.splits == 1:
            _store_results(b, r)
        else:
            attention_parts.store(b, r.sums, r.maxima, r.totals)
        return
    with T.If(b.sizes.splits == 1):
        with T.Then():
            _store_results(b, r)
        with T.Else():
            attention_parts.store(b, r.sums, r.maxima, r.totals)


def _store_results(b: Block, r: _Registers) -> None:
    """Divide the sums by the rows' totals and store them in Y."""
    p = b.params
    result = ptx.registers(1)
    for row in range(2 * p.tile.row_blocks):
        share = T.Bind(T.float32(1) / r.totals[row])
        token = T.Bind(token_of(b, row))
        start = T.Bind(b.sizes.first(b, "y", token) + b.lane % QUAD * 2)
        with T.If(token < b.sizes.queries), T.Then():
            for column_block in range(p.width // 8):
                at = _sums(p.width, row // 2, column_block) + row % 2 * 2
                ptx.pack_halves(result, 0, r.sums[at] * share, r.sums[at + 1] * share, p.dtype)
                ptx.emit("st.global.b32", b.buffers["y"].ptr_to([start + column_block * 8]), result[0])
