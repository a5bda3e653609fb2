"""From sums in registers to Y: through shared memory, so that lanes finish and store whole vectors.

Each warp passes its sums slice by slice through a piece of shared memory of its own. A slice is one or more blocks of 8
columns, lines along which Y is contiguous; they are padded so that the lanes' stores meet different banks.
"""

from __future__ import annotations

import math

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.cuda.block import Block, per_thread
from sparsec.kernels.cuda.codes import encoded
from sparsec.kernels.cuda.params import OUTPUTS, VECTOR_BYTES, MmaParams
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr

THREADS = 256  # of a block of the kernel that sums shares of K
LINES = 8  # of a block of columns
LANES = 32


def sum_type(p: MmaParams) -> str:
    """The dtype of sums; PTX keeps integers in untyped registers."""
    return "uint32" if p.dtype == "int8" else "float32"


def shared_bytes(p: MmaParams, blocks: int = 1) -> int:
    """Bytes of shared memory for the slices of all warps, of so many blocks of columns each; of a cluster all sums."""
    if p.cluster:
        return p.tile.columns * _cluster_stride(p) * 4
    return p.tile.threads // 32 * _slice_bytes(p, blocks)


def _line(p: MmaParams) -> tuple[int, int]:
    """Elements of a line, and floats from a line to the next."""
    length = p.tile.row_blocks * 16
    return length, length + 4


def _slice_bytes(p: MmaParams, blocks: int) -> int:
    return blocks * LINES * _line(p)[1] * 4


def _cluster_stride(p: MmaParams) -> int:
    """Floats from a column of a block's sums to the next."""
    return p.tile.rows + 4


def store(b: Block, sums: Buffer, blocks: int = 1) -> None:
    """Finish the block's sums and store them in Y, or as they are in `partial` where K is split.

    Slices of several blocks of columns keep more of a warp's accesses under way.
    """
    p, t = b.params, b.params.tile
    if p.cluster:
        _store_of_cluster(b, sums)
        return
    base = T.Bind((b.warp_column * t.warps[0] + b.warp_row) * _slice_bytes(p, blocks))
    bias = _own_bias(b) if blocks > 1 else None
    for first in range(0, t.column_blocks, blocks):
        for block in range(blocks):
            _write_block(b, sums, base + block * _slice_bytes(p, 1), first + block, _line(p)[1])
        ptx.warp_barrier()
        _read_slice(b, base, first, blocks, bias)
        ptx.warp_barrier()


def _own_bias(b: Block) -> Buffer:
    """The bias of the rows that a lane finishes, which are the same in every slice; None where they are not."""
    p = b.params
    vector = _vector(p)
    pieces = _line(p)[0] // vector
    if p.leaves_partial or LANES % pieces:
        return None
    bias, along = ptx.registers(vector, "float32"), T.Bind(b.row + b.warp_row * _line(p)[0] + b.lane % pieces * vector)
    for i in range(vector):
        T.buffer_store(bias, T.float32(0), [i])
    with T.If(along < p.m), T.Then():
        for i in range(vector):
            T.buffer_store(bias, b.buffers["bias"][along + i], [i])
    return bias


