"""Depthwise convolution of codes: every channel by a kernel of its own, over a stencil of constant offsets.

Four taps at a time are interleaved in registers and multiplied by one dot product for each vector of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.codes.walk import Sums, Tiling, clear_border, mask_arguments
from sparsec.kernels.emit.codes import FOUR, dot, interleaved, llvm_codes, splat_four
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, registers, store


@dataclass(frozen=True)
class DepthwiseParams:
    """A kernel: mode direct, one vector a tile, and a chunk of all channels, which are the outputs, too."""

    tiling: Tiling

    @property
    def fours(self) -> int:
        """Groups of four taps, the last one padded with zero weights."""
        return -(-len(self.tiling.stencil.taps) // FOUR)


def pack(weight: np.ndarray, params: DepthwiseParams) -> dict[str, np.ndarray]:
    """The kernel's `values` (int32: four taps) of a weight (channels, taps) of int8."""
    padded = np.pad(weight, ((0, 0), (0, FOUR * params.fours - weight.shape[1])))
    return {"values": np.ascontiguousarray(padded, np.int8).reshape(-1).view(np.int32)}


def build(params: DepthwiseParams, isa: Isa) -> Kernel:
    """The kernel: (values, *Finish, [keep, fill, border], x, [residual]) -> y."""
    t = params.tiling
    s, f = t.stencil, t.finish
    arguments = {"values": (s.outputs * params.fours, "int32"), **f.arguments(s.outputs)}
    if s.masked:
        arguments |= mask_arguments(s.vectors * s.lanes)
    arguments |= {**f.inputs(s.x_size, s.y_size), "y": (s.y_size, f.dtype)}

    def body(b: Buffers) -> None:
        with shared(s.outputs, isa) as channel:
            if s.masked:
                clear_border(b, s, channel)
            weights = [T.Bind(splat_four(b["values"][channel * params.fours + four], t.words))
                       for four in range(params.fours)]
            with T.serial(0, s.vectors) as vector:
                _vector(b, params, channel, vector, weights)

    return kernel(arguments, body, llvm_codes(isa))


def _vector(b: Buffers, params: DepthwiseParams, channel: Expr, vector: Expr, weights: list[Expr]) -> None:
    """A vector of a channel's pixels."""
    t = params.tiling
    s, taps, words = t.stencil, t.stencil.taps, t.words
    start = T.Bind(vector * s.lanes)
    x = T.Bind(s.x_origin + channel * s.x_channel_stride + start)
    sums = Sums(b, t, None, 0, s.y_origin + start, start, 0)
    acc = registers(FOUR, words, "int32")
    sums.begin(acc, 0, channel, channel)
    for four, weight in enumerate(weights):
        at = [taps[min(FOUR * four + i, len(taps) - 1)] for i in range(FOUR)]  # weights beyond the last tap are zero
        rows = [T.Bind(load(b["x"], x + offset, s.lanes)) for offset in at]
        for part in range(FOUR):
            store(acc, part * words, dot(load(acc, part * words, words), interleaved(rows, part), weight))
    sums.end(acc, 0, channel, channel)
