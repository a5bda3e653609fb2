"""Copies of images between the plain and the padded flat layout, and from one padded flat layout to another.

With strides, only every s-th row and column is copied: the input of a 1x1 convolution of stride s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat, Plain
from sparsec.kernels.emit import Buffers, kernel
from sparsec.kernels.isa import Isa
from sparsec.kernels.padded import (
    Rows,
    along,
    clear_border,
    columns,
    end_row,
    padded_rows,
    pixels,
    plain_rows,
    put,
    shared,
    store_lanes,
)


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
    vectors = -(-target.width // lanes)
    inside = source.width // (lanes * sw)

    def body(b: Buffers) -> None:
        with shared(source.channels, isa) as c:
            if isinstance(params.target, PaddedFlat):
                clear_border(b["y"], params.target, c, lanes)
            with T.serial(0, source.batch) as n, T.serial(0, target.height) as h:
                x, y = T.Bind(source.start(n, c, h * sh)), T.Bind(target.start(n, c, h))
                along(vectors, 0, inside, lambda t: write(
                    b["y"], y, t * lanes, columns(b["x"], x, t * (lanes * sw), sw, 0, lanes, source.width)))
                if isinstance(params.target, PaddedFlat):
                    end_row(b["y"], params.target, y, lanes)

    def write(y: Any, start: Any, first: Any, vector: Any) -> None:
        if isinstance(params.target, PaddedFlat):
            put(y, params.target, start, first, vector)
        else:
            store_lanes(y, start + first, vector, target.width - first if isinstance(first, int) else lanes)

    return kernel({"x": (source.size, "float32"), "y": (target.size, "float32")}, body)


def reference(x: np.ndarray, params: ReformatParams) -> np.ndarray:
    """The flat target of a flat source; positions that the target's layout leaves undefined are NaN."""
    sh, sw = params.strides
    clean = isinstance(params.target, PaddedFlat) and params.target.clean
    y = np.full(params.target_rows.size, 0.0 if clean else np.nan, np.float32)
    pixels(y, params.target_rows)[...] = pixels(x, params.source_rows)[:, :, ::sh, ::sw]
    return y
