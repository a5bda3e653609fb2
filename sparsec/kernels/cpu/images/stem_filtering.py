"""Dense convolution of a plain image with few channels by minimal filtering, the first layer of a network.

A convolution of stride s is the sum of s x s convolutions of stride 1, of every s-th tap on every s-th pixel. A tile of
m x m output pixels takes a product for each point of all of them (`kernels.packing.filtering`), which are summed before
they become the pixels: of a 7 x 7 window and stride 2, (m + 3 + m + 2)^2 products of a channel in place of 49 m^2.

Tiles lie on the lanes. A band of rows of tiles is dealt into planes in the cache, in which each input of a tile has a
place (`split_image`), and becomes the points of all tiles; every block of output channels is multiplied with these
point by point, and its sums become rows of pixels, which are written through the epilogue.

Of tiles of more than two pixels a side, NaN reaches those of the tile that do not read it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.images import pooled
from sparsec.kernels.cpu.images.padded import clear_border, end_row, padded_rows, plain_rows, put
from sparsec.kernels.cpu.images.phase_split import split_image
from sparsec.kernels.cpu.images.pooled import Pooled, Run
from sparsec.kernels.cpu.images.stem import FAR_SHARE, StemProduct
from sparsec.kernels.cpu.images.stem_filtering_params import Group, Side, StemFilteringParams
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.emit.activations import ACTIVATIONS
from sparsec.kernels.emit.filtering import evaluated, interpolated
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, each, shared
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    kernel,
    load,
    parallel,
    registers,
    splat,
    store,
)
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.filtering import MOST_TAPS
from sparsec.kernels.packing.recipe import unstored
from sparsec.target import Target

TILES = (3, 2)  # output pixels of a tile's side
WIDTHS, HEIGHTS = (1, 2, 3), (4, 6, 8, 12, 16)  # of register blocks: vectors of tiles, and output channels
LEAST_TAPS = 2
HELD = 0.3  # share of the L2 cache that a band's numbers may take
NUMBER, PIXEL = 16, 18  # multiply-adds that take as long as transforms for a number, and for a pixel, of a vector
WRITTEN_OUT = 16  # products of a point up to which all are written out


@dataclass(frozen=True)
class _Scratch:
    """What a thread computes in.

    Attributes:
        planes: the inputs of a band's tiles.
        columns: (point down, input across, lane), of a vector of tiles.
        numbers: (number, tile) of the band.
        products: (point, output, tile), of a register block.
        lines: (output, row of the tile, pixel of all tiles).

    """

    planes: Buffer
    columns: Buffer
    numbers: Buffer
    products: Buffer
    lines: Buffer


def reject(layer: StemProduct, _isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if min(layer.kernel) < LEAST_TAPS:
        return "it computes windows of two pixels a side at least"
    taps = [-(-taps // stride) for taps, stride in zip(layer.kernel, layer.strides, strict=True)]
    if min(taps) < LEAST_TAPS:
        return "it computes windows that overlap"
    return f"it computes up to {MOST_TAPS} taps a side and phase" if max(taps) > MOST_TAPS else None


def candidates(layer: StemProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """For every size of tiles and every width of register blocks, the height that takes the fewest cycles."""
    for side, vectors, pool in product(TILES, WIDTHS, _pools(layer, target)):
        params = _params(layer, side, vectors, pool, target, isa)
        fit = [r for r in HEIGHTS if r <= layer.target.channels and r * vectors + vectors + 1 <= isa.registers]
        options = [replace(params, block=(r, vectors)) for r in fit] if params else []
        if options:
            yield _option(min(options, key=lambda each: _multiplied(each) * max(1, _loads(each))))


def _pools(layer: StemProduct, target: Target) -> list[Window | None]:
    """No maxima, and those behind, where the image between would leave the L2 cache."""
    far = 4 * layer.target.size > FAR_SHARE * target.l2_bytes
    joins = layer.pool is not None and pooled.reject(layer.pool, layer.epilogue.activation) is None
    return [None, layer.pool] if far and joins else [None]


def _params(layer: StemProduct, side: int, vectors: int, window: Window | None, target: Target,
            isa: Isa) -> StemFilteringParams | None:
    """A kernel with as many rows of tiles in a band as take the fewest vectors; None where a cache holds not one."""
    pool = None if window is None else Pooled(window, side)
    step = 1 if pool is None else pool.rows // side
    one = StemFilteringParams(layer.shape, layer.target, layer.kernel, (side, side), (1, vectors), step, layer.strides,
                              layer.begins, layer.epilogue, pool)

    def cost(params: StemFilteringParams) -> tuple[int, int]:
        units, whole = params.bands * layer.target.batch, _tile_vectors(params)
        return max(-(-units // isa.threads) * params.vectors, -(-whole // isa.threads)), params.rows

    bands = [replace(one, rows=rows) for rows in range(step, one.tiles[0] + step, step)]
    fit = [each for each in bands if 4 * each.vectors * isa.lanes * each.numbers <= HELD * target.l2_bytes
           and (pool is None or each.bands >= isa.threads)]
    return min(fit, key=cost, default=None)


def _option(params: StemFilteringParams) -> Option:
    p, (outputs, vectors) = params, params.block
    detail = f"T={p.tile[0]} R={outputs} V={vectors} B={p.rows}"
    return Option("dense", "stem/filtering" + ("+pool" if p.pool else ""), detail, p,
                  4 * p.blocks * outputs * p.numbers, work(p), "f32", ieee=False, joined=p.pool is not None)


def _tile_vectors(p: StemFilteringParams) -> int:
    return sum(p.band_vectors) * p.target.batch


def _multiplied(p: StemFilteringParams) -> int:
    """Multiply-adds of vectors."""
    return _tile_vectors(p) * p.blocks * p.block[0] * p.numbers


def _loads(p: StemFilteringParams) -> float:
    """Loads for one of them; on their way from L2, vectors of numbers count twice."""
    outputs, vectors = p.block
    return (outputs + 2 * vectors) / (outputs * vectors)


def work(params: StemFilteringParams) -> Work:
    """What one run does, for the cost model to price."""
    p = params
    products, tiles = _multiplied(p), _tile_vectors(p)
    transforms = tiles * (NUMBER * p.numbers + PIXEL * p.tile[0] * p.tile[1] * p.target.channels)
    return Work(products + transforms, products * _loads(p) + transforms, tiles / p.block[1] * p.blocks * p.points)


def pack(weight: np.ndarray, params: StemFilteringParams) -> dict[str, np.ndarray]:
    """The kernel's `weight`, (block, number, output of the block)."""
    p, (size, outputs) = params, (params.block[0], params.target.channels)
    taps = weight.reshape(outputs, p.shape[1], *p.kernel).astype(np.float64)
    numbers = np.zeros((p.numbers, outputs), np.float32)
    for a, down in enumerate(p.sides[0].phases):
        for b, across in enumerate(p.sides[1].phases):
            phase = taps[:, :, a::p.strides[0], b::p.strides[1]]
            points = np.einsum("ik,ockl,jl->ijco", down.weights, phase, across.weights)
            for i, j in np.ndindex(points.shape[:2]):
                first = p.number(i, j, (a, b))
                numbers[first:first + p.shape[1]] = points[i, j]
    block = np.minimum(np.arange(0, outputs, size), outputs - size)[:, None] + np.arange(size)
    return {"weight": np.ascontiguousarray(numbers[:, block].transpose(1, 0, 2)).ravel()}


