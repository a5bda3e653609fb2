"""The gradients of weights, one of every run: kept as what they are products of, since those are smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sparsec.graph.compare import Feeds
from sparsec.oneshot.gradients.backward import Backward
from sparsec.oneshot.inputs import columns
from sparsec.oneshot.weights import Layer

RUNS, BYTES = 256, 1 << 30
"""Samples that gradients are taken of at most, and what they may take in memory."""
FEWEST = 8
EVERY = 1 << 62


@dataclass(frozen=True)
class Use:
    """A layer that reads a weight: what it multiplies, and the gradients of its outputs, an array a run."""

    layer: Layer
    inputs: Sequence[np.ndarray]
    gradients: Sequence[np.ndarray]


@dataclass(frozen=True)
class Slopes:
    """The gradients of a weight; `group` and `rows` are those of a part of it, all rows if not given."""

    uses: tuple[Use, ...]
    group: int = 0
    rows: np.ndarray | None = None

    def of(self, group: int, rows: np.ndarray | None = None) -> Slopes:
        """Those of some rows (outputs) of a group."""
        return Slopes(self.uses, group, rows)

    def gradients(self, first: int, last: int) -> np.ndarray:
        """Those of the outputs from one number to before another, (runs, outputs, inputs) in float32."""
        rows = np.arange(first, last) if self.rows is None else self.rows[first:last]
        return np.stack([sum((self._of_run(use, run, rows) for use in self.uses[1:]),
                             self._of_run(self.uses[0], run, rows)) for run in range(len(self.uses[0].inputs))])

    def _of_run(self, use: Use, run: int, rows: np.ndarray) -> np.ndarray:
        layer = use.layer
        outputs = layer.output_count // layer.groups
        x = columns(layer, use.inputs[run], EVERY)[self.group]  # (positions, inputs)
        chosen = _by_position(layer, use.gradients[run])[:, self.group * outputs + rows]
        return np.asarray(chosen.T.astype(np.float32) @ x)


def _by_position(layer: Layer, gradient: np.ndarray) -> np.ndarray:
    """The gradient of a layer's output as (positions, outputs)."""
    if layer.operator == "Conv":
        gradient = np.moveaxis(gradient, 1, -1)
    elif layer.side == 0:
        gradient = np.moveaxis(gradient, -2, -1)
    factor = float(layer.attributes.get("alpha", 1.0)) if layer.operator == "Gemm" else 1.0
    return factor * gradient.reshape(-1, gradient.shape[-1])


def slopes(model: onnx.ModelProto, batches: Sequence[Feeds], weights: Sequence[Sequence[Layer]]) -> list[Slopes]:
    """Of weights, each given by the layers that read it: from as many samples as memory allows.

    Raises:
        PruningError: an operator has no derivative.

    """
    made = {layer.index: model.graph.node[layer.index].output[0] for uses in weights for layer in uses}
    backward, rng = Backward.to(model, set(made.values())), np.random.default_rng(0)
    inputs: dict[int, list[np.ndarray]] = {index: [] for index in made}
    outputs: dict[int, list[np.ndarray]] = {index: [] for index in made}
    runs, most = [one for batch in batches for one in _singles(model, batch)], RUNS
    for number, feeds in enumerate(runs[::max(len(runs) // RUNS, 1)]):
        if number >= most:
            break
        values, gradients = backward.run(feeds, rng)
        for layer in (layer for uses in weights for layer in uses):
            gradient = gradients.get(made[layer.index])
            inputs[layer.index].append(values[layer.input])
            outputs[layer.index].append(np.zeros(values[made[layer.index]].shape, np.float32) if gradient is None
                                        else gradient.astype(np.float32))
        if not number:
            taken = sum(each[0].nbytes for kept in (inputs, outputs) for each in kept.values())
            most = max(min(RUNS, BYTES // max(taken, 1)), FEWEST)
    return [Slopes(tuple(Use(layer, inputs[layer.index], outputs[layer.index]) for layer in uses)) for uses in weights]


def _singles(model: onnx.ModelProto, batch: Feeds) -> list[Feeds]:
    """The samples of a batch one by one, where the model takes any number of rows."""
    free = {value.name for value in model.graph.input if value.type.tensor_type.shape.dim
            and not value.type.tensor_type.shape.dim[0].HasField("dim_value")}
    if not free.intersection(batch):
        return [batch]
    number = len(batch[next(name for name in batch if name in free)])
    return [{name: array[row:row + 1] if name in free else array for name, array in batch.items()}
            for row in range(number)]
