"""Dense 3 x 3 convolution by Winograd's minimal filtering F(2 x 2, 3 x 3): 16 multiplications for four pixels, not 36.

Of every tile of 2 x 2 output pixels, the 4 x 4 inputs d that they read become the 16 points of B^T d B, which are
multiplied with those of the weight (`kernels.packing.winograd`), summed over the channels and become the pixels by
A^T m A (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, section 4.1). Where the window is dilated,
so is the tile: its pixels lie as far apart, and tiles between each other's pixels. Tiles lie on the lanes: a row of
them takes whole vectors, or a power of two lanes that share one. A block of tiles is transformed for all channels into
a scratch; then every block of output channels is multiplied point by point and written through the epilogue. Where
weights or a block's points are more than a cache holds, several blocks are transformed; every point of the weights
meets them all, and what they become is written when all are done.

A pixel meets only the products of outputs that read it, so that NaN travels as in other kernels; an infinity may
become NaN. Sums differ from those of the plain convolution by some 1e-6 of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.images.padded import load_lanes, store_lanes
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.locality import ramp
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.walk import clear_border, finishing_kernel
from sparsec.kernels.cpu.products.winograd_params import WinogradParams
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    load,
    prefetch,
    registers,
    splat,
    store,
    vectors_from,
)
from sparsec.kernels.emit.winograd import combined, reduced
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.winograd import POINTS, TAPS, WinogradBlocks
from sparsec.target import Target

SIDE = 4  # of a tile's inputs and of its points
WIDTHS, HEIGHTS = (1, 2, 4), (4, 6, 7, 8, 12, 16)  # of register blocks: vectors of tiles, and output channels
TRANSFORM_IN, TRANSFORM_OUT = 96, 88  # loads that a vector of tiles takes for a channel; a store counts as two
CROWDED = 0.25  # share of the L2 cache up to which one block's points stay while weights pass
WIDE = 0.75  # share of the L2 cache that a point of several blocks' inputs may take
LOST = (1.25, 2.0)  # points and weights, as a multiple of the L2 cache, of which it keeps the points, and none
AHEAD = 256  # floats that weights are asked for before their use


def _dilation(stencil: Stencil, row_stride: int) -> tuple[int, int] | None:
    """How far the taps of a 3 x 3 window lie apart, down and across; None for other taps."""
    taps = stencil.taps
    if len(taps) != TAPS:
        return None
    down, across = (taps[3] - taps[0]) // row_stride, taps[1] - taps[0]
    same = all(tap == taps[0] + i // 3 * down * row_stride + i % 3 * across for i, tap in enumerate(taps))
    return (down, across) if same and down > 0 and across > 0 else None


def reject(layer: StencilProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    target = layer.target
    if isa.neon or isa.lanes <= SIDE:
        return "its vectors have eight lanes at least"
    if target is None or layer.stencil.segments > 1:
        return "it computes images"
    dilation = _dilation(layer.stencil, target.row_stride)
    if dilation is None:
        return "it computes windows of 3 x 3 pixels"
    if isa.lanes % dilation[1]:
        return "it computes windows whose dilation divides a vector"
    return "it computes one image at a time" if target.batch > 1 else None


def candidates(layer: StencilProduct, target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """Every register block worth pricing: the tallest that fits, for every width of tiles."""
    outputs = layer.stencil.outputs // layer.groups
    assert layer.target is not None  # see `reject`
    dilation = _dilation(layer.stencil, layer.target.row_stride)
    assert dilation is not None
    for vectors in WIDTHS if outputs >= SIDE else ():
        fit = [r for r in HEIGHTS if r <= outputs and 4 * r * vectors <= 3 * isa.registers
               and (vectors == 1 or r * (vectors + 1) < isa.registers)]
        for block in fit[-2:]:
            epilogue = replace(layer.epilogue, in_place=layer.epilogue.in_place and outputs % block == 0)
            params = WinogradParams(layer.stencil, epilogue, layer.target, vectors, block, dilation,
                                    groups=layer.groups)
            if params.fits and (vectors == 1 or params.rows <= params.tile_rows):
                for wide in _widths(params, target):
                    yield _option(replace(params, wide=wide), target, isa)


def _widths(params: WinogradParams, target: Target) -> list[int]:
    """Blocks at a time: one, and where its points fill the L2 cache, as many as leave their inputs of a point there."""
    point = params.points // POINTS
    if params.groups > 1 or 4 * params.points <= CROWDED * target.l2_bytes:
        return [1]
    fit = [wide for wide in range(1, params.blocks + 1)
           if params.blocks % wide == 0 and 4 * wide * point <= WIDE * target.l2_bytes]
    return sorted({1, *fit[-1:]})


def _option(params: WinogradParams, target: Target, isa: Isa) -> Option:
    s = params.stencil
    if params.blocks // params.wide < isa.threads:
        params = replace(params, parts=isa.threads)
    detail = f"V={params.vectors} R={params.block}" + (f" W={params.wide}" if params.wide > 1 else "")
    return Option("dense", "gemm/winograd", detail, params, 4 * POINTS * s.outputs * params.channels,
                  work(params, target), "f32", ieee=False)


def recipe(params: WinogradParams) -> WinogradBlocks:
    """What the kernel reads: `values`, see `WinogradBlocks`."""
    return WinogradBlocks(params.block, params.groups)


def work(params: WinogradParams, target: Target) -> Work:
    """What one run does, for the cost model to price."""
    p, s = params, params.stencil
    row_blocks = p.groups * p.row_blocks
    tiles, rows, again_for = p.blocks * p.vectors, row_blocks * p.block, p.parts if p.groups == 1 else 1
    transforms = tiles * (TRANSFORM_IN * again_for * s.channels + TRANSFORM_OUT * rows)
    steps = p.blocks * row_blocks * POINTS * p.channels
    scratch, weights = 4 * p.points, 4 * POINTS * rows * p.channels
    again = 0 if weights <= target.l2_bytes // 2 else weights * (p.blocks // p.wide - 1)
    memory = weights + 4 * (s.x_size + s.y_size * (2 if p.epilogue.residual and not p.epilogue.in_place else 1))
    inputs = p.blocks * row_blocks * scratch / 2
    if p.wide == 1:  # A block of outputs goes through all points: what does not fit comes from L3.
        beyond = ramp((scratch + weights / row_blocks) / target.l2_bytes, *LOST)
    else:  # One point of all blocks stays; all points, and products, are fetched, written and read again.
        beyond, again = 0.0, again + 3 * p.blocks * (scratch + 4 * row_blocks * p.products)
    return Work(fmas=steps * p.block * p.vectors + transforms, loads=steps * (p.block + p.vectors) + transforms,
                groups=p.blocks * row_blocks * POINTS, l2_bytes=(1 - beyond) * inputs,
                l3_bytes=again + 2 * beyond * inputs, memory_bytes=memory, kernel="gemm/winograd", pixels=s.pixels)


def build(params: WinogradParams, isa: Isa) -> Kernel:
    """The kernel: (values, bias, [mask], x, [residual]) -> y."""
    s = params.stencil
    size = params.groups * params.row_blocks * params.block * POINTS * params.channels
    values = {"values": (size, "float32")}
    return finishing_kernel(values, s, params.epilogue, lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: WinogradParams, isa: Isa) -> None:
    units = p.blocks // p.wide * p.parts
    if isa.threads == 1:
        _units(b, p, 0, units, (0, 1))
        return
    with T.parallel(0, isa.threads) as thread:
        low, high = thread * units // isa.threads, (thread + 1) * units // isa.threads
        _units(b, p, low, high, (thread, isa.threads))


@dataclass(frozen=True)
class _Scratch:
    """What a thread computes in.

    Attributes:
        points: (block of tiles, point, channel, tile).
        rows: lines of pixels, which the lanes of tiles are woven from and into.
        products: (block of outputs, block of tiles, point, output, tile), of one block of outputs or of all.

    """

    points: Buffer
    rows: Buffer
    products: Buffer


def _units(b: Buffers, p: WinogradParams, low: Expr, high: Expr, thread: tuple[Expr, int]) -> None:
    """Units of work: a share of the output channels for some blocks of tiles."""
    _clear(b, p, *thread)
    scratch = _Scratch(*(T.alloc_buffer((size,), "float32") for size in (
        p.wide * p.points, 2 * SIDE * p.lines, p.products * p.wide * (p.row_blocks if p.wide > 1 else 1))))
    with T.serial(low, high) as unit:
        first = T.Bind(T.floordiv(unit, p.parts) * p.wide)
        part = T.Bind(T.floormod(unit, p.parts))
        if p.groups > 1:
            with T.serial(part * p.groups // p.parts, (part + 1) * p.groups // p.parts) as group:
                _transform(b, p, scratch, first, group)
                _one_by_one(b, p, scratch, first, (group * p.row_blocks, (group + 1) * p.row_blocks))
            return
        _transform(b, p, scratch, first, 0)
        begin, end = part * p.row_blocks // p.parts, (part + 1) * p.row_blocks // p.parts
        if p.wide == 1:
            _one_by_one(b, p, scratch, first, (begin, end))
            return
        with T.serial(0, POINTS) as point, T.serial(begin, end) as block, T.serial(0, p.wide) as w:
            _multiply(b, p, scratch, point, block, w, (block * p.wide + w) * p.products)
        with T.serial(begin, end) as block, T.serial(0, p.wide) as w:
            _outputs(b, p, scratch, block, first + w, (block * p.wide + w) * p.products)


def _transform(b: Buffers, p: WinogradParams, scratch: _Scratch, first: Expr, group: Expr) -> None:
    """The points of a group's channels, of all blocks of tiles that are computed at once."""
    with T.serial(0, p.wide) as w, T.serial(0, p.channels) as channel:
        _transform_inputs(b, p, scratch, w, (group * p.channels, channel), first + w)


