"""Vocabulary of the kernels over images: rows in a flat buffer, vectors along a row, and the edges of both.

Nothing here reads or writes outside a channel's pixels and padding: vectors that hang over an edge use masked loads and
stores, which cost nothing on AVX-512 and little on AVX2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, round_up
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, each, shared
from sparsec.kernels.emit.tir import Buffer, Expr, lanes_of, load, splat, store


@dataclass(frozen=True)
class Rows:
    """Where the rows of images (batch, channels, height, width) lie in a flat buffer, whatever its layout."""

    batch: int
    channels: int
    height: int
    width: int
    origin: int
    channel_stride: int
    image_stride: int
    row_stride: int
    size: int

    def start(self, n: Expr, c: Expr, h: Expr) -> Expr:
        """Index of pixel (n, c, h, 0)."""
        return self.origin + c * self.channel_stride + n * self.image_stride + h * self.row_stride


def plain_rows(batch: int, channels: int, height: int, width: int) -> Rows:
    """The rows of a row-major (batch, channels, height, width) array."""
    area = height * width
    return Rows(batch, channels, height, width, 0, area, channels * area, width, batch * channels * area)


def padded_rows(layout: PaddedFlat) -> Rows:
    """The rows of a padded flat layout."""
    return Rows(layout.batch, layout.channels, layout.height, layout.width, layout.origin, layout.channel_stride,
                layout.pitch * layout.row_stride, layout.row_stride, layout.size)


def pixels(buffer: np.ndarray, rows: Rows) -> np.ndarray:
    """A writable (batch, channels, height, width) view of a flat numpy buffer."""
    shape = (rows.batch, rows.channels, rows.height, rows.width)
    strides = (rows.image_stride, rows.channel_stride, rows.row_stride, 1)
    return np.lib.stride_tricks.as_strided(buffer[rows.origin:], shape, [buffer.itemsize * s for s in strides])








def blank(layout: PaddedFlat) -> np.ndarray:
    """A flat numpy buffer with the layout's padding; where that is undefined it is NaN, or 0 for codes."""
    undefined = np.nan if layout.dtype == "float32" else 0
    buffer = np.full(layout.size, layout.padding if layout.clean else undefined, layout.dtype)
    buffer[layout.channels * layout.channel_stride:] = undefined
    return buffer


def lane_mask(first: int, end: int, lanes: int) -> Expr:
    """A constant vector that is true in lanes first <= l < end."""
    lane = T.Ramp(T.int32(0), 1, lanes)
    mask = lane < T.Broadcast(T.int32(end), lanes)
    return mask if first <= 0 else T.bitwise_and(mask, lane >= T.Broadcast(T.int32(first), lanes))


def number(value: float, dtype: str) -> Expr:
    """A constant of an element type."""
    return tvm.tirx.const(value if dtype == "float32" else int(value), dtype)


def _llvm(buffer: Buffer, lanes: int) -> str:
    """LLVM's suffix for a vector of a buffer's elements."""
    return f"v{lanes}{ {'float32': 'f32', 'int32': 'i32', 'uint8': 'i8', 'int8': 'i8'}[str(buffer.dtype)]}"


def load_lanes(buffer: Buffer, index: Expr, lanes: int, first: int, end: int, fill: float = 0.0) -> Expr:
    """A vector whose lanes first <= l < end come from the buffer at `index + l`; the others hold `fill`, unread."""
    if first <= 0 and end >= lanes:
        return load(buffer, index, lanes)
    others = splat(number(fill, buffer.dtype), lanes)
    if end <= max(first, 0):
        return others
    return T.call_llvm_intrin(f"{buffer.dtype}x{lanes}", f"llvm.masked.load.{_llvm(buffer, lanes)}.p0",
                              _address(buffer, index, "r"), lane_mask(first, end, lanes), others)


def store_lanes(buffer: Buffer, index: Expr, vector: Expr, end: int) -> None:
    """Store the lanes l < end of a vector; nothing else is touched."""
    lanes = lanes_of(vector)
    if end >= lanes:
        store(buffer, index, vector)
    elif end > 0:
        T.evaluate(T.call_llvm_intrin("void", f"llvm.masked.store.{_llvm(buffer, lanes)}.p0", vector,
                                      _address(buffer, index, "w"), lane_mask(0, end, lanes)))


def _address(buffer: Buffer, index: Expr, access: str) -> Expr:
    """A pointer into the buffer; `T.address_of` would have TVM shrink a scratch as if one element were touched."""
    return buffer.access_ptr(access, offset=index)


def keep_lanes(vector: Expr, end: int, other: Expr) -> Expr:
    """The vector with a constant in lanes l >= end, whatever they held.

    Not a T.Select: inside of one, TVM takes its condition for true, and so would undo the masks of loads in `vector`.
    """
    lanes = lanes_of(vector)
    if end >= lanes:
        return vector
    return T.Shuffle([vector, splat(other, lanes)], [lane if lane < end else lanes + lane for lane in range(lanes)])


