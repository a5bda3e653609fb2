"""Depthwise convolution with windows too large to be written out: rows of the window are a loop over a padded copy.

The image of a channel is copied with its padding first, which costs little beside a large window's products; then no
tap needs a mask, and a block of output rows shares every broadcast weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.images.padded import columns, end_row, fill, padded_rows, put
from sparsec.kernels.cpu.images.window import Tile, Window, pieces, rows_inside
from sparsec.kernels.emit.loops import along
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, add_to, load, registers, splat, store

WRITTEN = 121
"""Taps of a window up to which all are written out."""
ROWS = 7
"""Rows of a block: a broadcast weight is used so often."""
TAPS = 16
"""Taps of a window's row that are written out."""


@dataclass(frozen=True)
class _Copy:
    """The padded image of one channel that a window slides over."""

    buffer: Buffer
    row_stride: int


def convolve(b: Buffers, w: Window, c: Expr, lanes: int, finish: Callable[[Expr, Tile, int], Expr]) -> None:
    """Emit the convolution of channel `c`; `finish` has what follows it, from the sum, its tile and row."""
    target = padded_rows(w.target)
    height = (target.height - 1) * w.strides[0] + w.reach[0] + 1
    row_stride = round_up((round_up(target.width, lanes) + lanes) * w.strides[1] + w.reach[1], lanes)
    copy = _Copy(T.alloc_buffer((height * row_stride,), "float32", scope="global"), row_stride)
    block = min(target.height, ROWS)
    with T.serial(0, target.batch) as n:
        _copy_image(b["x"], w, (n, c), copy, height, lanes)
        with T.serial(0, -(-target.height // block)) as index:
            row = T.Bind(T.min(index * block, target.height - block))

            def vector(t: Expr) -> None:
                total = _sums(b, w, copy, Tile(n, c, row, t, lanes), block)
                for i in range(block):
                    value = finish(load(total, i * lanes, lanes), Tile(n, c, row, t, lanes), i)
                    put(b["y"], w.target, target.start(n, c, row + i), t * lanes, value)

            along(-(-target.width // lanes), 0, target.width // lanes, vector, unroll=1)
            for i in range(block):
                end_row(b["y"], w.target, target.start(n, c, row + i), lanes)


def _copy_image(x: Buffer, w: Window, image: tuple[Expr, Expr], copy: _Copy, height: int, lanes: int) -> None:
    """Copy an image's channel with zeros around it."""
    source, (top, left), width = padded_rows(w.source), w.begins, copy.row_stride
    first, end = min(height, top), min(height, top + source.height)
    for bounds in ((0, first), (end, height)):
        with T.serial(*bounds) as i:
            fill(copy.buffer, i * width, width, lanes)
    with T.serial(first, end) as i:
        start = T.Bind(source.start(*image, i - top))
        along(width // lanes, -(-left // lanes), (source.width + left) // lanes, lambda t: store(
            copy.buffer, i * width + t * lanes, columns(x, start, t * lanes - left, 1, 0, lanes, source.width)))


def _sums(b: Buffers, w: Window, copy: _Copy, tile: Tile, block: int) -> Buffer:
    """Registers with the bias and the products of each row of a tile."""
    (sh, sw), (dh, dw), (kh, kw), lanes = w.strides, w.dilations, w.kernel, tile.lanes
    total = registers(block, lanes)
    for i in range(block):
        store(total, i * lanes, splat(b["bias"][tile.c], lanes))
    with T.serial(*rows_inside(w, tile.row, block)) as k:
        for first, taps in pieces(kw, round_up(TAPS, sw)):
            starts = [T.Bind(((tile.row + i) * sh + k * dh) * copy.row_stride + tile.vector * (lanes * sw) + first * dw)
                      for i in range(block)]
            pixels = [_pixels(copy, start, w, taps, lanes) for start in starts]
            for j in range(taps):
                weight = T.Bind(splat(b["weight"][(tile.c * kh + k) * kw + first + j], lanes))
                for i in range(block):
                    add_to(total, i * lanes, weight * pixels[i](j))
    return total


def _pixels(copy: _Copy, start: Expr, w: Window, taps: int, lanes: int) -> Callable[[int], Expr]:
    """The pixels that a tap by number meets, from `start` on: neighbours are shifted out of vectors loaded once."""
    step, apart = w.strides[1], w.dilations[1]
    if step == apart == 1 and lanes > 1:
        vectors = [T.Bind(load(copy.buffer, start + v * lanes, lanes)) for v in range((taps + lanes - 2) // lanes + 1)]
        return lambda j: vectors[j // lanes] if not j % lanes else T.Shuffle(
            vectors[j // lanes:j // lanes + 2], list(range(j % lanes, j % lanes + lanes)))
    return lambda j: columns(copy.buffer, start + j * apart // step * step, 0, step, j * apart % step, lanes,
                             copy.row_stride)
