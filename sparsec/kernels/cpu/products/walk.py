"""The walk that every product kernel shares: tiles of pixels, chunks of channels, parts of the rows, and the epilogue.

A kernel's tiles are those of `tiles.py`, and a chunk of channels is one whose tile fits the L1 cache. Within a chunk
the kernel's own inner product runs over row blocks; partial sums wait in Y, or in a scratch where tiles or row blocks
overlap, until the last chunk, where bias, residual and activation follow. Many rows are gone through in bands, each for
all tiles, so that a band's weights and sums stay in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.products import separable
from sparsec.kernels.cpu.products.separable import Bands
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.cpu.products.tiles import Enter, LoadTile, Part, walk
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import (
    Body,
    Buffer,
    Buffers,
    Expr,
    Kernel,
    kernel,
    lanes_of,
    load,
    parallel,
    prefetch,
    splat,
    store,
    whole_buffer,
)

IN_PLACE = "sparsec.in_place"  # attribute of kernels whose last input is their output as well
LINE_FLOATS = 16  # of a cache line

Inner = Callable[[Buffers, Buffer, Expr, Expr, Expr, "Finish"], None]
"""Emits the product of one tile, one chunk and one part of the rows: (buffers, source, base, part, chunk, finish)."""


@dataclass(frozen=True)
class Stage:
    """How the inputs of a tile come to the product.

    Attributes:
        prepare: allocates what it needs for the tiles of one thread.
        llvm: LLVM IR of the functions that it and the inner product call.

    """

    prepare: Callable[[Buffers, Tiling], LoadTile]
    llvm: str = ""


def build_product(t: Tiling, isa: Isa, weights: dict[str, tuple[int | None, str]], inner: Inner, slots: int,
                  stage: Stage | None = None) -> Kernel:
    """A product kernel: (the weight's arrays, bias, [mask], x, [residual]) -> y; partial sums wait in `slots` rows.

    Without a `stage` the inputs stay float32. It is in place where the tiling is and rows do not overlap either.
    """
    stage = stage or Stage(float_tile)
    epilogue = replace(t.epilogue, in_place=t.in_place and slots == t.stencil.outputs)
    return finishing_kernel(weights, t.stencil, epilogue, lambda b: _emit(b, t, isa, inner, slots, stage), stage.llvm)


def finishing_kernel(weights: Mapping[str, tuple[int | None, str]], s: Stencil, epilogue: Epilogue, body: Body,
                     llvm: str = "") -> Kernel:
    """A kernel (weights, bias, [mask], x, [residual]) -> y.

    Where the epilogue is in place y holds the residual: `body` finds it by both names, and the kernel has the attribute
    `IN_PLACE`.
    """
    arguments = {**weights, "bias": (s.outputs, "float32")}
    if s.masked:
        arguments["mask"] = (s.vectors * s.lanes, "int32")
    arguments["x"] = (s.x_size, "float32")
    if epilogue.residual and not epilogue.in_place:
        arguments["residual"] = (s.y_size, "float32")
    arguments["y"] = (s.y_size, "float32")
    if not epilogue.in_place:
        return kernel(arguments, body, llvm)
    return kernel(arguments, lambda b: body({**b, "residual": b["y"]}), llvm).with_attr(IN_PLACE, True)


def _emit(b: Buffers, t: Tiling, isa: Isa, inner: Inner, slots: int, stage: Stage) -> None:
    def begin(thread: Expr, threads: int) -> tuple[Enter, Enter]:
        if t.stencil.masked:
            clear_border(b, t.stencil, thread, threads, half=t.half)
        overlap = slots != t.stencil.outputs or t.overlaps
        sums = whole_buffer((slots * t.tile,)) if overlap and t.turns > 1 else None

        def entering(tiling: Tiling) -> Enter:
            load_tile = stage.prepare(b, tiling)

            def enter(chunk: Expr, x: Expr, y: Expr, start: Expr) -> Part:
                source, base = load_tile(chunk, x)
                finish = Finish(b, tiling, sums, chunk, x, y, start)
                return lambda part: inner(b, source, base, part, chunk, finish)

            return enter

        every = entering(t)
        return every, every if t.last is None else entering(t.last)

    if (bands := t.joined) is None:
        walk(t, isa, begin, t.bands)
    else:
        parallel(isa.threads, lambda thread: _emit_bands(b, t, bands, isa, inner, stage, thread))


def _emit_bands(b: Buffers, t: Tiling, bands: Bands, isa: Isa, inner: Inner, stage: Stage, thread: Expr) -> None:
    """A thread's bands of rows, see `separable.py`."""
    load_tile = stage.prepare(b, t)
    scratch = whole_buffer((bands.scratch.size,))
    held = {**b, "y": scratch}

    def tile(pixel: Expr, at: Expr) -> None:
        x, y = T.Bind(t.stencil.x_origin + pixel), T.Bind(t.stencil.y_origin + at)
        with T.serial(0, t.chunks) as chunk:
            source, base = load_tile(chunk, x)
            inner(held, source, base, 0, chunk, Finish(held, t, None, chunk, x, y, pixel))

    separable.emit(b, bands, isa, scratch, thread, tile)


def clear_border(b: Buffers, s: Stencil, thread: Expr, threads: int, *, half: bool = False) -> None:
    """Zero what lies before and behind the pixels of every row of Y, of the last vector the second half, too."""
    tail = s.y_origin + s.vectors * s.lanes
    with T.serial(thread * s.outputs // threads, (thread + 1) * s.outputs // threads) as row:
        for begin, end in ((0, s.y_origin), (tail, s.y_row_stride)):
            with T.serial(0, (end - begin) // s.lanes) as vector:
                store(b["y"], row * s.y_row_stride + begin + vector * s.lanes, splat(0.0, s.lanes))
        if half:
            store(b["y"], row * s.y_row_stride + tail - s.lanes // 2, splat(0.0, s.lanes // 2))


def float_tile(b: Buffers, t: Tiling) -> LoadTile:
    """The chunk's inputs in float32: where they lie in direct mode, else copied into a scratch (see `Stage`)."""
    s = t.stencil
    scratch = T.alloc_buffer((max(t.scratch, s.lanes),), "float32")

    def load_tile(chunk: Expr, x: Expr) -> tuple[Expr, Expr]:
        if t.mode == "direct":
            return b["x"], T.Bind(T.Cast("int64", x + chunk * (t.chunk * s.x_channel_stride) + min(s.taps)))
        _copy_tile(b, scratch, t, chunk, x)
        return scratch, T.int64(0)

    return load_tile


def _copy_tile(b: Buffers, scratch: Buffer, t: Tiling, chunk: Expr, x: Expr) -> None:
    """Copy the chunk's inputs for one tile into the scratch."""
    s = t.stencil
    with T.serial(0, T.min(t.chunk, s.channels - chunk * t.chunk)) as channel:
        row = T.Bind(x + (chunk * t.chunk + channel) * s.x_channel_stride)
        at = T.Bind(channel * (t.step or t.copied))
        for offset, length in t.copies:
            if t.mode == "halo":
                with T.serial(0, length // s.lanes) as vector:
                    step = vector * s.lanes
                    store(scratch, at + step, load(b["x"], row + offset + step, s.lanes))
                continue
            for step in range(0, length, s.lanes):
                width = t.widths[-1] if step + s.lanes == length else s.lanes
                store(scratch, at + step, load(b["x"], row + offset + step, width))
            at += length


@dataclass(frozen=True)
class Finish:
    """Stores a row's tile: as a partial sum, in Y where there are no `sums`, or through the epilogue at the end."""

    buffers: Buffers
    tiling: Tiling
    sums: Buffer
    chunk: Expr
    x: Expr
    y: Expr
    start: Expr

    def request(self, share: Expr, shares: int) -> None:
        """Ask for the share of the next tile's inputs in this chunk that comes while one of the `shares` multiplies.

        The processor's own prefetchers end with a page, and a channel is a page or more away from the next.
        """
        t, s = self.tiling, self.tiling.stencil
        channels = -(-t.chunk // shares)
        for each in range(channels if t.far else 0):
            channel = self.chunk * t.chunk + T.min(share * channels + each, t.chunk - 1)
            at = self.x + channel * s.x_channel_stride + max(s.taps) + t.tile
            for line in range(0, t.tile, LINE_FLOATS):
                prefetch(self.buffers["x"], at + line, 2)

    @property
    def _turn(self) -> Expr:
        """The number of the chunk among those that a row reads."""
        t = self.tiling
        return self.chunk if t.sections == 1 else T.floormod(self.chunk, t.turns)

    def request_cold(self, index: Expr, groups: int, rows: Callable[[], Iterable[Expr]]) -> None:
        """Ask the L2 cache for what later groups need, while the one of `groups` in a part multiplies.

        These are a share of the next chunk's inputs, in the first chunk the outputs of `rows` to come, for a store
        waits for its whole line, and in the last one their residuals. Inputs and rows are gone through in an order that
        the processor's own prefetchers do not foresee.
        """
        t, s, some = self.tiling, self.tiling.stencil, self.tiling.turns > 1
        if not t.cold:
            return
        if t.chunks > 1 and t.mode == "direct" and s.packed(t.vectors):  # behind a tile's last chunk the next one lies
            chunk = t.chunk * s.x_channel_stride
            share = -(-chunk // (LINE_FLOATS * groups)) * LINE_FLOATS
            self._request("x", T.Bind(self.x + (self.chunk + 1) * chunk + index * share), share)
        in_y = self.sums is None or not some
        for name, turn, wanted in (("y", 0, in_y), ("residual", t.turns - 1, t.epilogue.residual and not t.in_place)):
            if wanted:
                with T.If(self._turn == turn) if some else nullcontext(), T.Then() if some else nullcontext():
                    for row in rows():
                        self._request(name, T.Bind(self._output(row)), t.tile)

    def _request(self, name: str, first: Expr, floats: int) -> None:
        for line in range(0, floats, LINE_FLOATS):
            prefetch(self.buffers[name], first + line, 2)

    def _request_output(self, name: str, at: Expr) -> None:
        """Ask for the row's outputs, or residuals, of the next tile."""
        t = self.tiling
        for line in range(0, t.tile if t.far and t.joined is None else 0, LINE_FLOATS):
            prefetch(self.buffers[name], at + t.tile + line, 2, write=name == "y")

    def __call__(self, row: Expr, slot: Expr, product: Callable[[int], Expr]) -> None:
        """Store the vectors `product(0)`, `product(1)`, … of one row of the tile; partial sums wait in the slot."""
        turns = self.tiling.turns
        if turns == 1:
            self._final(row, product)
            return
        waiting = (self.buffers["y"], self._output(row)) if self.sums is None else (self.sums, slot * self.tiling.tile)
        total = self._added(product, *waiting)
        turn = self._turn
        with T.If(turn == turns - 1):
            with T.Then():
                self._final(row, total)
            with T.Else(), T.If(turn == 0):
                with T.Then():
                    self._partial(product, *waiting)
                with T.Else():
                    self._partial(total, *waiting)

    def _output(self, row: Expr) -> Expr:
        """Where the row's tile begins in Y."""
        return self.y + row * self.tiling.stencil.y_row_stride

    def _added(self, product: Callable[[int], Expr], buffer: Buffer, at: Expr) -> Callable[[int], Expr]:
        lanes, widths = self.tiling.stencil.lanes, self.tiling.widths
        return lambda vector: product(vector) + load(buffer, at + vector * lanes, widths[vector])

    def _partial(self, product: Callable[[int], Expr], buffer: Buffer, at: Expr) -> None:
        for vector in range(self.tiling.vectors):
            store(buffer, at + vector * self.tiling.stencil.lanes, product(vector))

    def _final(self, row: Expr, product: Callable[[int], Expr]) -> None:
        b, s = self.buffers, self.tiling.stencil
        for name in ("y", "residual") if b.get("residual", b["y"]) is not b["y"] else ("y",):
            self._request_output(name, self._output(row))
        for vector, width in enumerate(self.tiling.widths):
            at = self._output(row) + vector * s.lanes
            mask = load(b["mask"], self.start + vector * s.lanes, width) if s.masked else None
            value = product(vector) + splat(b["bias"][row], width)
            store(b["y"], at, finish_vector(b, self.tiling.epilogue, value, at, mask))


def finish_vector(b: Buffers, e: Epilogue, value: Expr, at: Expr, mask: Expr) -> Expr:
    """The vector to store: with its residual, activated, and cleared where the mask is zero."""
    lanes = lanes_of(value)
    value = finished(e, value, lanes, load(b["residual"], at, lanes) if e.residual else None)
    if mask is None:
        return value
    return T.reinterpret(f"float32x{lanes}", T.bitwise_and(T.reinterpret(f"int32x{lanes}", value), mask))