def fill(buffer: Buffer, start: Expr, count: int, lanes: int, value: float = 0.0) -> None:
    """Set `count` elements from index `start`."""
    vector = splat(number(value, buffer.dtype), lanes)
    each(0, count // lanes, lambda t: store(buffer, start + t * lanes, vector))
    store_lanes(buffer, start + count // lanes * lanes, vector, count % lanes)


def columns(buffer: Buffer, start: Expr, first: Expr, step: int, phase: int, lanes: int, width: int,
            outside: float = 0.0) -> Expr:
    """Every `step`-th pixel of a row: lane l holds column `first + phase + l * step`.

    Args:
        buffer: where the row is.
        start: index of the row's column 0.
        first: an int, or an expression where the columns [first, first + lanes * step) are known to be inside the row.
        step: columns from lane to lane.
        phase: 0 <= phase < step; the phases of one `first` share their loads.
        lanes: elements of the result.
        width: pixels of the row.
        outside: what columns left and right of the row hold; they are not read.

    """
    def contiguous(first: Expr) -> Expr:
        if not isinstance(first, int):
            return load(buffer, start + first, lanes)
        return load_lanes(buffer, start + first, lanes, -first, width - first, outside)

    if step == 1:
        return contiguous(first)
    if step == 2:
        return T.Shuffle([contiguous(first), contiguous(first + lanes)], list(range(phase, 2 * lanes, 2)))
    return T.Shuffle([pixel_at(buffer, start, first + phase + step * lane, width, outside) for lane in range(lanes)],
                     list(range(lanes)))


def pixel_at(buffer: Buffer, start: Expr, column: Expr, width: int, outside: float = 0.0) -> Expr:
    """A pixel of the row whose column 0 lies at `start`, or what lies `outside` of it where the column is an int."""
    if isinstance(column, int) and not 0 <= column < width:
        return number(outside, buffer.dtype)
    return buffer[start + column]


def junk_fits(layout: PaddedFlat) -> bool:
    """Whether even the last row's columns up to the row stride lie inside the channel."""
    return layout.origin + layout.rows * layout.row_stride <= layout.channel_stride


def clear_border(buffer: Buffer, layout: PaddedFlat, c: Expr, lanes: int) -> None:
    """Write the padding before, between and behind the images of channel `c`, of an unclean layout what is computed on.

    Products would multiply what memory holds, and denormals take an Intel core fifty times as long as others. `put` and
    `end_row` write what lies behind each row, so this has to come first.
    """
    row_stride, base = layout.row_stride, c * layout.channel_stride
    first, behind = (0, layout.channel_stride) if layout.clean else (
        layout.origin, layout.origin + layout.vectors * layout.lanes)
    if not junk_fits(layout):
        fill(buffer, base + first, behind - first, lanes, layout.padding)
        return
    separators = padded_rows(layout).start(0, c, layout.height)
    end = layout.origin + layout.rows * row_stride
    fill(buffer, base + first, layout.origin - first, lanes, layout.padding)
    each(0, layout.batch - 1, lambda n: fill(
        buffer, separators + n * layout.pitch * row_stride, layout.row_pad * row_stride, lanes, layout.padding))
    fill(buffer, base + end, max(0, behind - end), lanes, layout.padding)


def put(buffer: Buffer, layout: PaddedFlat, start: Expr, first: Expr, vector: Expr) -> None:
    """Write columns first, first + 1, … of a row; `end_row` has to follow.

    Args:
        buffer: a buffer of that layout.
        layout: where the row is.
        start: index of the row's column 0.
        first: column of lane 0; an int, or an expression where every lane is known to be inside.
        vector: the values; lanes behind the row's end are ignored.

    """
    valid = layout.width - first if isinstance(first, int) else lanes_of(vector)
    if valid < lanes_of(vector) and junk_fits(layout):
        kept = keep_lanes(vector, valid, number(layout.padding, buffer.dtype))
        store_lanes(buffer, start + first, kept, layout.row_stride - first)
    else:
        store_lanes(buffer, start + first, vector, valid)


def end_row(buffer: Buffer, layout: PaddedFlat, start: Expr, lanes: int) -> None:
    """Write the padding behind a row that a partial vector of `put` has not reached."""
    first = round_up(layout.width, lanes)
    if junk_fits(layout) and first < layout.row_stride:
        fill(buffer, start + first, layout.row_stride - first, lanes, layout.padding)


def write_images(y: Expr, layout: PaddedFlat, isa: Isa, inside: int, vector: Callable[[Expr, Expr, Expr, Expr], Expr],
                 channels: range | None = None) -> None:
    """Write every row of `y` and its padding, channels shared among the threads.

    Args:
        y: a buffer of that layout.
        layout: its layout.
        isa: lanes and threads.
        inside: the vectors of a row before which none hangs over an edge of what `vector` reads.
        vector: the lanes of (image, index in `channels`, row, vector of the row); the last is an int from `inside` on.
        channels: those to write, all if None.

    """
    rows, lanes = padded_rows(layout), isa.lanes
    channels = channels or range(layout.channels)
    with shared(len(channels), isa) as i:
        c = T.Bind(i + channels.start)
        clear_border(y, layout, c, lanes)
        with T.serial(0, layout.batch) as n, T.serial(0, layout.height) as h:
            start = T.Bind(rows.start(n, c, h))
            along(-(-layout.width // lanes), 0, min(inside, layout.width // lanes),
                  lambda t: put(y, layout, start, t * lanes, vector(n, i, h, t)))
            end_row(y, layout, start, lanes)
