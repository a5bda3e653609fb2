"""Pools of windows too large to be written out: down the columns of the image first, then along what that leaves.

Maxima and sums are separable, so that an output takes as many steps as its window has rows and columns, in loops.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.images.padded import columns, end_row, number, padded_rows, put
from sparsec.kernels.cpu.images.window import Window, pieces, rows_inside
from sparsec.kernels.emit.loops import along
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, load, registers, splat, store

WRITTEN = 49
"""Taps of a window up to which all are written out."""
TAPS = 16
"""Taps of a row that are written out."""


def pool(b: Buffers, w: Window, c: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr], neutral: float,
         finish: Callable[[Expr, Expr, Expr], Expr]) -> None:
    """Emit the pool of channel `c`.

    Args:
        b: x and y, and what `finish` reads.
        w: the window.
        c: the channel.
        lanes: of a vector.
        combine: the larger or the sum of two vectors.
        neutral: what `combine` leaves the other of.
        finish: from what is combined, the output's row and its vector within the row to what is written.

    """
    target, dtype = padded_rows(w.target), str(b["x"].dtype)
    (_, sw), (_, dw), (_, kw) = w.strides, w.dilations, w.kernel
    width = round_up((round_up(target.width, lanes) + lanes) * sw + w.reach[1], lanes)
    line = T.alloc_buffer((width,), dtype, scope="global")

    def combined(total: Buffer, vector: Expr) -> None:
        store(total, 0, combine(load(total, 0, lanes), vector))

    def begun() -> Buffer:
        total = registers(1, lanes, dtype)
        store(total, 0, splat(number(neutral, dtype), lanes))
        return total

    def vector(n: Expr, h: Expr, t: Expr) -> None:
        total = begun()
        for first, taps in pieces(kw, round_up(TAPS, sw)):
            start = t * (lanes * sw) + first * dw
            for j in range(taps):
                combined(total, columns(line, start + j * dw // sw * sw, 0, sw, j * dw % sw, lanes, width))
        put(b["y"], w.target, target.start(n, c, h), t * lanes, finish(load(total, 0, lanes), h, t))

    with T.serial(0, target.batch) as n, T.serial(0, target.height) as h:
        _down(b["x"], w, (n, c, h), line, width, lanes, neutral, begun, combined)
        along(-(-target.width // lanes), 0, target.width // lanes, lambda t: vector(n, h, t), unroll=1)
        end_row(b["y"], w.target, target.start(n, c, h), lanes)


def _down(x: Buffer, w: Window, row: tuple[Expr, Expr, Expr], line: Buffer, width: int, lanes: int, neutral: float,
          begun: Callable[[], Buffer], combined: Callable[[Buffer, Expr], None]) -> None:
    """Combine every column of the input rows that an output row (image, channel, row) meets into `line`."""
    source, (top, left), (n, c, h) = padded_rows(w.source), w.begins, row
    first, end = rows_inside(w, h)

    def vector(t: Expr) -> None:
        total = begun()
        with T.serial(first, end) as k:
            start = source.start(n, c, h * w.strides[0] + k * w.dilations[0] - top)
            combined(total, columns(x, start, t * lanes - left, 1, 0, lanes, source.width, neutral))
        store(line, t * lanes, load(total, 0, lanes))

    along(width // lanes, -(-left // lanes), (source.width + left) // lanes, vector, unroll=1)
