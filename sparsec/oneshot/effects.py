"""What an error of a layer makes of the outputs of the network: a small one is put in, and what follows runs with it.

Errors of layers that are alike in size are not alike in what they do: a normalisation or a residual connection behind
a layer takes most of some. Small errors of several layers add up in squares, so that sparsities can be weighed by this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.graph import ort
from sparsec.graph.compare import Feeds
from sparsec.oneshot.patterns.unstructured import Unstructured
from sparsec.oneshot.stages import Walk
from sparsec.oneshot.statistics import SMALLEST, Statistics
from sparsec.oneshot.weights import Layer, constants, write

SAMPLES, SIZE = 8, 0.1
"""Runs that tell, and the error that is put in, relative to the layer's outputs."""
LARGEST = 1 << 30
"""Bytes of a model at most; of larger ones every layer counts alike."""
FORM = Unstructured()


@dataclass(frozen=True)
class Effects:
    """The outputs of the dense model in some runs.

    Attributes:
        runs: their numbers among the batches.
        expected: by output, an array a run.

    """

    runs: Sequence[int]
    expected: Mapping[str, list[np.ndarray]]

    @classmethod
    def of(cls, model: onnx.ModelProto, batches: Sequence[Feeds]) -> Effects | None:
        """Run the dense model; None where it is too large to be run time and again."""
        if model.ByteSize() > LARGEST:
            return None
        number = max(SAMPLES // len(next(iter(batches[0].values()))), 1)
        runs = [*range(0, len(batches), max(len(batches) // number, 1))][:number]
        session, names = ort.session(model, spinning=False), [value.name for value in model.graph.output]
        found = [ort.run(session, names, batches[run], "samples") for run in runs]
        return cls(runs, {name: [each[place] for each in found] for place, name in enumerate(names)})

    def of_layer(self, walk: Walk, layer: Layer, inputs: Statistics) -> float:
        """The outputs' relative error over the layer's, for a small one; the walk stands in front of the layer."""
        tensor = constants(walk.model.graph)[layer.weight]
        stored = numpy_helper.to_array(tensor)
        matrix = layer.matrix(stored)
        changed = layer.stored(matrix + _change(matrix, inputs), stored.dtype)
        error = inputs.error(layer.matrix(changed) - matrix, matrix)
        if error < SMALLEST:
            return 1.0
        before = onnx.TensorProto()
        before.CopyFrom(tensor)
        write(tensor, changed)
        now = walk.rest(self.runs, layer.weight)
        tensor.CopyFrom(before)
        return max((_error(now[name], self.expected[name]) for name in now), default=error) / error


def _change(matrix: np.ndarray, inputs: Statistics) -> np.ndarray:
    """The loss of the smaller half of the non-zeros, made small; without its mean, for which biases make up."""
    kept = np.stack([FORM.choose(np.abs(group), (1 + FORM.sparsity_of(group != 0)) / 2) for group in matrix])
    change = np.where(kept, np.float32(0), -matrix)
    mean = inputs.mean.astype(np.float32)
    shares = np.einsum("goi,gi->go", change, mean) / np.maximum(np.square(mean).sum(1), SMALLEST)[:, np.newaxis]
    change -= shares[:, :, np.newaxis] * mean[:, np.newaxis]
    return np.asarray(change * np.float32(SIZE / max(inputs.error(change, matrix), SIZE**2)))


def _error(now: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    if now[0].dtype.kind != "f":
        return 0.0
    squares = [np.array([np.square(a - b).sum(), np.square(b).sum()]) for a, b in zip(
        (each.astype(np.float64) for each in now), (each.astype(np.float64) for each in expected), strict=True)]
    changed, whole = sum(squares[1:], squares[0])
    return float(np.sqrt(changed / max(whole, SMALLEST)))
