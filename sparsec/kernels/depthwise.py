"""Depthwise convolution over the padded flat layout: every channel is convolved with a kernel of its own.

A block of output rows is computed at a time, one vector of columns after the other, so that an input row is loaded once
for all the output rows of the block that it meets; a stride of 2 takes its taps from even and odd lanes. Where the
input's padding holds zeros it is read; elsewhere taps outside of the image are dropped or masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import PaddedFlat
from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.activations import ACTIVATIONS
from sparsec.kernels.emit import Buffers, kernel, splat
from sparsec.kernels.isa import Isa
from sparsec.kernels.padded import (
    along,
    clear_border,
    columns,
    end_row,
    load_lanes,
    padded_rows,
    pixels,
    put,
    shared,
)
from sparsec.kernels.product import Epilogue

MOST_ROWS = 8  # of a block


@dataclass(frozen=True)
class DepthwiseParams:
    """A depthwise convolution.

    Attributes:
        source: layout of the input.
        target: layout of the output, and of the residual.
        kernel: (kh, kw).
        strides: (sh, sw).
        dilations: (dh, dw).
        begins: (top, left) padding.
        epilogue: what follows the convolution.

    """

    source: PaddedFlat
    target: PaddedFlat
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    begins: tuple[int, int] = (0, 0)
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def block(self) -> int:
        """Output rows of a block: as few input rows as possible are loaded, and code stays short."""
        height, reach = self.target.height, (self.kernel[0] - 1) * self.dilations[0] + 1
        return min(range(1, min(height, MOST_ROWS) + 1),
                   key=lambda rows: -(-height // rows) * ((rows - 1) * self.strides[0] + reach))

    @property
    def safe_blocks(self) -> tuple[int, int]:
        """The blocks [first, end) that meet no row outside of the image and its zeros."""
        zeros = self.source.row_pad if self.source.clean else 0
        step, top = self.block * self.strides[0], self.begins[0]
        below = self.source.height + zeros + top - (self.kernel[0] - 1) * self.dilations[0] - 1
        return -(-max(0, top - zeros) // step), (below // self.strides[0] + 1) // self.block

    def safe_vectors(self, lanes: int) -> tuple[int, int]:
        """The vectors [first, end) of an output row whose loads stay inside of an input row and its zeros."""
        zeros = self.source.pad if self.source.clean else 0
        step, left, reach = lanes * self.strides[1], self.begins[1], (self.kernel[1] - 1) * self.dilations[1]
        right = self.source.width + zeros + left - reach // self.strides[1] * self.strides[1]
        return -(-max(0, left - zeros) // step), min(self.target.width // lanes, right // step)


def reject(params: DepthwiseParams) -> str | None:
    """Why there is no kernel for these parameters, or None."""
    if params.source.channels != params.target.channels:
        return f"{params.target.channels} outputs of {params.source.channels} channels: the depth multiplier is not 1"
    return None


def pack(weight: np.ndarray) -> np.ndarray:
    """The kernel's flat weights from ONNX's (channels, 1, kh, kw)."""
    return np.ascontiguousarray(weight, np.float32).ravel()


def build(params: DepthwiseParams, isa: Isa) -> Any:
    """The kernel: (weight, bias, x, [residual]) -> y."""
    p, taps = params, params.kernel[0] * params.kernel[1]

    def body(b: Buffers) -> None:
        with shared(p.target.channels, isa) as c:
            clear_border(b["y"], p.target, c, isa.lanes)
            weights = [T.Bind(splat(b["weight"][c * taps + tap], isa.lanes)) for tap in range(taps)]
            bias = T.Bind(splat(b["bias"][c], isa.lanes))
            with T.serial(0, p.target.batch) as n:
                _image(b, p, n, c, weights, bias, isa.lanes)

    sizes = {"weight": p.target.channels * taps, "bias": p.target.channels, "x": p.source.size}
    residual = {"residual": p.target.size} if p.epilogue.residual else {}
    return kernel({name: (size, "float32") for name, size in {**sizes, **residual, "y": p.target.size}.items()}, body)


def _image(b: Buffers, p: DepthwiseParams, n: Any, c: Any, weights: list[Any], bias: Any, lanes: int) -> None:
    target, width, block = padded_rows(p.target), p.target.width, p.block

    def rows(index: Any) -> None:
        last = target.height - block
        first = min(index * block, last) if isinstance(index, int) else T.Bind(T.min(index * block, last))
        along(-(-width // lanes), *p.safe_vectors(lanes), lambda t: vectors(first, t), unroll=1)
        for row in range(block):
            end_row(b["y"], p.target, target.start(n, c, first + row), lanes)

    def vectors(first: Any, t: Any) -> None:
        for row, total in enumerate(_sums(b["x"], p, n, c, first, t, weights, bias, lanes)):
            start = target.start(n, c, first + row)
            put(b["y"], p.target, start, t * lanes, _finish(b, p, total, start + t * lanes, width - t * lanes, lanes))

    along(-(-target.height // block), *p.safe_blocks, rows, unroll=1)


def _sums(x: Any, p: DepthwiseParams, n: Any, c: Any, first: Any, t: Any, weights: list[Any], bias: Any,
          lanes: int) -> list[Any]:
    """Vector t of each output row of the block, in the order of the input rows so that few sums are open at a time."""
    rows, (sh, sw), (dh, dw), (top, left) = padded_rows(p.source), p.strides, p.dilations, p.begins
    totals = [bias] * p.block
    for i in range((p.block - 1) * sh + (p.kernel[0] - 1) * dh + 1):
        taps = [(row, (i - row * sh) // dh) for row in range(p.block)
                if (i - row * sh) % dh == 0 and 0 <= i - row * sh < p.kernel[0] * dh]
        h = first * sh + i - top
        if not taps or (isinstance(h, int) and not 0 <= h < p.source.height):
            continue
        pixels = [T.Bind(columns(x, rows.start(n, c, h), t * (lanes * sw) + j * dw // sw * sw - left, sw, j * dw % sw,
                                 lanes, p.source.width)) for j in range(p.kernel[1])]
        for row, k in taps:
            totals[row] = T.Bind(sum((weights[k * p.kernel[1] + j] * pixel for j, pixel in enumerate(pixels)),
                                     start=totals[row]))
    return totals


def _finish(b: Buffers, p: DepthwiseParams, total: Any, at: Any, end: Any, lanes: int) -> Any:
    """Residual and activation; `end` lanes of the vector at index `at` are pixels."""
    e = p.epilogue
    if e.residual:
        total = total + load_lanes(b["residual"], at, lanes, 0, end if isinstance(end, int) else lanes)
    return ACTIVATIONS[e.activation](total, lanes, e.alpha, e.beta)


def reference(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, params: DepthwiseParams,
              residual: np.ndarray | None = None) -> np.ndarray:
    """The flat output of flat arrays; positions that its layout leaves undefined are NaN."""
    p, rows = params, padded_rows(params.target)
    images = pixels(x, padded_rows(p.source))
    padded = np.pad(images, ((0, 0), (0, 0), *((begin, size * stride + (taps - 1) * dilation) for begin, size, stride,
                             taps, dilation in zip(p.begins, (rows.height, rows.width), p.strides, p.kernel,
                                                   p.dilations, strict=True))))
    total = np.zeros((rows.batch, rows.channels, rows.height, rows.width), np.float32)
    for i, j in np.ndindex(p.kernel):
        window = padded[:, :, i * p.dilations[0]:, j * p.dilations[1]:][:, :, ::p.strides[0], ::p.strides[1]]
        total += weight[:, :, i, j, None] * window[:, :, :rows.height, :rows.width]
    y = np.full(rows.size, 0.0 if p.target.clean else np.nan, np.float32)
    e = p.epilogue
    pixels(y, rows)[...] = apply(total, bias[:, None, None], residual if residual is None else pixels(residual, rows),
                                 e.activation, e.alpha, e.beta)
    return y
