"""Depthwise convolution over the padded flat layout: every channel is convolved with a kernel of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.cpu.images import depthwise_large
from sparsec.kernels.cpu.images.padded import blank, clear_border, load_lanes, padded_rows, pixels
from sparsec.kernels.cpu.images.window import Tile, Window, slide, taps, undealt
from sparsec.kernels.emit.activations import finished
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, splat


@dataclass(frozen=True)
class DepthwiseParams:
    """A depthwise convolution: its window and what follows; a residual lies like the output."""

    window: Window
    epilogue: Epilogue = field(default_factory=Epilogue)


def reject(params: DepthwiseParams) -> str | None:
    """Why there is no kernel for these parameters, or None."""
    inputs, outputs = params.window.source.channels, params.window.target.channels
    if inputs != outputs:
        return f"{outputs} outputs of {inputs} channels: the depth multiplier is not 1"
    return None


def pack(weight: np.ndarray) -> np.ndarray:
    """The kernel's flat weights from ONNX's (channels, 1, kh, kw)."""
    return np.ascontiguousarray(weight, np.float32).ravel()


def build(params: DepthwiseParams, isa: Isa) -> Kernel:
    """The kernel: (weight, bias, x, [residual]) -> y."""
    w, target, lanes = params.window, params.window.target, isa.lanes
    size = w.kernel[0] * w.kernel[1]

    def body(b: Buffers) -> None:
        with shared(target.channels, isa) as c:
            clear_border(b["y"], target, c, lanes)
            if size > depthwise_large.WRITTEN:
                depthwise_large.convolve(b, w, c, lanes, partial(_finish, b, params))
                return
            weights = [T.Bind(splat(b["weight"][c * size + tap], lanes)) for tap in range(size)]
            bias = T.Bind(splat(b["bias"][c], lanes))
            with T.serial(0, target.batch) as n:
                slide(b["y"], w, n, c, lanes, lambda tile: [
                    _finish(b, params, total, tile, row)
                    for row, total in enumerate(sums(b["x"], w, tile, weights, bias))
                ], padding=w.source.clean)

    sizes = {"weight": target.channels * size, "bias": target.channels, "x": w.source.size}
    residual = {"residual": target.size} if params.epilogue.residual else {}
    return kernel({name: (size, "float32") for name, size in {**sizes, **residual, "y": target.size}.items()}, body)


def sums(x: Expr, w: Window, tile: Tile, weights: list[Expr], bias: Expr, block: int = 0) -> list[Expr]:
    """The convolution and its bias, for each of `block` rows of a tile, else of the window's own."""
    totals = [bias] * (block or w.block)
    for vectors, pairs in taps(x, w, tile, block=block):
        for row, k in pairs:
            products = (weights[k * w.kernel[1] + j] * vector for j, vector in enumerate(vectors))
            totals[row] = T.Bind(sum(products, start=totals[row]))
    return [undealt(total, w) for total in totals]


def _finish(b: Buffers, params: DepthwiseParams, total: Expr, tile: Tile, row: int) -> Expr:
    """Residual and activation."""
    residual = None
    e, target, first = params.epilogue, params.window.target, tile.vector * tile.lanes
    if e.residual:
        end = target.width - first if isinstance(first, int) else tile.lanes
        start = padded_rows(target).start(tile.n, tile.c, tile.row + row)
        residual = load_lanes(b["residual"], start + first, tile.lanes, 0, end)
    return finished(e, total, tile.lanes, residual)


def reference(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, params: DepthwiseParams,
              residual: np.ndarray | None = None) -> np.ndarray:
    """The flat output of flat arrays; positions that its layout leaves undefined are NaN."""
    w, e, rows = params.window, params.epilogue, padded_rows(params.window.target)
    (sh, sw), (dh, dw), (top, left) = w.strides, w.dilations, w.begins
    images = np.pad(pixels(x, padded_rows(w.source)), (
        (0, 0), (0, 0), (top, rows.height * sh + w.reach[0]), (left, rows.width * sw + w.reach[1])))
    total = np.zeros((rows.batch, rows.channels, rows.height, rows.width), np.float32)
    for i, j in np.ndindex(w.kernel):
        total += weight[:, :, i, j, None] * images[:, :, i * dh::sh, j * dw::sw][:, :, :rows.height, :rows.width]
    y = blank(w.target)
    residual = None if residual is None else pixels(residual, rows)
    pixels(y, rows)[...] = apply(total, bias[:, None, None], residual, e.activation, e.alpha, e.beta,
                                    multiplies=e.multiplies)
    return y
