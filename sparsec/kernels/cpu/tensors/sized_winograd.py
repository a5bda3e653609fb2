"""3 x 3 convolutions of images of any size by Winograd's minimal filtering F(2 x 2, 3 x 3), channels last.

Of every tile of 2 x 2 output pixels the 4 x 4 inputs d become the 16 points of B^T d B, which are multiplied with those
of the weight, summed over the channels and become the pixels by A^T m A (Lavin and Gray, Fast Algorithms for
Convolutional Neural Networks, section 4.1). Channels lie on the lanes. As many tiles are transformed at once as leave
their points in the L2 cache; a panel of outputs is multiplied for all of them, point by point, and written through the
epilogue before the next one.

Which pixels a tile reads and writes is told by axis: of every row of tiles the table of the first axis has four rows of
the image and two of the result, and that of the second axis has as many columns of every column of tiles; -1 stands for
padding, and for pixels that there are not. So padding and dilation are in the tables alone.

A pixel meets only the products of outputs that read it, so that NaN travels as in other kernels; an infinity may
become NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Work
from sparsec.graph.sized import Convolution
from sparsec.kernels.cpu.tensors.sized_products import (
    FLOATS,
    SHORT,
    TALLEST,
    Panel,
    by_threads,
    heights,
    in_blocks,
    known,
    over,
    product,
)
from sparsec.kernels.cpu.tensors.sized_windows import SIZES
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, splat, store
from sparsec.kernels.emit.winograd import combined, reduced
from sparsec.kernels.packing.winograd import POINTS

READ, WRITTEN = 4, 2
"""Pixels along a side of a tile: of the image, and of the result."""
PLACES = READ + WRITTEN
"""Entries of a table for a tile."""
MOST = 256
"""Tiles that are computed at once at most."""
LEAST = TALLEST
"""Tiles that there is always room for; more channels than that allows have no such kernel."""


def widths(outputs: int, channels: int, isa: Isa) -> range:
    """Vectors of outputs of a register block, of the kernels that there are for so many outputs and channels."""
    most = FLOATS // (POINTS * LEAST) - 3 * isa.lanes
    return range(1, 4 if isa.registers > 16 else 3) if isa.lanes <= min(outputs, channels) and channels <= most else (
        range(0))


TRANSFORM_IN, TRANSFORM_OUT = 96, 88
"""Loads that a tile takes for a vector of channels, and for one of outputs; a store counts as two."""


def work(outputs: int, channels: int, pixels: int, vectors: int, isa: Isa) -> Work:
    """What so many pixels of a larger image take, for the cost model to price."""
    lanes, tiles = isa.lanes, pixels / WRITTEN**2
    panels, chunks, height = -(-outputs // (lanes * vectors)), -(-channels // lanes), heights(vectors, isa)[0]
    steps = tiles / height * POINTS * chunks * lanes * panels
    transforms = tiles * (TRANSFORM_IN * chunks + TRANSFORM_OUT * -(-outputs // lanes))
    weights = 4 * POINTS * chunks * lanes * panels * vectors * lanes
    return Work(fmas=steps * height * vectors + transforms / 2, loads=steps * (height + vectors) + transforms,
                groups=tiles / height * POINTS * panels, l2_bytes=weights * pixels / SHORT,
                memory_bytes=weights * pixels / SHORT + 4 * pixels * (channels + outputs), kernel="gemm/winograd",
                pixels=SHORT)


def build(params: Convolution, isa: Isa, l2_bytes: int) -> Kernel:
    """The kernel, see `sized_products.product`.

    Windows among the sizes are tiles, and pixels of a window by axis the height and the width of the result. `extra`
    has the weights (panel, point, channel, output), and behind them the biases.
    """
    return product(lambda b, budget: _emit(b, params, isa, budget), l2_bytes, residual=params.residual)


@dataclass(frozen=True)
class _Block:
    """Tiles that are computed at once, and what a thread computes them in.

    Attributes:
        b: the arguments.
        p: the kernel's parameters.
        sizes: by name.
        lanes: channels of a vector.
        room: tiles that the scratch has room for.
        chunks: vectors of channels of the image.
        points: (point, vector of channels, tile, channel of the vector).
        products: (point, tile, output of the panel).
        pixels: where the four pixels of every tile begin in the result, -1 for those that there are not.

    """

    b: Buffers
    p: Convolution
    sizes: dict[str, Expr]
    lanes: int
    room: Expr
    chunks: Expr
    points: Buffer
    products: Buffer
    pixels: Buffer

    @property
    def panel(self) -> int:
        """Outputs of a panel."""
        return self.p.vectors * self.lanes


def _emit(b: Buffers, p: Convolution, isa: Isa, budget: int) -> None:
    sizes = {name: T.Bind(b["sizes"][index]) for index, name in enumerate(SIZES)}
    panel, total = p.vectors * isa.lanes, sizes["total"]
    chunks = known(over(sizes["channels"], isa.lanes))
    panels = known(over(sizes["outputs"], panel))
    most = known(T.min(T.int64(MOST), T.max(T.int64(LEAST), T.truncdiv(
        T.int64(budget), POINTS * (chunks * isa.lanes + panel)))))
    blocks = known(over(total, most))
    # An odd room: the points of a tile lie in different sets of the cache.
    room = known(T.bitwise_or(T.max(T.int64(LEAST), over(total, blocks)), T.int64(1)))
    parts = known(T.Select(blocks < isa.threads, T.int64(isa.threads), T.int64(1)))
    units = known(blocks * parts)

    def work(low: Expr, high: Expr) -> None:
        points = FLOATS + FLOATS // LEAST + TALLEST * isa.lanes
        block = _Block(b, p, sizes, isa.lanes, room, chunks, T.alloc_buffer((points,), "float32"),
                       T.alloc_buffer(((MOST + TALLEST) * POINTS * panel,), "float32"),
                       T.alloc_buffer((MOST * WRITTEN * WRITTEN,), "int64"))
        with T.serial(low, high) as unit:
            number = known(T.truncdiv(unit, parts))
            part = known(unit - number * parts)
            first = known(number * total // blocks)
            tiles = known((number + 1) * total // blocks - first)
            with T.serial(0, tiles) as tile:
                _transform(block, known(first + tile), tile)
            with T.serial(part * panels // parts, (part + 1) * panels // parts) as number:
                _multiply(block, known(number), tiles, heights(p.vectors, isa))
                with T.serial(0, tiles) as tile:
                    _write(block, known(number), tile)

    by_threads(units, isa, work)


def _transform(k: _Block, number: Expr, tile: Expr) -> None:
    """The points of a tile of all channels; and where its pixels are."""
    s, tables = k.sizes, k.b["tables"]
    line = known(T.truncdiv(number, s["out_columns"]))
    image = known(T.truncdiv(line, s["out_rows"]))
    down = known((line - image * s["out_rows"]) * PLACES)
    across = known((s["out_rows"] + number - line * s["out_columns"]) * PLACES)
    rows = [T.Bind(tables[down + i]) for i in range(PLACES)]
    columns = [T.Bind(tables[across + i]) for i in range(PLACES)]
    for i, row in enumerate(rows[READ:]):
        for j, column in enumerate(columns[READ:]):
            at = ((image * s["rows_in"] + row) * s["columns_in"] + column) * s["outputs"]
            T.buffer_store(k.pixels, T.Select(T.min(row, column) < 0, T.int64(-1), at),
                           [tile * WRITTEN * WRITTEN + i * WRITTEN + j])
    begin = [known((image * s["rows"] + T.max(row, T.int64(0))) * s["columns"] * s["channels"])
             for row in rows[:READ]]
    aside = [known(T.max(column, T.int64(0)) * s["channels"]) for column in columns[:READ]]
    inside = [(each >= 0) for each in (*rows[:READ], *columns[:READ])]

    def whole(i: int, j: int, channel: Expr) -> Expr:
        return load(k.b["x"], begin[i] + aside[j] + channel, k.lanes)

    def padded(i: int, j: int, channel: Expr) -> Expr:
        there = T.Broadcast(T.And(inside[i], inside[READ + j]), k.lanes)
        return T.Select(there, whole(i, j, channel), splat(0.0, k.lanes))

    with T.If(T.And(T.And(T.min(rows[0], rows[1]) >= 0, T.min(rows[2], rows[3]) >= 0),
                    T.And(T.min(columns[0], columns[1]) >= 0, T.min(columns[2], columns[3]) >= 0))):
        with T.Then():
            _transform_channels(k, tile, whole)
        with T.Else():
            _transform_channels(k, tile, padded)


def _transform_channels(k: _Block, tile: Expr, pixel: Callable[[int, int, Expr], Expr]) -> None:
    """Every vector of channels; the last one overlaps that before it, and has weights of 0 for what it repeats."""
    apart = known(k.chunks * k.room * k.lanes)
    with T.serial(0, k.chunks) as chunk:
        channel = known(T.min(chunk * k.lanes, k.sizes["channels"] - k.lanes))
        to = known((chunk * k.room + tile) * k.lanes)
        columns = []
        for j in range(READ):
            d = [T.Bind(pixel(i, j, channel)) for i in range(READ)]
            columns.append([T.Bind(each) for each in combined(d)])
        for i in range(READ):
            for j, value in enumerate(combined([column[i] for column in columns])):
                store(k.points, known(to + (i * READ + j) * apart), value)


def _multiply(k: _Block, panel: Expr, tiles: Expr, blocks: Sequence[int]) -> None:
    """The products of a panel of outputs with the points of all tiles."""
    lanes, width = k.lanes, k.panel

    def block(first: Expr, height: int) -> None:
        begin = known((point * k.chunks * k.room + first) * lanes)
        weights = known((panel * POINTS + point) * k.chunks * (lanes * width))
        sums = Panel(k.b["extra"], weights, lanes, k.p.vectors, k.chunks).sums(k.points, begin, k.room, height)
        to = known((point * k.room + first) * width)
        for register in range(height * k.p.vectors):
            store(k.products, to + register * lanes, load(sums, register * lanes, lanes))

    with T.serial(0, POINTS) as point:
        in_blocks(tiles, blocks, block, overlap=True)


def _write(k: _Block, panel: Expr, tile: Expr) -> None:
    """The pixels of a tile through the epilogue; the last panel and the last vector overlap those before them."""
    lanes, outputs = k.lanes, k.sizes["outputs"]
    begin = known(T.min(panel * k.panel, T.max(outputs - k.panel, T.int64(0))))
    biases = known(over(outputs, k.panel) * POINTS * k.chunks * (lanes * k.panel))
    places = [T.Bind(k.pixels[tile * WRITTEN * WRITTEN + i]) for i in range(WRITTEN * WRITTEN)]
    apart, p = known(k.room * k.panel), k.p
    follows = Epilogue(p.activation, p.alpha, p.beta, residual=p.residual)
    for v in range(p.vectors):
        with T.If(begin + v * lanes < outputs), T.Then():
            channel = known(T.min(begin + v * lanes, outputs - lanes))
            at = known(tile * k.panel + channel - begin)
            m = [T.Bind(load(k.products, known(at + point * apart), lanes)) for point in range(POINTS)]
            columns = [[T.Bind(each) for each in reduced(m[j::READ])] for j in range(READ)]
            bias = T.Bind(load(k.b["extra"], biases + channel, lanes))
            for i in range(WRITTEN):
                for j, value in enumerate(reduced([column[i] for column in columns])):
                    place = places[i * WRITTEN + j]
                    with T.If(place >= 0), T.Then():
                        more = load(k.b["residual"], place + channel, lanes) if p.residual else None
                        store(k.b["y"], place + channel, finished(follows, value + bias, lanes, more))
