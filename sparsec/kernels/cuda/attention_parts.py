"""Attention whose keys are divided among thread blocks: what each leaves, and the kernel that puts them together.

A share of the keys leaves for every row (a query of a head) its largest score, the sum of its weights relative to that,
and its values summed by these (Dao et al., Flash-Decoding, 2023). A share without keys leaves nothing that counts.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.attention_sizes import QUAD, Block, token_of
from sparsec.kernels.divided_keys import STATISTICS
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

THREADS = 128
NUMBERS = ("rows", "shares")
"""What the kernel of run-time sizes is told."""


def store(b: Block, sums: Buffer, maxima: Buffer, totals: Buffer) -> None:
    """Leave what the block's share has come to; totals are those of whole rows."""
    p, partial = b.params, b.buffers["partial"]
    rows = T.Bind(b.sizes.rows)
    for row in range(2 * p.tile.row_blocks):
        token = T.Bind(token_of(b, row))
        at = T.Bind(b.share * rows + (b.batch * b.sizes.queries + token) * b.sizes.heads + b.head)
        with T.If(token < b.sizes.queries), T.Then():
            for column_block in range(p.width // 8):
                first = (row // 2 * p.width // 8 + column_block) * 4 + row % 2 * 2
                pair = T.Ramp(at * p.width + column_block * 8 + b.lane % QUAD * 2, 1, 2)
                T.buffer_store(partial, sums[T.Ramp(first, 1, 2)], [pair])
            with T.If(b.lane % QUAD == 0), T.Then():
                behind = T.Bind(b.sizes.splits * rows * p.width + at * STATISTICS)
                T.buffer_store(partial, maxima[row], [behind])
                T.buffer_store(partial, totals[row], [behind + 1])


def combine(buffers: Buffers, rows: Expr, shares: Expr, width: int, unit: float) -> None:
    """Emit the launch that puts shares together: two features a thread.

    A score s stands for the power e^(s * unit / log2 e), as in `attention`.
    """
    partial, y = buffers["partial"], buffers["y"]
    pairs = rows * (width // 2)
    with (T.launch_thread("blockIdx.x", (pairs + (THREADS - 1)) // THREADS) as block,
          T.launch_thread("threadIdx.x", THREADS) as thread):
        pair = T.Bind(block * THREADS + thread)
        with T.If(pair < pairs), T.Then():
            row, behind = T.Bind(pair // (width // 2)), T.Bind(shares * rows * width)
            found, factor = ptx.registers(4, "float32"), ptx.registers(1, "float32")
            T.buffer_store(found, partial[behind + row * STATISTICS], [0])
            for register in range(1, 4):
                T.buffer_store(found, T.float32(0), [register])
            with T.serial(1, shares) as share:
                T.buffer_store(found, T.max(found[0], partial[behind + (share * rows + row) * STATISTICS]), [0])
            with T.serial(0, shares) as share:
                at = T.Bind(behind + (share * rows + row) * STATISTICS)
                ptx.exp2(factor, 0, (partial[at] - found[0]) * T.float32(unit))
                T.buffer_store(found, found[1] + partial[at + 1] * factor[0], [1])
                for i in range(2):
                    value = partial[share * rows * width + pair * 2 + i]
                    T.buffer_store(found, found[2 + i] + value * factor[0], [2 + i])
            scale = T.Bind(T.float32(1) / found[1])
            result = ptx.registers(1)
            ptx.pack_halves(result, 0, found[2] * scale, found[3] * scale, str(y.dtype))
            ptx.emit("st.global.b32", y.ptr_to([pair * 2]), result[0])


def build(width: int, dtype: str, unit: float) -> Kernel:
    """The kernel of run-time sizes: (partial, y), then `NUMBERS`."""
    return pipeline.sized_func({"partial": "float32", "y": dtype}, NUMBERS, lambda buffers, told: combine(
        buffers, told["rows"], told["shares"], width, unit))
