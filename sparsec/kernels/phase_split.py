"""Deal the input of a strided convolution into phase planes, over which it is a stencil of stride 1 (`PhasePlanes`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, PhasePlanes
from sparsec.kernels.emit import Buffers, kernel
from sparsec.kernels.isa import Isa
from sparsec.kernels.padded import Rows, along, columns, each, fill, padded_rows, pixels, shared, store_lanes


@dataclass(frozen=True)
class PhaseSplitParams:
    """A split kernel.

    Attributes:
        source: layout of the convolution's input; its padding is not looked at.
        planes: the planes; they fit (`planes.misfit` is None).

    """

    source: PaddedFlat
    planes: PhasePlanes


def build(params: PhaseSplitParams, isa: Isa) -> Any:
    """The kernel: x -> y, both flat; y is of `planes.size`."""
    planes, source = params.planes, padded_rows(params.source)

    def body(b: Buffers) -> None:
        with shared(source.channels, isa) as c, T.serial(0, source.batch) as n:
            for a in planes.phases[0]:
                split_rows(b["x"], source, b["y"], planes, a, n, c, isa.lanes)

    return kernel({"x": (source.size, "float32"), "y": (planes.size, "float32")}, body)


def split_rows(x: Any, source: Rows, y: Any, planes: PhasePlanes, a: int, n: Any, c: Any, lanes: int) -> None:
    """Emit the copy of image `n`'s rows of phase `a` of channel `c` into their planes."""
    output, (sh, sw), (top, left) = planes.output, planes.strides, planes.begins
    rows, width = output.height + planes.reach[0], output.width + planes.reach[1]
    first = min(rows, max(0, -(-(top - a) // sh)))  # the rows [first, end) of the plane come from the image
    end = min(rows, max(first, (source.height - 1 + top - a) // sh + 1))

    def start(i: Any, b: int) -> Any:
        return c * planes.channel_stride + planes.plane(a, b) + (n * output.pitch + i) * output.row_stride

    def zero(i: Any) -> None:
        for b in planes.phases[1]:
            fill(y, start(i, b), width, lanes)

    def copy(i: Any, x_row: Any, t: Any) -> None:
        for b in planes.phases[1]:
            vector = columns(x, x_row, t * (lanes * sw) - left, sw, b, lanes, source.width)
            store_lanes(y, start(i, b) + t * lanes, vector, width - t * lanes if isinstance(t, int) else lanes)

    each(0, first, zero)
    each(end, rows, zero)
    with T.serial(first, end) as i:
        x_row = T.Bind(source.start(n, c, i * sh + a - top))
        inside = -(-left // (lanes * sw)), (source.width + left) // (lanes * sw)
        along(-(-width // lanes), *inside, lambda t: copy(i, x_row, t))


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