def _one_by_one(b: Buffers, p: WinogradParams, scratch: _Scratch, first: Expr, blocks: tuple[Expr, Expr]) -> None:
    """Register blocks of output channels of one block of tiles, each with all points."""
    with T.serial(*blocks) as block:
        with T.serial(0, POINTS) as point:
            _multiply(b, p, scratch, point, block, 0, 0)
        _outputs(b, p, scratch, block, first, 0)


def _place(p: WinogradParams, number: Expr) -> tuple[Expr, Expr]:
    """The first row of tiles of a block, and its first column of pixels."""
    return T.Bind(T.floordiv(number, p.across) * p.rows), T.Bind(T.floormod(number, p.across) * p.line)


def _pixel(tile: Expr, dilation: int) -> Expr:
    """The first of a tile's pixels along a side."""
    return 2 * tile if dilation == 1 else T.floordiv(tile, dilation) * (2 * dilation) + T.floormod(tile, dilation)


def _outputs(b: Buffers, p: WinogradParams, scratch: _Scratch, block: Expr, number: Expr, at: Expr) -> None:
    """The pixels of a block of output channels and one of tiles, whose products begin at `at`."""
    row, column = _place(p, number)
    group, own = (0, block) if p.groups == 1 else (T.floordiv(block, p.row_blocks), T.floormod(block, p.row_blocks))
    first = T.Bind(group * p.outputs + T.min(own * p.block, p.outputs - p.block))
    with T.serial(0, p.block) as r:
        _transform_outputs(p, scratch, r, at)
        _write(b, p, scratch.rows, first + r, row, column)


