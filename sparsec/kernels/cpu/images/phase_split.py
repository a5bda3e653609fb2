"""Deal the input of a strided convolution into phase planes, over which it is a stencil of stride 1 (`PhasePlanes`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, PhasePlanes
from sparsec.kernels.cpu.images.padded import Rows, columns, fill, padded_rows, pixels, store_lanes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel

MANY = 64
"""Planes up to which each is written out."""


@dataclass(frozen=True)
class PhaseSplitParams:
    """A split kernel.

    Attributes:
        source: layout of the convolution's input; its padding is not looked at.
        planes: the planes; they fit (`planes.misfit` is None).

    """

    source: PaddedFlat
    planes: PhasePlanes


def build(params: PhaseSplitParams, isa: Isa) -> Kernel:
    """The kernel: x -> y, both flat; y is of `planes.size`."""
    planes, source, dtype = params.planes, padded_rows(params.source), params.source.dtype

    def body(b: Buffers) -> None:
        with shared(source.channels, isa) as c, T.serial(0, source.batch) as n:
            at = c * planes.channel_stride + n * (planes.output.pitch * planes.output.row_stride)
            split_image(b["x"], source, (n, c), b["y"], planes, at, planes.begins[0], isa.lanes,
                        params.source.padding)

    return kernel({"x": (source.size, dtype), "y": (planes.size, dtype)}, body)


def split_image(x: Expr, source: Rows, image: tuple[Expr, Expr], y: Expr, planes: PhasePlanes, at: Expr, top: Expr,
                lanes: int, outside: float = 0.0) -> None:
    """Emit the copy of an image's channel into planes.

    Args:
        x: the input.
        source: where its rows lie.
        image: (image, channel).
        y: holds the planes.
        planes: their geometry.
        at: index of the first plane's pixel (0, 0).
        top: rows of zeros above the image; if negative, rows of the image that are left out.
        lanes: of a vector.
        outside: what stands around the image.

    """
    output, (sh, sw), left = planes.output, planes.strides, planes.begins[1]
    rows, width = output.height + planes.reach[0], output.width + planes.reach[1]
    inside = -(-left // (lanes * sw)), (source.width + left) // (lanes * sw)
    # Products compute on what lies between rows, too, and on denormals an Intel core takes fifty times as long.
    before = (output.batch - 1) * output.pitch * output.row_stride  # of the last image
    last = before + rows * output.row_stride
    written = output.row_stride if last <= planes.plane_stride else width
    tail = (rows - 1) * output.row_stride + written
    read = output.vectors * output.lanes + planes.reach[0] * output.row_stride + planes.reach[1] - before

    phases, columns_of = planes.phases

    def phase(a: Expr, number: Expr) -> None:
        starts = {b: at + (number * len(columns_of) + index) * planes.plane_stride
                  for index, b in enumerate(columns_of)}
        first = T.max(0, T.min(rows, T.floordiv(top - a + sh - 1, sh)))  # rows [first, end) come from the image
        end = T.max(first, T.min(rows, T.floordiv(source.height - 1 + top - a, sh) + 1))
        for start in starts.values():
            fill(y, start + tail, max(0, read - tail), lanes, outside)
        for bounds in ((0, first), (end, rows)):
            with T.serial(*bounds) as i:
                for start in starts.values():
                    fill(y, start + i * output.row_stride, written, lanes, outside)
        with T.serial(first, end) as i:
            row = T.Bind(source.start(*image, i * sh + a - top))
            along(-(-written // lanes), *inside, lambda t: copy(starts, i * output.row_stride, row, t))

    def copy(starts: dict[int, Expr], offset: Expr, row: Expr, t: Expr) -> None:
        for b, start in starts.items():
            vector = columns(x, row, t * (lanes * sw) - left, sw, b, lanes, source.width, outside)
            store_lanes(y, start + offset + t * lanes, vector, written - t * lanes if isinstance(t, int) else lanes)

    if len(phases) * len(columns_of) > MANY and phases == tuple(range(len(phases))):
        with T.serial(0, len(phases)) as a:
            phase(a, a)
        return
    for number, a in enumerate(phases):
        phase(a, number)


def reference(x: np.ndarray, params: PhaseSplitParams) -> np.ndarray:
    """The planes of a flat source; positions that no output pixel reads are NaN."""
    planes, output = params.planes, params.planes.output
    (sh, sw), (top, left) = planes.strides, planes.begins
    height, width = output.height + planes.reach[0], output.width + planes.reach[1]
    images = pixels(x, padded_rows(params.source))
    padded = np.zeros((*images.shape[:2], max(sh * height, top + images.shape[2]),
                       max(sw * width, left + images.shape[3])), np.float32)
    padded[:, :, top:top + images.shape[2], left:left + images.shape[3]] = images
    y = np.full(planes.size, np.nan, np.float32)
    for a in planes.phases[0]:
        for b in planes.phases[1]:
            rows = Rows(output.batch, planes.channels, height, width, planes.plane(a, b), planes.channel_stride,
                        output.pitch * output.row_stride, output.row_stride, planes.size)
            pixels(y, rows)[...] = padded[:, :, a::sh, b::sw][:, :, :height, :width]
    return y
