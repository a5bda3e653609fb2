"""Windows that slide over images in the padded flat layout: what depthwise convolution and pooling share.

A block of output rows is computed at a time, one vector of columns after the other, so that an input row is loaded once
for all the output rows of the block that it meets; a stride of 2 takes its taps from even and odd lanes. Where the
input's padding holds what the operator wants, it is read; elsewhere taps outside of the image are dropped or masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.images.padded import columns, end_row, padded_rows, pixel_at, put
from sparsec.kernels.emit.loops import along
from sparsec.kernels.emit.tir import Expr, lanes_of, splat

MOST_ROWS = 8  # of a block


@dataclass(frozen=True)
class Window:
    """A sliding window between two layouts.

    Attributes:
        source: layout of the input.
        target: layout of the output.
        kernel: (kh, kw).
        strides: (sh, sw).
        dilations: (dh, dw).
        begins: (top, left) padding; what is read below and to the right follows from the target's size.

    """

    source: PaddedFlat
    target: PaddedFlat
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    begins: tuple[int, int] = (0, 0)

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns between the first and the last tap."""
        return (self.kernel[0] - 1) * self.dilations[0], (self.kernel[1] - 1) * self.dilations[1]

    @property
    def block(self) -> int:
        """Output rows of a block: as few input rows as possible are loaded, and code stays short."""
        height = self.target.height
        return min(range(1, min(height, MOST_ROWS) + 1),
                   key=lambda rows: -(-height // rows) * ((rows - 1) * self.strides[0] + self.reach[0] + 1))

    def inner_blocks(self, padding: int) -> tuple[int, int]:
        """The blocks [first, end) that meet no row beyond the image and `padding` rows around it."""
        step, top = self.block * self.strides[0], self.begins[0]
        last = (self.source.height + padding + top - self.reach[0] - 1) // self.strides[0]
        return -(-max(0, top - padding) // step), (last + 1) // self.block

    def inner_vectors(self, padding: int, lanes: int) -> tuple[int, int]:
        """The vectors [first, end) of an output row whose loads stay inside an input row and `padding` columns."""
        (_, stride), (_, left), (_, reach) = self.strides, self.begins, self.reach
        step, right = lanes * stride, self.source.width + padding + left - reach // stride * stride
        return -(-max(0, left - padding) // step), min(self.target.width // lanes, right // step)


@dataclass(frozen=True)
class Tile:
    """One vector of columns of a block of output rows: image, channel, first row, vector within the row, lanes."""

    n: Expr
    c: Expr
    row: Expr
    vector: Expr
    lanes: int


def slide(y: Expr, w: Window, n: Expr, c: Expr, lanes: int, body: Callable[[Tile], list[Expr]], *,
          padding: bool) -> None:
    """Emit the loops over the tiles of channel `c` of image `n`; `body` gives a vector for each row of a tile.

    With `padding`, the body may read the input's padding.
    """
    target, block = padded_rows(w.target), w.block
    rows, pad = (w.source.row_pad, w.source.pad) if padding else (0, 0)

    def vector(first: Expr, t: Expr) -> None:
        for row, value in enumerate(body(Tile(n, c, first, t, lanes))):
            put(y, w.target, target.start(n, c, first + row), t * lanes, value)

    def rows_of_block(index: Expr) -> None:
        last = target.height - block
        first = min(index * block, last) if isinstance(index, int) else T.Bind(T.min(index * block, last))
        along(-(-target.width // lanes), *w.inner_vectors(pad, lanes), lambda t: vector(first, t), unroll=1)
        for row in range(block):
            end_row(y, w.target, target.start(n, c, first + row), lanes)

    along(-(-target.height // block), *w.inner_blocks(rows), rows_of_block, unroll=1)


def taps(x: Expr, w: Window, tile: Tile, outside: float = 0.0,
         block: int = 0) -> Iterator[tuple[list[Expr], list[tuple[int, int]]]]:
    """The input rows that a tile of `block` rows, else of the window's, meets from top to bottom, inside of the image.

    Yields the row's vectors, one for each tap of a kernel row, and the pairs (row of the tile, kernel row) that want
    them; what is made of them alone has to pass `undealt`. Columns left and right of the image hold `outside`.
    """
    source, (sh, _), (dh, _), (top, _) = padded_rows(w.source), w.strides, w.dilations, w.begins
    block = block or w.block
    for i in range((block - 1) * sh + w.reach[0] + 1):
        pairs = [(row, (i - row * sh) // dh) for row in range(block)
                 if (i - row * sh) % dh == 0 and 0 <= i - row * sh <= w.reach[0]]
        h = tile.row * sh + i - top
        if not pairs or (isinstance(h, int) and not 0 <= h < source.height):
            continue
        start = source.start(tile.n, tile.c, h)
        yield row_taps(x, start, w, tile, outside), pairs


def row_taps(x: Expr, start: Expr, w: Window, tile: Tile, outside: float) -> list[Expr]:
    """The vectors of an input row that the columns of a kernel meet; of a stride of 2 their lanes are dealt.

    With that the even and odd columns below the tile are loaded once, where they are aligned if rows are; taps to their
    left and right have them moved by a lane.
    """
    (_, step), (_, apart), (_, left), lanes, width = w.strides, w.dilations, w.begins, tile.lanes, w.source.width
    base = tile.vector * (lanes * step)
    if not deals(w, lanes):
        return [T.Bind(columns(x, start, base + j * apart // step * step - left, step, j * apart % step, lanes, width,
                               outside)) for j in range(w.kernel[1])]
    order = dealt(lanes)

    def halves(first: int, phase: int) -> Expr:
        pair = [columns(x, start, base + first + half * lanes, 1, 0, lanes, width, outside) for half in range(step)]
        return T.Bind(T.Shuffle(pair, [phase + column for column in order]))

    found, below = [], {}
    for j in range(w.kernel[1]):
        lane, phase = divmod(j * apart - left, step)
        if abs(lane) > 1 or left > w.reach[1] // step * step:
            found.append(halves(j * apart // step * step - left, j * apart % step))
            continue
        if phase not in below:
            below[phase] = halves(0, phase)
        if lane:
            pixel = pixel_at(x, start, base + phase + (lanes * step if lane > 0 else -step), width, outside)
            moved = [order.index(column + step * lane) if 0 <= column + step * lane < step * lanes else lanes
                     for column in order]
            found.append(T.Bind(T.Shuffle([below[phase], splat(pixel, lanes)], moved)))
        else:
            found.append(below[phase])
    return found


IN_LANE = 4
"""Elements of the parts of vectors within which processors shuffle fast: 128 bits."""


def deals(w: Window, lanes: int) -> bool:
    """Whether the vectors of `taps` have their lanes dealt: floats of a stride of 2, where that is another order."""
    return w.strides[1] == 2 and lanes > IN_LANE and w.source.dtype == "float32"


def dealt(lanes: int) -> list[int]:
    """The even columns of two vectors in the order in which they are fast to bring together, from their parts in turns.

    One shuffle of each result, see `undealt`, costs less than one across all lanes for every vector that is loaded.
    """
    return [half * lanes + part + column for part in range(0, lanes, IN_LANE) for half in (0, 1)
            for column in range(0, IN_LANE, 2)]


def undealt(vector: Expr, w: Window) -> Expr:
    """A result of vectors that `taps` has given, its lanes in the order of the columns."""
    lanes = lanes_of(vector)
    if not deals(w, lanes):
        return vector
    order = dealt(lanes)
    return T.Bind(T.Shuffle([vector], [order.index(2 * lane) for lane in range(lanes)]))


def rows_inside(w: Window, row: Expr, block: int = 1) -> tuple[Expr, Expr]:
    """The rows [first, end) of the window that meet the image from some of a block of output rows."""
    (sh, _), (dh, _), (top, _), height = w.strides, w.dilations, w.begins, w.source.height
    first = T.max(0, T.floordiv(top - (row + block - 1) * sh + dh - 1, dh))
    end = T.min(w.kernel[0], T.floordiv(height - 1 + top - row * sh, dh) + 1)
    return T.Bind(first), T.Bind(T.max(first, end))


def pieces(count: int, most: int) -> Iterator[tuple[Expr, int]]:
    """The first tap of every piece of a window's row and its taps: a loop over whole pieces, and the rest."""
    if count // most:
        with T.serial(0, count // most) as piece:
            yield piece * most, most
    if count % most:
        yield count // most * most, count % most
