"""The walk that the products of codes share: tiles of pixels, chunks of channels, parts of the rows.

Those of `products.tiles`, on unsigned bytes. A tile is `vectors` vectors of codes wide; within a chunk of channels the
kernel's own inner product runs over its rows. Integer sums wait in a scratch from chunk to chunk, in the order of
`emit.codes`. Inputs are read where they lie (`direct`), or copied with their halo into a scratch (`halo`), where an
image's rows lie closer together and offsets are short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.codes import finish
from sparsec.kernels.cpu.codes.finish import Finish, Place
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.tiles import Enter, LoadTile, Part, Tiles, walk
from sparsec.kernels.emit.codes import FOUR, SIDES, llvm_codes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, splat, store, whole_buffer

MODES = ("direct", "halo")


@dataclass(frozen=True)
class Tiling(Tiles):
    """How a product of codes is cut into pieces.

    Attributes:
        stencil: the geometry in codes; `lanes` are four times those of 32 bits.
        finish: what follows the sums.
        mode: how inputs are reached, one of MODES.
        vectors: vectors of codes in a tile.
        chunk: channels of a K-chunk.
        parts: equal shares that the rows are dealt into, so that threads can split a tile.

    """

    stencil: Stencil
    finish: Finish
    mode: str
    vectors: int
    chunk: int
    parts: int = 1

    @property
    def words(self) -> int:
        """Lanes of a vector of integers."""
        return self.stencil.lanes // FOUR

    @property
    def copied(self) -> float:
        """Vectors that are copied into the scratch in all."""
        s = self.stencil
        return 0 if self.mode == "direct" else s.segments * self.tiles * s.channels * self.halo_stride / s.lanes

    @property
    def memory_bytes(self) -> int:
        """Bytes of activations that a run reads and writes: x, y, and the residual where there is one."""
        s, item = self.stencil, 4 if self.finish.real else 1
        return s.x_size + item * s.y_size * (2 if self.finish.residual else 1)


Inner = Callable[[Buffers, Buffer, Expr, Expr, Expr, "Sums"], None]
"""Emits a part's product of one tile and chunk: (buffers, source, base, part, chunk, sums)."""


def build(t: Tiling, isa: Isa, weights: dict[str, tuple[int | None, str]], inner: Inner, slots: int,
          prepare: Callable[[Buffers, Tiling], LoadTile] | None = None) -> Kernel:
    """A kernel whose sums wait in so many slots.

    It is (the weight's arrays, those of `Finish`, [keep, fill, border], x, [x_scale, x_zero_point], [residual]) -> y,
    [ends]: by thread a vector of the least results, which 0 is one of, and one of the largest.
    """
    s, f = t.stencil, t.finish
    arguments = {**weights, **f.arguments(s.outputs)}
    if s.masked:
        arguments |= mask_arguments(s.vectors * s.lanes)
    arguments |= {**f.inputs(s.x_size, s.y_size), "y": (s.y_size, f.dtype)}
    if f.coded:
        arguments |= {"ends": (isa.threads * SIDES * t.words, "float32")}
    stage = prepare or codes_tile
    return kernel(arguments, lambda buffers: _emit(buffers, t, isa, inner, slots, stage), llvm_codes(isa))


def mask_arguments(pixels: int) -> dict[str, tuple[int | None, str]]:
    """What `masks` makes, as arguments of a kernel."""
    return {"keep": (pixels, "uint8"), "fill": (pixels, "uint8"), "border": (1, "uint8")}


def masks(layout: PaddedFlat) -> list[np.ndarray]:
    """The masks of a clean layout's junk pixels: the bits to keep, what stands for the others, and around them."""
    position = np.arange(layout.vectors * layout.lanes)
    row, column = position // layout.row_stride, position % layout.row_stride
    keep = (column < layout.width) & (row % layout.pitch < layout.height) & (row < layout.rows)
    return [np.where(keep, 255, 0).astype(np.uint8), np.where(keep, 0, layout.padding).astype(np.uint8),
            np.array([layout.padding], np.uint8)]


