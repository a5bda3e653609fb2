"""Copies of images between the plain and the padded flat layout, and from one padded flat layout to another.

With strides, only every s-th row and column is copied: the input of a 1x1 convolution of stride s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, Plain
from sparsec.kernels.cpu.images.padded import Rows, columns, padded_rows, pixels, plain_rows, store_lanes, write_images
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, shared
from sparsec.kernels.emit.tir import Buffers, kernel


@dataclass(frozen=True)
class ReformatParams:
    """A copy kernel.

    Attributes:
        shape: (batch, channels, height, width) of the source.
        source, target: the layouts; with strides, the target's shape is (batch, channels, ceil(h / sh), ceil(w / sw)).
        strides: (sh, sw), rows and columns from one copied pixel to the next.

    """

    shape: tuple[int, int, int, int]
    source: Plain | PaddedFlat
    target: Plain | PaddedFlat
    strides: tuple[int, int] = (1, 1)

    @property
    def source_rows(self) -> Rows:
        """Where the source's rows lie."""
        return plain_rows(*self.shape) if isinstance(self.source, Plain) else padded_rows(self.source)

    @property
    def target_rows(self) -> Rows:
        """Where the target's rows lie."""
        batch, channels, height, width = self.shape
        shape = batch, channels, -(-height // self.strides[0]), -(-width // self.strides[1])
        return plain_rows(*shape) if isinstance(self.target, Plain) else padded_rows(self.target)


def build(params: ReformatParams, isa: Isa) -> Any:
    """The kernel: x -> y, both flat."""
    source, target, lanes = params.source_rows, params.target_rows, isa.lanes
    sh, sw = params.strides
    inside = source.width // (lanes * sw)

    def vector(x: Any, n: Any, c: Any, h: Any, t: Any) -> Any:
        return columns(x, source.start(n, c, h * sh), t * (lanes * sw), sw, 0, lanes, source.width)

    def body(b: Buffers) -> None:
        if isinstance(params.target, PaddedFlat):
            write_images(b["y"], params.target, isa, inside, lambda *at: vector(b["x"], *at))
            return
        with shared(source.channels, isa) as c, T.serial(0, target.batch) as n, T.serial(0, target.height) as h:
            along(-(-target.width // lanes), 0, inside, lambda t: store_lanes(
                b["y"], target.start(n, c, h) + t * lanes, vector(b["x"], n, c, h, t),
                target.width - t * lanes if isinstance(t, int) else lanes))

    return kernel({"x": (source.size, "float32"), "y": (target.size, "float32")}, body)


def reference(x: np.ndarray, params: ReformatParams) -> np.ndarray:
    """The flat target of a flat source; positions that the target's layout leaves undefined are NaN."""
    sh, sw = params.strides
    clean = isinstance(params.target, PaddedFlat) and params.target.clean
    y = np.full(params.target_rows.size, 0.0 if clean else np.nan, np.float32)
    pixels(y, params.target_rows)[...] = pixels(x, params.source_rows)[:, :, ::sh, ::sw]
    return y
