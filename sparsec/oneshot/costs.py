"""What every weight costs at some sparsities: time by the compiler's cost model, bytes, or energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.formats.smallest import smallest
from sparsec.oneshot.dense import Weight
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.weights import constants, printable_name
from sparsec.report.curves import SPARSITIES, Mask, layer_curves, options_of
from sparsec.target import Target

SOME = 1 << 16
"""Elements of a weight that its bytes are estimated from."""


def sparsities(pattern: Pattern) -> tuple[float, ...]:
    """Those that a pattern is tried at."""
    return SPARSITIES if pattern.fixed is None else (0.0, pattern.fixed)


def microseconds(model: onnx.ModelProto, weights: Sequence[Weight], shapes: Mapping[str, Sequence[int]],
                 target: Target, threads: int, pattern: Pattern) -> dict[str, np.ndarray]:
    """By weight the predicted time of its layers at each of `sparsities`; without those that the compiler has none of.

    Raises:
        UsageError: the target has no cost model.

    """
    levels = sparsities(pattern)
    found = layer_curves(named(model), options_of(target, threads, shapes), levels, mask_of(pattern))
    curves = {name: np.array([point.best_us for point in curve]) for name, curve in found.items()}
    return {weight.name: sum((curves[layer.name] for layer in weight.layers), np.zeros(len(levels)))
            for weight in weights if all(layer.name in curves for layer in weight.layers)}


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name, by which its curve is found."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        node.name = printable_name(node)
    return result


def mask_of(pattern: Pattern) -> Mask:
    """The zeros of a pattern in any layer; none where it does not fit."""
    def mask(scores: np.ndarray, sparsity: float) -> np.ndarray:
        fits = sparsity and pattern.reject(scores.shape[1], scores.shape[1]) is None
        return pattern.choose(scores, sparsity) if fits else np.ones(scores.shape, bool)

    return mask


def stored_bytes(model: onnx.ModelProto, weights: Sequence[Weight], pattern: Pattern) -> dict[str, np.ndarray]:
    """By weight the bytes of its smallest format at each of `sparsities`, estimated from some of its rows."""
    rng, found = np.random.default_rng(0), {}
    for weight in weights:
        matrix = _matrix(model, weight)
        some = matrix[:max(SOME // matrix.shape[1], 1)]
        scores = rng.random(some.shape)
        found[weight.name] = np.array([
            smallest(np.where(pattern.choose(scores, sparsity), some, np.float32(0)) if sparsity else some).nbytes
            for sparsity in sparsities(pattern)]) * (matrix.size / some.size)
    return found


def measured_bytes(model: onnx.ModelProto, weights: Sequence[Weight]) -> float:
    """The bytes of the weights in the smallest format of each."""
    return float(sum(smallest(_matrix(model, weight)).nbytes for weight in weights))


def _matrix(model: onnx.ModelProto, weight: Weight) -> np.ndarray:
    """A weight as (outputs, inputs)."""
    matrix = weight.layers[0].matrix(numpy_helper.to_array(constants(model.graph)[weight.layers[0].weight]))
    return matrix.reshape(-1, matrix.shape[2])
