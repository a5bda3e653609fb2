"""LayerNormalization over the features of tokens in the tiled layout: a token per lane, sums down the features.

The mean comes before the variance, and what is left over of the mean of x - mean is subtracted, too, so that features
far from zero lose no precision; that rest is a rounding, whose square may be subtracted from the mean square of
x - mean without cancellation. Padding tokens yield anything. Where nothing is padded, the kernel may keep what Y ranges
over, for the DynamicQuantizeLinear behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled
from sparsec.kernels.emit.codes import SIDES
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store

LARGEST = float(np.finfo(np.float32).max)
UNROLL = 4  # features per iteration at most, with sums of their own: hides the latency of additions


@dataclass(frozen=True)
class LayerNormParams:
    """A kernel: the layout of X and Y, ONNX's epsilon, and whether what Y ranges over is kept."""

    layout: Tiled
    epsilon: float = 1e-5
    ranged: bool = False

    def units(self, isa: Isa) -> tuple[int, int]:
        """Pieces of work, and those of a tile: a thread takes whole ones, or if there are too few, vectors of them."""
        tiles = self.layout.batch * self.layout.tiles
        split = 1 if tiles % isa.threads == 0 else self.layout.width // isa.lanes
        return tiles * split, split


def reference(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, params: LayerNormParams) -> np.ndarray:
    """Y for X (..., features) in ONNX's order, in float64."""
    centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + params.epsilon)
    return np.asarray(centred / deviation * scale + bias)


def build(params: LayerNormParams, isa: Isa) -> Kernel:
    """The kernel: (scale, bias, x) -> y, [ends: by unit a vector of the least and one of the largest, 0 among both]."""
    layout = params.layout
    row, tensor = (layout.features, "float32"), (layout.size, "float32")
    arguments = {"scale": row, "bias": row, "x": tensor, "y": tensor}
    if params.ranged:
        arguments["ends"] = (params.units(isa)[0] * SIDES * isa.lanes, "float32")
    return kernel(arguments, lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: LayerNormParams, isa: Isa) -> None:
    vectors, (units, split) = p.layout.width // isa.lanes, p.units(isa)
    with shared(units, isa) as unit:
        start = T.Bind(T.floordiv(unit, split) * (p.layout.features * p.layout.width)
                       + T.floormod(unit, split) * (p.layout.width // split))
        found = registers(SIDES, isa.lanes) if p.ranged else None
        for side in range(SIDES if p.ranged else 0):
            store(found, side * isa.lanes, splat(0.0, isa.lanes))
        _normalise(b, p, start, vectors // split, isa, found)
        for side in range(SIDES if p.ranged else 0):
            store(b["ends"], (unit * SIDES + side) * isa.lanes, load(found, side * isa.lanes, isa.lanes))


def _normalise(b: Buffers, p: LayerNormParams, start: Expr, vectors: int, isa: Isa,
               found: Buffer | None) -> None:
    """Normalise `vectors` vectors of tokens, whose first feature lies at `start`; `found` takes in what they are."""
    features, width, lanes = p.layout.features, p.layout.width, isa.lanes
    means, rests, factors = (registers(vectors, lanes) for _ in range(3))

    def x(feature: Expr, v: int) -> Expr:
        return load(b["x"], start + feature * width + v * lanes, lanes)

    def averages(count: int, terms: Callable[[Expr, int], Sequence[Expr]]) -> list[list[Expr]]:
        """The means over the features of so many terms (feature, vector), by vector."""
        unroll = max(1, min(UNROLL, isa.registers // 2 // (vectors * count)))
        sums = registers(unroll * vectors * count, lanes)
        for i in range(unroll * vectors * count):
            store(sums, i * lanes, splat(0.0, lanes))

        def add(unrolled: int, feature: Expr) -> None:
            for v in range(vectors):
                for i, term in enumerate(terms(feature, v)):
                    add_to(sums, ((unrolled * vectors + v) * count + i) * lanes, term)

        with T.serial(0, features // unroll) as block:
            for u in range(unroll):
                add(u, block * unroll + u)
        for feature in range(features - features % unroll, features):
            add(0, feature)
        parts = [[load(sums, (u * vectors * count + i) * lanes, lanes) for u in range(unroll)]
                 for i in range(vectors * count)]
        means = [T.Bind(sum(part[1:], part[0]) * splat(1 / features, lanes)) for part in parts]
        return [means[v * count:(v + 1) * count] for v in range(vectors)]

    def difference(feature: Expr, v: int) -> Expr:
        return T.Bind(x(feature, v) - load(means, v * lanes, lanes))

    def moments(feature: Expr, v: int) -> Sequence[Expr]:
        value = difference(feature, v)
        return value, value * value

    for v, (mean,) in enumerate(averages(1, lambda feature, v: [x(feature, v)])):
        store(means, v * lanes, mean)
    for v, (rest, square) in enumerate(averages(2, moments)):
        store(rests, v * lanes, rest)
        finite = square <= splat(LARGEST, lanes)  # else the difference of two infinities would be NaN
        variance = T.Select(finite, T.max(splat(0.0, lanes), square - rest * rest), square)
        store(factors, v * lanes, splat(1.0, lanes) / T.sqrt(variance + splat(p.epsilon, lanes)))
    with T.serial(0, features) as feature:
        scale, bias = (T.Bind(splat(b[name][feature], lanes)) for name in ("scale", "bias"))
        for v in range(vectors):
            value = (difference(feature, v) - load(rests, v * lanes, lanes)) * load(factors, v * lanes, lanes)
            result = T.Bind(value * scale + bias)
            store(b["y"], start + feature * width + v * lanes, result)
            for side, function in ((0, T.min), (lanes, T.max)) if found is not None else ():
                store(found, side, function(load(found, side, lanes), result))