def _clear(b: Buffers, p: WinogradParams, thread: Expr, threads: int) -> None:
    """Zero what products compute on: what follows every row of pixels, and the last; in clean images the border too."""
    s, target = p.stencil, p.target
    if s.masked:
        clear_border(b, s, thread, threads)
    gap, tail = target.row_stride - target.width, s.vectors * s.lanes - target.span
    with T.serial(thread * s.outputs // threads, (thread + 1) * s.outputs // threads) as output:
        at = T.Bind(s.y_origin + output * s.y_row_stride + target.width)
        with T.serial(0, target.height - 1) as row:
            _zero(b["y"], at + row * target.row_stride, gap, s.lanes)
        _zero(b["y"], at + (target.height - 1) * target.row_stride, tail, s.lanes)


def _zero(y: Buffer, at: Expr, count: int, lanes: int) -> None:
    for begin in range(0, count, lanes):
        store_lanes(y, at + begin, splat(0.0, lanes), count - begin)


def _inside(p: WinogradParams, column: Expr, emit: Callable[[int], None]) -> None:
    """Emit what takes so many pixels of a row of the block that begins at a column: of the last one, what there are."""
    last = (p.across - 1) * p.line
    if p.across == 1:
        emit(p.target.width)
        return
    with T.If(column == last):
        with T.Then():
            emit(p.target.width - last)
        with T.Else():
            emit(p.line)


def _transform_inputs(b: Buffers, p: WinogradParams, scratch: _Scratch, w: Expr, place: tuple[Expr, Expr],
                      number: Expr) -> None:
    """The points of a channel, at its place behind the first of its group, of a block of tiles.

    Down the columns first, along rows of pixels as they lie. Across, the pixels of a tile's first two columns are
    needed, and those of its other two: the rows are written from both pairs of columns on.
    """
    s, target, lanes, rows = p.stencil, p.target, p.stencil.lanes, scratch.rows
    (down_by, across_by), (row, column), (group, channel) = p.dilation, _place(p, number), place
    x = T.Bind(s.x_origin + (group + channel) * s.x_channel_stride + min(s.taps) + column)
    with T.serial(0, p.rows) as r:
        top, last = T.Bind(_pixel(row + r, down_by)), target.height - 1 + 2 * down_by
        lines = [T.Bind(x + T.min(top + i * down_by, last) * target.row_stride) for i in range(SIDE)]

        def down(width: int) -> None:
            for pair in range(2):
                for begin in range(0, p.line, lanes):
                    at = pair * 2 * across_by + begin
                    d = [T.Bind(load_lanes(b["x"], line + at, lanes, 0, width + 2 * across_by - at)) for line in lines]
                    for i, value in enumerate(combined(d)):
                        store(rows, (pair * SIDE + i) * p.lines + r * p.line + begin, value)

        # The last of an odd number of columns reads one that there is not, for a pixel that is not, either.
        _inside(p, column, down)
    firsts = [lane // across_by * 2 * across_by + lane % across_by for lane in range(lanes)]
    seconds = [lane + across_by for lane in firsts]
    for v in range(p.vectors):
        for i in range(SIDE):
            pairs = [[T.Bind(load(rows, (pair * SIDE + i) * p.lines + (2 * v + half) * lanes, lanes))
                      for half in range(2)] for pair in range(2)]
            d = [T.Bind(T.Shuffle(pairs[j // 2], (firsts, seconds)[j % 2])) for j in range(SIDE)]
            for j, value in enumerate(combined(d)):
                at = w * p.points + ((i * SIDE + j) * p.channels + channel) * p.tile + v * lanes
                store(scratch.points, at, value)


def _multiply(b: Buffers, p: WinogradParams, scratch: _Scratch, point: Expr, block: Expr, w: Expr, to: Expr) -> None:
    """The products of a point of a block of output channels and one of tiles, summed over the inputs."""
    lanes, tile = p.stencil.lanes, p.tile
    acc = registers(p.block * p.vectors, lanes)
    for register in range(p.block * p.vectors):
        store(acc, register * lanes, splat(0.0, lanes))
    weights = T.Bind((block * POINTS + point) * p.channels * p.block)
    points = T.Bind(w * p.points + point * p.channels * tile)
    with T.serial(0, p.channels) as channel:
        at = weights + channel * p.block
        prefetch(b["values"], at + AHEAD)
        pixels = [T.Bind(load(scratch.points, points + channel * tile + v * lanes, lanes)) for v in range(p.vectors)]
        for r in range(p.block):
            value = splat(b["values"][at + r], lanes)
            for v in range(p.vectors):
                add_to(acc, (r * p.vectors + v) * lanes, value * pixels[v])
    for register in range(p.block * p.vectors):
        store(scratch.products, to + point * (p.block * tile) + register * lanes, load(acc, register * lanes, lanes))


def _transform_outputs(p: WinogradParams, scratch: _Scratch, r: Expr, begin: Expr) -> None:
    """The pixels of an output channel of a block: two lines of `rows`, each with the pixels of all rows of tiles."""
    lanes, across_by = p.stencil.lanes, p.dilation[1]
    woven = [[lane // (2 * across_by) * across_by + lane % across_by + lane // across_by % 2 * lanes
              for lane in range(half * lanes, (half + 1) * lanes)] for half in range(2)]
    for v in range(p.vectors):
        points = [T.Bind(load(scratch.products, begin + (i * p.block + r) * p.tile + v * lanes, lanes))
                  for i in range(POINTS)]
        columns = [reduced(points[j::SIDE]) for j in range(SIDE)]
        lines = [[T.Bind(column[line]) for column in columns] for line in range(2)]
        for line, m in enumerate(lines):
            pair = [T.Bind(pixel) for pixel in reduced(m)]
            for half in range(2):
                store(scratch.rows, line * p.lines + (2 * v + half) * lanes, T.Shuffle(pair, woven[half]))


def _write(b: Buffers, p: WinogradParams, rows: Buffer, output: Expr, row: Expr, column: Expr) -> None:
    """An output channel of a block through the epilogue; of vectors beyond the image's edge, what lies inside."""
    s, target = p.stencil, p.target
    start = T.Bind(s.y_origin + output * s.y_row_stride + column)

    def line(r: Expr, number: int, y: Expr) -> None:
        at = start + y * target.row_stride
        pixels = vectors_from(rows, number * p.lines + r * p.line, s.lanes)
        _inside(p, column, lambda width: _store(b, p, output, at, pixels, width))

    with T.serial(0, p.rows) as r:
        y = T.Bind(_pixel(row + r, p.dilation[0]))
        with T.If(y < target.height), T.Then():
            line(r, 0, y)
            with T.If(y + p.dilation[0] < target.height), T.Then():
                line(r, 1, y + p.dilation[0])


def _store(b: Buffers, p: WinogradParams, output: Expr, at: Expr, pixels: Callable[[Expr], Expr], count: int) -> None:
    e, lanes = p.epilogue, p.stencil.lanes
    for begin in range(0, count, lanes):
        value = pixels(begin // lanes) + splat(b["bias"][output], lanes)
        residual = load_lanes(b["residual"], at + begin, lanes, 0, count - begin) if e.residual else None
        store_lanes(b["y"], at + begin, finished(e, value, lanes, residual), count - begin)


FAMILY = Family("gemm/winograd", StencilProduct, ("dense",), "fp32", candidates, recipe, build, float_product, reject)
