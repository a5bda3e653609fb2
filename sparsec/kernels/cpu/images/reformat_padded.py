"""Copies of images between the plain and the padded flat layout, and from one padded flat layout to another.

With strides, only every s-th row and column is copied: the input of a 1x1 convolution of stride s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, Plain
from sparsec.kernels.cpu.images.padded import (
    Rows,
    blank,
    columns,
    padded_rows,
    pixels,
    plain_rows,
    store_lanes,
    write_images,
)
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import along, shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel


@dataclass(frozen=True)
class ReformatParams:
    """A copy kernel.

    Attributes:
        shape: (batch, channels, height, width) of the source.
        source, target: the layouts; with strides, the target's shape is (batch, channels, ceil(h / sh), ceil(w / sw)).
        strides: (sh, sw), rows and columns from one copied pixel to the next.
        dtype: of what is row-major: float32, uint8 or int8; padded codes of int8 lie 128 larger.

    """

    shape: tuple[int, int, int, int]
    source: Plain | PaddedFlat
    target: Plain | PaddedFlat
    strides: tuple[int, int] = (1, 1)
    dtype: str = "float32"

    def element(self, layout: Plain | PaddedFlat) -> str:
        """The element type in a layout."""
        return self.dtype if isinstance(layout, Plain) else layout.dtype

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


def flip(dtype: str, lanes: int) -> Expr:
    """The sign bit of every byte of a vector: what codes of int8 and of uint8 that are 128 larger differ by."""
    return T.Broadcast(tvm.tirx.const(-128 if dtype == "int8" else 128, dtype), lanes)


def build(params: ReformatParams, isa: Isa) -> Kernel:
    """The kernel: x -> y, both flat."""
    source, target, lanes = params.source_rows, params.target_rows, isa.lanes
    sh, sw = params.strides
    inside = source.width // (lanes * sw)
    read, written = params.element(params.source), params.element(params.target)

    def vector(x: Expr, n: Expr, c: Expr, h: Expr, t: Expr) -> Expr:
        vector = columns(x, source.start(n, c, h * sh), t * (lanes * sw), sw, 0, lanes, source.width)
        if read == written:
            return vector
        flipped = T.reinterpret(f"{written}x{lanes}", vector)
        return T.bitwise_xor(flipped, flip(written, lanes))

    def body(b: Buffers) -> None:
        if isinstance(params.target, PaddedFlat):
            write_images(b["y"], params.target, isa, inside, lambda *at: vector(b["x"], *at))
            return
        with shared(source.channels, isa) as c, T.serial(0, target.batch) as n, T.serial(0, target.height) as h:
            along(-(-target.width // lanes), 0, inside, lambda t: store_lanes(
                b["y"], target.start(n, c, h) + t * lanes, vector(b["x"], n, c, h, t),
                target.width - t * lanes if isinstance(t, int) else lanes))

    return kernel({"x": (source.size, read), "y": (target.size, written)}, body)


def reference(x: np.ndarray, params: ReformatParams) -> np.ndarray:
    """The flat target of a flat source; positions that the target's layout leaves undefined are NaN."""
    sh, sw = params.strides
    y = (blank(params.target) if isinstance(params.target, PaddedFlat)
         else np.empty(params.target_rows.size, params.dtype))
    copied = pixels(x, params.source_rows)[:, :, ::sh, ::sw]
    if x.dtype != y.dtype:
        copied = (copied ^ copied.dtype.type(128 if copied.dtype == np.uint8 else -128)).view(y.dtype)
    pixels(y, params.target_rows)[...] = copied
    return y