def build(params: StemFilteringParams, isa: Isa) -> Kernel:
    """The kernel: (weight, bias, x) -> y, x plain and flat."""
    p, target, source = params, params.target, plain_rows(*params.shape)

    goal = target if p.pool is None else p.pool.window.target
    size = {"y": (goal.size, "float32")}

    def body(b: Buffers) -> None:
        with shared(goal.channels, isa) as o:
            clear_border(b["y"], goal, o, isa.lanes)
        if p.pool is None:
            with shared(target.batch * p.bands, isa) as unit:
                n, first = T.Bind(unit // p.bands), T.Bind(unit % p.bands * p.rows)
                _band(b, p, n, first, lambda scratch, rows, block: _write(b, p, scratch, n, first, rows, block))
            return
        pool, threads = p.pool, isa.threads
        waiting = T.alloc_buffer((pool.place(threads, 0),), "float32")
        firsts = [thread * p.bands // threads for thread in range(threads)]

        def work(thread: Expr) -> None:
            pooled.clear(pool, waiting, thread)
            with T.serial(thread * p.bands // threads, (thread + 1) * p.bands // threads) as band:
                first = T.Bind(band * p.rows)
                _band(b, p, 0, first, lambda scratch, rows, block: _pool(
                    b, p, pool, scratch, waiting, thread, first, rows, block))

        parallel(threads, work)
        pooled.settle(b["y"], pool, waiting, [band * p.rows // (pool.rows // pool.step) for band in firsts],
                      lambda vector, c: _finished(b, p, c, vector), isa)

    return kernel({"weight": (p.blocks * p.block[0] * p.numbers, "float32"), "bias": (target.channels, "float32"),
                   "x": (source.size, "float32"), **size}, body)


def _band(b: Buffers, p: StemFilteringParams, n: Expr, first: Expr,
          write: Callable[[_Scratch, Expr, Expr], None]) -> None:
    """A band of rows of tiles from the `first` on: `write` takes rows of tiles of a block of output channels."""
    source, lanes = plain_rows(*p.shape), p.target.lanes
    scratch = _Scratch(*(T.alloc_buffer((size,), "float32", scope="global") for size in (
        p.planes.size, p.sides[0].points * len(p.sides[0].phases) * p.sides[1].inputs * lanes,
        p.vectors * p.numbers * lanes, p.points * p.block[0] * p.wide, p.block[0] * p.tile[0] * p.line)))
    rows = T.Bind(T.min(p.rows, p.tiles[0] - first))
    top = p.begins[0] - first * (p.tile[0] * p.strides[0])
    with T.serial(0, source.channels) as c:
        split_image(b["x"], source, (n, c), scratch.planes, p.planes, c * p.planes.channel_stride, top, lanes)
        _transform(p, scratch, c)
    _clear(p, scratch)
    with T.serial(0, p.blocks) as block:
        tiles = (rows - 1) * p.planes.output.row_stride + p.tiles[1]
        with T.serial(0, T.floordiv(tiles + p.wide - 1, p.wide)) as v:
            for group in p.groups:
                _multiply(b, p, scratch, group, block, v)
            with T.serial(0, p.block[0]) as r:
                _interpolate(p, scratch, r, v)
        write(scratch, rows, block)


def _clear(p: StemFilteringParams, scratch: _Scratch) -> None:
    """Zero what is multiplied behind a band's last vector of tiles."""
    lanes, end = p.target.lanes, p.planes.output.vectors
    for vector in range(end, p.vectors):
        block, place = divmod(vector, p.block[1])
        with T.serial(0, p.numbers) as number:
            store(scratch.numbers, (block * p.numbers + number) * p.wide + place * lanes, splat(0.0, lanes))


def _transform(p: StemFilteringParams, scratch: _Scratch, channel: Expr) -> None:
    """The numbers of a channel, of all tiles of a band: down the columns of inputs first, then across."""
    (down, across), lanes, planes = p.sides, p.target.lanes, p.planes
    with T.serial(0, planes.output.vectors) as vector:
        start = T.Bind(channel * planes.channel_stride + vector * lanes)
        to = T.Bind((T.floordiv(vector, p.block[1]) * p.numbers + channel) * p.wide
                    + T.floormod(vector, p.block[1]) * lanes)
        for column in range(across.inputs):
            pixels = [T.Bind(load(scratch.planes, start + planes.offset(i, column), lanes)) for i in range(down.inputs)]
            for a, values in enumerate(_points(down, pixels)):
                for i, value in enumerate(values):
                    store(scratch.columns, _column(p, a, i, column) * lanes, value)
        for a, phase in enumerate(down.phases):
            for i in range(phase.size):
                lines = [T.Bind(load(scratch.columns, _column(p, a, i, column) * lanes, lanes))
                         for column in range(across.inputs)]
                for b, values in enumerate(_points(across, lines)):
                    for j, value in enumerate(values):
                        store(scratch.numbers, to + p.number(i, j, (a, b)) * p.wide, value)


def _column(p: StemFilteringParams, phase: int, point: int, column: int) -> int:
    return (phase * p.sides[0].points + point) * p.sides[1].inputs + column


def _points(side: Side, inputs: Sequence[Expr]) -> list[list[Expr]]:
    """The points of every phase from a tile's inputs along a side."""
    return [evaluated(phase, inputs[a::side.stride], T.Bind) for a, phase in enumerate(side.phases)]


def _multiply(b: Buffers, p: StemFilteringParams, scratch: _Scratch, group: Group, block: Expr, v: Expr) -> None:
    """The products of a group's points, summed over phases and channels, of a register block."""
    (outputs, vectors), lanes = p.block, p.target.lanes
    with T.serial(0, group.points) as point:
        row = T.Bind(group.row + point * group.depth)
        weights = T.Bind((block * p.numbers + row) * outputs)
        numbers = T.Bind((v * p.numbers + row) * p.wide)
        acc = registers(outputs * vectors, lanes)
        for register in range(outputs * vectors):
            store(acc, register * lanes, splat(0.0, lanes))

        def step(k: Expr) -> None:
            tiles = [T.Bind(load(scratch.numbers, numbers + k * p.wide + i * lanes, lanes)) for i in range(vectors)]
            for r in range(outputs):
                for i in range(vectors):
                    weight = splat(b["weight"][weights + k * outputs + r], lanes)
                    add_to(acc, (r * vectors + i) * lanes, weight * tiles[i])

        each(0, group.depth, step, WRITTEN_OUT)
        at = T.Bind((group.point + point) * (outputs * p.wide))
        for register in range(outputs * vectors):
            store(scratch.products, at + register * lanes, load(acc, register * lanes, lanes))


def _interpolate(p: StemFilteringParams, scratch: _Scratch, r: Expr, v: Expr) -> None:
    """The pixels of an output channel of a register block, woven into lines."""
    (down, across), lanes, (height, width) = p.sides, p.target.lanes, p.tile

    def product(row: int, column: int, i: int) -> Expr:
        group = p.group(row, column)
        at = (group.point + group.index(row, column)) * (p.block[0] * p.wide)
        return T.Bind(load(scratch.products, at + r * p.wide + i * lanes, lanes))

    for i in range(p.block[1]):
        columns = [[T.Bind(value) for value in interpolated(
            height, [product(row, column, i) for row in range(down.points)], T.Bind)]
            for column in range(across.points)]
        for row in range(height):
            values = [T.Bind(value) for value in interpolated(width, [each[row] for each in columns], T.Bind)]
            at = T.Bind((r * height + row) * p.line + (v * p.wide + i * lanes) * width)
            for k, woven in enumerate(_woven(values, lanes)):
                store(scratch.lines, at + k * lanes, woven)


def _woven(values: Sequence[Expr], lanes: int) -> list[Expr]:
    """The lanes of vectors in turns: as many vectors, the first with what becomes of the first lanes."""
    woven = []
    for k in range(len(values)):
        places = [divmod(lane, len(values)) for lane in range(k * lanes, (k + 1) * lanes)]
        total = values[0]
        for number, value in enumerate(values[1:], 1):  # lanes of those before are in their places from the second on
            total = T.Shuffle([total, value], [lanes + at if which == number else (lane if number > 1 else at)
                                               for lane, (at, which) in enumerate(places)])
        woven.append(total)
    return woven


def _write(b: Buffers, p: StemFilteringParams, scratch: _Scratch, n: Expr, first: Expr, rows: Expr,
           block: Expr) -> None:
    """The rows of a band's pixels, of a block of output channels, through the epilogue."""
    target, lanes, (height, width) = p.target, p.target.lanes, p.tile
    o = T.Bind(T.min(block * p.block[0], target.channels - p.block[0]))
    with T.serial(0, p.block[0]) as r, T.serial(0, rows) as tile:
        for row in range(height):
            y = T.Bind((first + tile) * height + row)
            with T.If(y < target.height), T.Then():
                start = T.Bind(padded_rows(target).start(n, o + r, y))
                line = T.Bind((r * height + row) * p.line + tile * (p.planes.output.row_stride * width))

                def vector(t: Expr, line: Expr = line, start: Expr = start) -> None:
                    total = _finished(b, p, o + r, load(scratch.lines, line + t * lanes, lanes))
                    put(b["y"], target, start, t * lanes, total)

                along(-(-target.width // lanes), 0, target.width // lanes, vector)
                end_row(b["y"], target, start, lanes)


def _pool(b: Buffers, p: StemFilteringParams, pool: Pooled, scratch: _Scratch, waiting: Buffer, thread: Expr,
          first: Expr, rows: Expr, block: Expr) -> None:
    """The maxima of a band's pixels, of a block of output channels."""
    steps, (height, width) = pool.rows // pool.step, p.tile
    o = T.Bind(T.min(block * p.block[0], p.target.channels - p.block[0]))
    done = T.Bind(block * p.block[0] - o)  # channels of the block before: what waits is theirs once
    with T.serial(done, p.block[0]) as r, T.serial(0, T.floordiv(rows + steps - 1, steps)) as index:
        def start(row: int) -> Expr:
            step, line = divmod(row, height)
            return T.Bind((r * height + line) * p.line + (index * steps + step) * (p.planes.output.row_stride * width))

        number = T.Bind(T.floordiv(first, steps) + index)
        pooled.pool(b["y"], pool, waiting, Run(scratch.lines, start, thread, number, o + r,
                                               lambda vector: _finished(b, p, o + r, vector)))


def _finished(b: Buffers, p: StemFilteringParams, channel: Expr, vector: Expr) -> Expr:
    e, lanes = p.epilogue, p.target.lanes
    return ACTIVATIONS[e.activation](vector + splat(b["bias"][channel], lanes), lanes, e.alpha, e.beta)


FAMILY = Family("stem/filtering", StemProduct, ("dense",), "fp32", candidates, unstored(pack), build, float_product,
                reject)
