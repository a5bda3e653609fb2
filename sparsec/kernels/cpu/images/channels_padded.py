"""Concatenation of channels over the padded flat layout, where a range of channels is contiguous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.images.padded import blank, load_lanes, padded_rows, pixels, write_images
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, store


def build_concat(sources: Sequence[PaddedFlat], target: PaddedFlat, isa: Isa) -> Kernel:
    """The kernel: (x0, x1, …) -> y, the inputs' channels one after the other."""
    def body(b: Buffers) -> None:
        first = 0
        for i, source in enumerate(sources):
            _copy(b[f"x{i}"], source, b["y"], target, range(first, first + source.channels), isa)
            first += source.channels

    sizes = {f"x{i}": source.size for i, source in enumerate(sources)}
    return kernel({name: (size, target.dtype) for name, size in {**sizes, "y": target.size}.items()}, body)


def _copy(x: Buffer, source: PaddedFlat, y: Buffer, target: PaddedFlat, channels: range, isa: Isa) -> None:
    """Copy all channels of the source to `channels` of the target."""
    rows, lanes = padded_rows(source), isa.lanes
    alike = replace(source, channels=target.channels, clean=target.clean, padding=target.padding) == target
    if alike and (not target.clean or (source.clean and source.padding == target.padding)):
        stride = source.channel_stride
        with shared(len(channels), isa) as c, T.serial(0, stride // lanes) as v:
            store(y, (channels.start + c) * stride + v * lanes, load(x, c * stride + v * lanes, lanes))
        return

    def vector(n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
        end = source.width - t * lanes if isinstance(t, int) else lanes
        return load_lanes(x, rows.start(n, c, h) + t * lanes, lanes, 0, end)

    write_images(y, target, isa, source.width // lanes, vector, channels)


def concat_reference(inputs: Sequence[np.ndarray], sources: Sequence[PaddedFlat], target: PaddedFlat) -> np.ndarray:
    """The flat output of flat inputs; positions that its layout leaves undefined are NaN."""
    images = [pixels(x, padded_rows(source)) for x, source in zip(inputs, sources, strict=True)]
    y = blank(target)
    pixels(y, padded_rows(target))[...] = np.concatenate(images, axis=1)
    return y
