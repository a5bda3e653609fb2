"""What the products of a model cost on EIE (Han et al., ISCA 2016): simulated, with the activations of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.backends.accelerators.eie import energy, segments, timing
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.graph.compare import Feeds
from sparsec.oneshot.dense import Weight
from sparsec.oneshot.inputs import columns, positions
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.stages import Walk
from sparsec.oneshot.weights import Layer, constants

EIE = Architecture()
SAMPLES, VECTORS = 8, 16
"""Samples that are simulated, and the inputs of a layer's products among all that these have."""


@dataclass(frozen=True)
class _Use:
    """A layer's products: what some of them multiply that is not zero (groups, vectors, inputs); how many a run has."""

    layer: Layer
    active: np.ndarray
    count: float

    def microjoules(self, matrix: np.ndarray) -> float:
        """The energy of a run with the weight (groups, outputs, inputs), by the published power of EIE's units."""
        total = 0.0
        for group, seen in zip(matrix, self.active, strict=True):
            codes = (group != 0).astype(np.uint8)
            activity = timing.measure(segments.split(codes, False, EIE, self.layer.name), seen, EIE)
            total += sum(energy.by_power(activity, EIE).values())
        return float(total * 1e-6 * self.count / self.active.shape[1])


def microjoules(model: onnx.ModelProto, weights: Sequence[Weight], batches: Sequence[Feeds]) -> float:
    """The energy of the layers that read some weights, of one run."""
    tensors = constants(model.graph)
    return sum(use.microjoules(use.layer.matrix(numpy_helper.to_array(tensors[use.layer.weight])))
               for _, use in _uses(model, weights, batches))


def curves(model: onnx.ModelProto, weights: Sequence[Weight], batches: Sequence[Feeds], pattern: Pattern,
           sparsities: Sequence[float]) -> dict[str, np.ndarray]:
    """By weight the energy of its layers, pruned at random places of a pattern to each of some sparsities."""
    found = {weight.name: np.zeros(len(sparsities)) for weight in weights}
    for weight, use in _uses(model, weights, batches):
        groups, _, inputs = use.active.shape
        scores = np.random.default_rng(0).random((groups, use.layer.output_count // groups, inputs), np.float32)
        found[weight.name] += [use.microjoules(np.stack([pattern.choose(group, sparsity) for group in scores])
                                               if sparsity else np.ones(scores.shape)) for sparsity in sparsities]
    return found


def _uses(model: onnx.ModelProto, weights: Sequence[Weight], batches: Sequence[Feeds],
          ) -> Iterator[tuple[Weight, _Use]]:
    """The layers in order, with what some samples bring them."""
    by_index = {layer.index: (weight, layer) for weight in weights for layer in weight.layers}
    some = batches[:max(SAMPLES // len(next(iter(batches[0].values()))), 1)]
    walk = Walk.over(model, some)
    for index in walk.stops(sorted(by_index)):
        if index in by_index:
            weight, layer = by_index[index]
            values = walk.values[layer.input]
            rows = np.concatenate([columns(layer, value, max(VECTORS // len(values), 1)) for value in values], axis=1)
            yield weight, _Use(layer, rows != 0, sum(positions(layer, value) for value in values) / len(values))
