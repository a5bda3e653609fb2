"""Concatenation of channels over the padded flat layout, where a range of channels is contiguous.

Channels may be scaled, shifted and activated on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.cpu.images.padded import blank, load_lanes, padded_rows, pixels, write_images
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, splat, store


def build_concat(sources: Sequence[PaddedFlat], target: PaddedFlat, isa: Isa,
                 epilogue: Epilogue | None = None) -> Kernel:
    """The kernel: ([scale, shift], x0, x1, …) -> y, the inputs' channels one after the other.

    With an epilogue y = activation(x * scale + shift), by channels of y.
    """
    def body(b: Buffers) -> None:
        first = 0
        for i, source in enumerate(sources):
            channels = range(first, first + source.channels)
            if epilogue is None:
                _copy(b[f"x{i}"], source, b["y"], target, channels, isa)
            else:
                _scale(b, b[f"x{i}"], source, target, channels, isa, epilogue)
            first += source.channels

    sizes = {} if epilogue is None else {"scale": target.channels, "shift": target.channels}
    sizes |= {f"x{i}": source.size for i, source in enumerate(sources)}
    return kernel({name: (size, target.dtype) for name, size in {**sizes, "y": target.size}.items()}, body)


def _copy(x: Buffer, source: PaddedFlat, y: Buffer, target: PaddedFlat, channels: range, isa: Isa) -> None:
    """Copy all channels of the source to `channels` of the target."""
    lanes = isa.lanes
    alike = replace(source, channels=target.channels, clean=target.clean, padding=target.padding) == target
    if alike and (not target.clean or (source.clean and source.padding == target.padding)):
        stride = source.channel_stride
        with shared(len(channels), isa) as c, T.serial(0, stride // lanes) as v:
            store(y, (channels.start + c) * stride + v * lanes, load(x, c * stride + v * lanes, lanes))
        return
    write_images(y, target, isa, source.width // lanes, partial(_load, x, source, lanes), channels)


def _load(x: Buffer, source: PaddedFlat, lanes: int, n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
    end = source.width - t * lanes if isinstance(t, int) else lanes
    return load_lanes(x, padded_rows(source).start(n, c, h) + t * lanes, lanes, 0, end)


def _scale(b: Buffers, x: Buffer, source: PaddedFlat, target: PaddedFlat, channels: range, isa: Isa,
           e: Epilogue) -> None:
    """Scale, shift and activate all channels of the source to `channels` of the target."""
    lanes = isa.lanes

    def finish(value: Expr, c: Expr) -> Expr:
        scale, shift = (splat(b[name][channels.start + c], lanes) for name in ("scale", "shift"))
        return finished(e, value * scale + shift, lanes, None)

    write_images(b["y"], target, isa, source.width // lanes,
                 lambda n, c, h, t: finish(_load(x, source, lanes, n, c, h, t), c), channels)


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