def _store_of_cluster(b: Block, sums: Buffer) -> None:
    """Show the cluster the block's sums; then finish and store those of an equal share of the columns, of all blocks.

    They are added in the order of the shares of K, so that results do not depend on which block is first.
    """
    p, t, stride, vector = b.params, b.params.tile, _cluster_stride(b.params), _vector(b.params)
    for number in range(t.column_blocks):
        line, along = (b.warp_column * t.column_blocks + number) * LINES, b.warp_row * t.row_blocks * 16
        _write_block(b, sums, T.Bind((line * stride + along) * 4), number, stride)
    ptx.cluster_barrier()
    there = ptx.registers(p.split_k)
    for rank in range(p.split_k):
        ptx.in_block(there, rank, b.shared, rank)
    pieces, lines = t.rows // vector, -(-t.columns // p.split_k)
    values, part = ptx.registers(vector, sum_type(p)), ptx.registers(vector, sum_type(p))

    def one(number: Expr) -> None:
        line, along = T.Bind(b.share * lines + number // pieces), T.Bind(number % pieces * vector)
        column, row = T.Bind(b.column + line), T.Bind(b.row + along)
        with T.If(T.And(line < t.columns, T.And(column < p.n, row < p.m))), T.Then():
            for rank in range(p.split_k):
                width = min(vector, 4)
                for first in range(0, vector, width):
                    ptx.load_of_cluster(part, first, width, there[rank], (line * stride + along + first) * 4)
                for i in range(vector):
                    T.buffer_store(values, part[i] if rank == 0 else values[i] + part[i], [i])
            finish(p, b.buffers, values, T.Bind(column * p.m + row), row, vector)

    per_thread(b, lines * pieces, one, unrolled=1)
    ptx.cluster_barrier()  # the others have read this block's sums


def _write_block(b: Block, sums: Buffer, base: Expr, number: int, stride: int) -> None:
    """Lane 4g + t holds rows g and g + 8 of a block of 16, and columns 2t and 2t + 1 of a block of 8."""
    t = b.params.tile
    g, pair = b.lane // 4, b.lane % 4 * 2
    keep = ptx.store_floats if sum_type(b.params) == "float32" else ptx.store_words
    for block in range(t.row_blocks):
        for half in range(2):
            for i in range(2):
                value = sums[(block * t.column_blocks + number) * 4 + half * 2 + i]
                at = base + ((pair + i) * stride + block * 16 + half * 8 + g) * 4
                keep(b.shared, at, [value])


def _read_slice(b: Block, base: Expr, number: int, blocks: int, bias: Buffer) -> None:
    """Finish and store the slice that begins with a block of columns."""
    p, t = b.params, b.params.tile
    length, stride = _line(p)
    vector = _vector(p)
    pieces = length // vector
    count = blocks * LINES * pieces
    line = b.column + (b.warp_column * t.column_blocks + number) * 8
    along = b.row + b.warp_row * length
    for turn in range(-(-count // LANES)):
        piece, values = T.Bind(turn * LANES + b.lane), ptx.registers(vector, sum_type(p))
        with T.If(piece < count), T.Then():
            width = min(vector, 4)
            for first in range(0, vector, width):
                ptx.load_words(values, first, width, b.shared,
                               base + (piece // pieces * stride + piece % pieces * vector + first) * 4)
            _store_vector(b, values, T.Bind(line + piece // pieces), T.Bind(along + piece % pieces * vector), bias)


def _vector(p: MmaParams) -> int:
    """Elements of Y that a lane stores at once: those of 16 bytes, or fewer where Y's lines are not aligned so."""
    widest = OUTPUTS[p.out if p.epilogue.residual else p.y_type]
    return math.gcd(p.m, VECTOR_BYTES // (4 if p.leaves_partial else widest))


def _store_vector(b: Block, values: Buffer, line: Expr, along: Expr, bias: Buffer) -> None:
    """Store values of a line from element `along` on, if they are inside Y."""
    p = b.params
    inside = T.And(line < p.n, along < p.m)
    with T.If(inside), T.Then():
        at = T.Bind(line * p.m + along)
        if p.leaves_partial:
            _store(b.buffers["partial"], T.Bind(b.share * p.outputs + at), values, _vector(p))
        else:
            finish(p, b.buffers, values, at, along, _vector(p), bias)


def finish(p: MmaParams, buffers: Buffers, values: Buffer, at: Expr, row: Expr, vector: int = 1,
           bias: Buffer = None) -> None:
    """Scale, bias, residual and activation of sums of `vector` rows, then store them from element `at` of Y on.

    `bias` is that of these rows, where it is in registers already.
    """
    results = ptx.registers(vector, p.y_type)
    if p.epilogue.residual:
        residual = ptx.registers(vector, p.out)
        _store(residual, 0, buffers["residual"], vector, at)
    for i in range(vector):
        output = row + i
        value = _scaled(p, buffers, values[i], output) if p.scaled else values[i]
        value = value + (buffers["bias"][output] if bias is None else bias[i])
        if p.epilogue.residual:
            value = value + T.Cast("float32", residual[i])
        value = _activated(p.epilogue, value)
        T.buffer_store(results, _coded(p, buffers, value), [i])
    _store(buffers["y"], at, results, vector)


def _coded(p: MmaParams, buffers: Buffers, value: Expr) -> Expr:
    """A float as Y has it."""
    return encoded(value, p.coded, buffers["codes"]) if p.coded else T.Cast(p.out, value)


def _scaled(p: MmaParams, buffers: Buffers, total: Expr, output: Expr) -> Expr:
    """The product of a sum and its output's scale, rounded before anything is added, as references round it."""
    if p.dtype == "int8":
        total = T.Cast("float32", T.reinterpret("int32", total) + buffers["offset"][output])
    product = ptx.registers(1, "float32")
    ptx.emit("mul.rn.f32", product[0], total, buffers["scale"][output])
    return product[0]


def _activated(e: Epilogue, value: Expr) -> Expr:
    """The activation of a float; NaN stays NaN, although a GPU's maximum and minimum return their other operand."""
    if e.activation == "none":
        return value
    value = T.Bind(value)
    return T.Select(T.isnan(value), value, ACTIVATIONS[e.activation](value, 1, e.alpha, e.beta))


def _store(to: Buffer, at: Expr, source: Buffer, vector: int, first: Expr = 0) -> None:
    """Copy a vector of a buffer to another."""
    if vector == 1:
        T.buffer_store(to, source[first], [at])
        return
    T.buffer_store(to, source[T.Ramp(first, 1, vector)], [T.Ramp(at, 1, vector)])


def sum_shares(p: MmaParams, buffers: Buffers) -> None:
    """A second kernel: Y from the partial sums of all shares of K."""
    vector = _vector(p)
    pieces = p.outputs // vector
    with (T.launch_thread("blockIdx.x", -(-pieces // THREADS)) as block,
          T.launch_thread("threadIdx.x", THREADS) as thread):
        at = T.Bind((block * THREADS + thread) * vector)
        values = ptx.registers(vector, sum_type(p))
        with T.If(at < p.outputs), T.Then():
            for i in range(vector):
                value = buffers["partial"][at + i]
                for share in range(1, p.split_k):
                    value = value + buffers["partial"][share * p.outputs + at + i]
                T.buffer_store(values, value, [i])
            finish(p, buffers, values, at, at % p.m, vector)
