"""Concatenation of channels over the padded flat layout, where a range of channels is contiguous.

Channels may be scaled, shifted and activated on the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.cpu.images.padded import blank, load_lanes, padded_rows, pixels, write_images
from sparsec.kernels.emit import address_of
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, splat, store

Reached = Callable[[Expr], tuple[Buffer, Expr]]
"""The buffer that one of several channels lies in, and the number that it has there."""
ALIKE = 3
"""Inputs of one layout in a row from which on a loop copies them all: code for each takes LLVM long."""


def build_concat(sources: Sequence[PaddedFlat], target: PaddedFlat, isa: Isa,
                 epilogue: Epilogue | None = None) -> Kernel:
    """The kernel: ([scale, shift], x0, x1, …) -> y, the inputs' channels one after the other.

    With an epilogue y = activation(x * scale + shift), by channels of y.
    """
    def body(b: Buffers) -> None:
        first = 0
        for source, inputs in _runs(sources):
            reached = _together(b, inputs, source, target.dtype) if len(inputs) >= ALIKE else _one(b[f"x{inputs[0]}"])
            channels = range(first, first + len(inputs) * source.channels)
            if epilogue is None:
                _copy(reached, source, b["y"], target, channels, isa)
            else:
                _scale(b, reached, source, target, channels, isa, epilogue)
            first = channels.stop

    sizes = {} if epilogue is None else {"scale": target.channels, "shift": target.channels}
    sizes |= {f"x{i}": source.size for i, source in enumerate(sources)}
    arguments = {name: (size, target.dtype) for name, size in {**sizes, "y": target.size}.items()}
    return kernel(arguments, body, address_of.LLVM if any(len(run) >= ALIKE for _, run in _runs(sources)) else "")


def _runs(sources: Sequence[PaddedFlat]) -> list[tuple[PaddedFlat, list[int]]]:
    """The numbers of the inputs that are copied together, with their layout."""
    runs: list[tuple[PaddedFlat, list[int]]] = []
    for source, numbered in itertools.groupby(enumerate(sources), key=lambda each: each[1]):
        numbers = [number for number, _ in numbered]
        runs += [(source, numbers)] if len(numbers) >= ALIKE else [(source, [number]) for number in numbers]
    return runs


def _one(x: Buffer) -> Reached:
    return lambda channel: (x, channel)


def _together(b: Buffers, inputs: Sequence[int], source: PaddedFlat, dtype: str) -> Reached:
    """Finds the channels of all these inputs, counted through."""
    table = T.alloc_buffer((len(inputs),), "int64")
    for place, number in enumerate(inputs):
        T.buffer_store(table, address_of.address(b[f"x{number}"]), [place])
    return lambda channel: (address_of.buffer_at(table[T.floordiv(channel, source.channels)], source.size, dtype),
                            T.floormod(channel, source.channels))


def _copy(reached: Reached, source: PaddedFlat, y: Buffer, target: PaddedFlat, channels: range, isa: Isa) -> None:
    """Copy all channels of inputs to `channels` of the target."""
    lanes = isa.lanes
    alike = replace(source, channels=target.channels, clean=target.clean, padding=target.padding) == target
    if alike and (not target.clean or (source.clean and source.padding == target.padding)):
        stride = source.channel_stride
        with shared(len(channels), isa) as i:
            x, c = reached(i)
            with T.serial(0, stride // lanes) as v:
                store(y, (channels.start + i) * stride + v * lanes, load(x, c * stride + v * lanes, lanes))
        return
    write_images(y, target, isa, source.width // lanes, partial(_load, reached, source, lanes), channels)


def _load(reached: Reached, source: PaddedFlat, lanes: int, n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
    end = source.width - t * lanes if isinstance(t, int) else lanes
    x, channel = reached(c)
    return load_lanes(x, padded_rows(source).start(n, channel, h) + t * lanes, lanes, 0, end)


def _scale(b: Buffers, reached: Reached, source: PaddedFlat, target: PaddedFlat, channels: range, isa: Isa,
           e: Epilogue) -> None:
    """Scale, shift and activate all channels of inputs to `channels` of the target."""
    lanes = isa.lanes

    def finish(value: Expr, c: Expr) -> Expr:
        scale, shift = (splat(b[name][channels.start + c], lanes) for name in ("scale", "shift"))
        return finished(e, value * scale + shift, lanes, None)

    write_images(b["y"], target, isa, source.width // lanes,
                 lambda n, c, h, t: finish(_load(reached, source, lanes, n, c, h, t), c), channels)


def concat_reference(inputs: Sequence[np.ndarray], sources: Sequence[PaddedFlat], target: PaddedFlat,
                     epilogue: Epilogue | None = None) -> np.ndarray:
    """The flat output of flat inputs; positions that its layout leaves undefined are NaN."""
    factors, flat = (inputs[:2], inputs[2:]) if epilogue else ((), inputs)
    y = blank(target)
    joined = np.concatenate([pixels(x, padded_rows(source)) for x, source in zip(flat, sources, strict=True)], axis=1)
    if epilogue:
        scale, shift = (each[:, None, None] for each in factors)
        joined = apply(joined * scale, shift, None, epilogue.activation, epilogue.alpha, epilogue.beta)
    pixels(y, padded_rows(target))[...] = joined
    return y
