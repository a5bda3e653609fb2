"""LayerNormalization over the features of tokens in the tiled layout: a token per lane, sums down the features.

The mean comes before the variance, and what is left over of the mean of x - mean is subtracted, too, so that features
far from zero lose no precision. Padding tokens yield anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store

UNROLL = 4  # features per iteration, with sums of their own: hides the latency of additions


@dataclass(frozen=True)
class LayerNormParams:
    """A kernel: the layout of X and Y, and ONNX's epsilon."""

    layout: Tiled
    epsilon: float = 1e-5


def reference(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, params: LayerNormParams) -> np.ndarray:
    """Y for X (..., features) in ONNX's order, in float64."""
    centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + params.epsilon)
    return np.asarray(centred / deviation * scale + bias)


def build(params: LayerNormParams, isa: Isa) -> Kernel:
    """The kernel: (scale, bias, x) -> y."""
    layout = params.layout
    row, tensor = (layout.features, "float32"), (layout.size, "float32")
    return kernel({"scale": row, "bias": row, "x": tensor, "y": tensor}, lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: LayerNormParams, isa: Isa) -> None:
    """A thread takes whole tiles, or where there are too few of them, single vectors of tokens."""
    tiles, vectors = p.layout.batch * p.layout.tiles, p.layout.width // isa.lanes
    split = 1 if tiles % isa.threads == 0 else vectors
    with shared(tiles * split, isa) as unit:
        start = T.Bind(T.floordiv(unit, split) * (p.layout.features * p.layout.width)
                       + T.floormod(unit, split) * (p.layout.width // split))
        _normalise(b, p, start, vectors // split, isa.lanes)


def _normalise(b: Buffers, p: LayerNormParams, start: Expr, vectors: int, lanes: int) -> None:
    """Normalise `vectors` vectors of tokens, whose first feature lies at `start`."""
    features, width = p.layout.features, p.layout.width
    sums = registers(UNROLL * vectors, lanes)
    means, rests, factors = (registers(vectors, lanes) for _ in range(3))

    def x(feature: Expr, v: int) -> Expr:
        return load(b["x"], start + feature * width + v * lanes, lanes)

    def average(term: Expr) -> list[Expr]:
        """The mean over the features of `term(feature, vector)`, by vector."""
        for i in range(UNROLL * vectors):
            store(sums, i * lanes, splat(0.0, lanes))
        with T.serial(0, features // UNROLL) as block:
            for u in range(UNROLL):
                for v in range(vectors):
                    add_to(sums, (u * vectors + v) * lanes, term(block * UNROLL + u, v))
        for feature in range(features - features % UNROLL, features):
            for v in range(vectors):
                add_to(sums, v * lanes, term(feature, v))
        totals = [sum((load(sums, (u * vectors + v) * lanes, lanes) for u in range(1, UNROLL)),
                      load(sums, v * lanes, lanes)) for v in range(vectors)]
        return [total * splat(1 / features, lanes) for total in totals]

    def difference(feature: Expr, v: int) -> Expr:
        return x(feature, v) - load(means, v * lanes, lanes)

    def centred(feature: Expr, v: int) -> Expr:
        return T.Bind(difference(feature, v) - load(rests, v * lanes, lanes))

    def squared(feature: Expr, v: int) -> Expr:
        value = centred(feature, v)
        return value * value

    for v, mean in enumerate(average(x)):
        store(means, v * lanes, mean)
    for v, rest in enumerate(average(difference)):
        store(rests, v * lanes, rest)
    for v, variance in enumerate(average(squared)):
        store(factors, v * lanes, splat(1.0, lanes) / T.sqrt(variance + splat(p.epsilon, lanes)))
    with T.serial(0, features) as feature:
        scale, bias = (T.Bind(splat(b[name][feature], lanes)) for name in ("scale", "bias"))
        for v in range(vectors):
            value = centred(feature, v) * load(factors, v * lanes, lanes)
            store(b["y"], start + feature * width + v * lanes, value * scale + bias)