def _emit(b: Buffers, t: Tiling, isa: Isa, inner: Inner, slots: int,
          prepare: Callable[[Buffers, Tiling], LoadTile]) -> None:
    def begin(thread: Expr, threads: int) -> tuple[Enter, Enter]:
        if t.stencil.masked:
            _fill_border(b, t.stencil, thread, threads)
        ends = thread * (SIDES * t.words)
        for side in range(SIDES if t.finish.coded else 0):
            store(b["ends"], ends + side * t.words, splat(0.0, t.words))
        load_tile = prepare(b, t)
        waiting = whole_buffer((slots * t.tile,), "int32") if t.chunks > 1 else None

        def enter(chunk: Expr, x: Expr, y: Expr, start: Expr) -> Part:
            source, base = load_tile(chunk, x)
            sums = Sums(b, t, waiting, chunk, y, start, ends)
            return lambda part: inner(b, source, base, part, chunk, sums)

        return enter, enter

    walk(t, isa, begin)


def _fill_border(b: Buffers, s: Stencil, thread: Expr, threads: int) -> None:
    """Write what stands for zero before and behind the pixels of a thread's share of the rows of Y."""
    with T.serial(thread * s.outputs // threads, (thread + 1) * s.outputs // threads) as row:
        clear_border(b, s, row)


def clear_border(b: Buffers, s: Stencil, row: Expr) -> None:
    """Write what stands for zero before and behind the pixels of a row of Y."""
    tail = s.y_origin + s.vectors * s.lanes
    zero = T.Bind(T.Broadcast(b["border"][0], s.lanes))
    for begin, end in ((0, s.y_origin), (tail, s.y_row_stride)):
        with T.serial(0, (end - begin) // s.lanes) as vector:
            store(b["y"], row * s.y_row_stride + begin + vector * s.lanes, zero)


def codes_tile(b: Buffers, t: Tiling) -> LoadTile:
    """The chunk's codes where they lie, or copied into a scratch."""
    s = t.stencil
    scratch = T.alloc_buffer((t.chunk * t.halo_stride,), "uint8") if t.mode == "halo" else None

    def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
        first = T.Bind(T.Cast("int64", x + chunk * (t.chunk * s.x_channel_stride) + min(s.taps)))
        if scratch is None:
            return b["x"], first
        with T.serial(0, T.min(t.chunk, s.channels - chunk * t.chunk)) as channel:
            for vector in range(t.halo_stride // s.lanes):
                codes = load(b["x"], first + channel * s.x_channel_stride + vector * s.lanes, s.lanes)
                store(scratch, channel * t.halo_stride + vector * s.lanes, codes)
        return scratch, T.int64(0)

    return load_tile


@dataclass(frozen=True)
class Sums:
    """Where the integer sums of a tile come from and go to."""

    buffers: Buffers
    tiling: Tiling
    waiting: Buffer
    chunk: Expr
    y: Expr
    start: Expr
    ends: Expr

    def begin(self, registers: Buffer, first: int, row: Expr, slot: Expr) -> None:
        """Set a row's accumulators, from register `first` on: to what they start from, or to what waits in the slot."""
        t, lanes = self.tiling, self.tiling.words
        opening = T.Bind(splat(finish.begin(self.buffers, t.finish, row), lanes))

        def start() -> None:
            for i in range(FOUR * t.vectors):
                store(registers, (first + i) * lanes, opening)

        if t.chunks == 1:
            start()
            return
        with T.If(self.chunk == 0):
            with T.Then():
                start()
            with T.Else():
                for i in range(FOUR * t.vectors):
                    store(registers, (first + i) * lanes, load(self.waiting, slot * t.tile + i * lanes, lanes))

    def end(self, registers: Buffer, first: int, row: Expr, slot: Expr) -> None:
        """Store a row's results, or its sums in the slot for the next chunk."""
        t, lanes = self.tiling, self.tiling.words
        if t.chunks == 1:
            self._finish(registers, first, row)
            return
        with T.If(self.chunk == t.chunks - 1):
            with T.Then():
                self._finish(registers, first, row)
            with T.Else():
                for i in range(FOUR * t.vectors):
                    store(self.waiting, slot * t.tile + i * lanes, load(registers, (first + i) * lanes, lanes))

    def _finish(self, registers: Buffer, first: int, row: Expr) -> None:
        t, s, b = self.tiling, self.tiling.stencil, self.buffers
        for vector in range(t.vectors):
            sums = [load(registers, (first + FOUR * vector + i) * t.words, t.words) for i in range(FOUR)]
            at = self.start + vector * s.lanes
            mask = (load(b["keep"], at, s.lanes), load(b["fill"], at, s.lanes)) if s.masked else None
            finish.put(b, t.finish, sums, row, Place(self.y + row * s.y_row_stride + vector * s.lanes, mask, self.ends))
