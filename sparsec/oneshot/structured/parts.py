"""Layers with the units that their rows and columns belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sparsec.oneshot.structured.units import Unit
from sparsec.oneshot.weights import Layer, constants

NONE = -1


@dataclass(frozen=True)
class Part:
    """A layer: by row (groups, outputs) and column (groups, inputs) of its matrix the number of a unit, or `NONE`."""

    layer: Layer
    rows: np.ndarray
    columns: np.ndarray

    def left(self, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows and columns stay where these units do."""
        kept = np.append(alive, True)  # the last is that of `NONE`
        return kept[self.rows], kept[self.columns]

    def multiplies(self, alive: np.ndarray) -> float:
        """The elements of the matrix that stay."""
        rows, columns = self.left(alive)
        return float((rows.sum(1) * columns.sum(1)).sum())


def parts(model: onnx.ModelProto, layers: Sequence[Layer], units: Sequence[Unit]) -> list[Part]:
    """The layers in order."""
    tensors = constants(model.graph)
    owner: dict[tuple[str, int], np.ndarray] = {}
    for number, unit in enumerate(units):
        for (name, axis), places in unit.slabs.items():
            if name in tensors:
                owner.setdefault((name, axis), np.full(tensors[name].dims[axis], NONE))[places] = number
    return [_part(layer, tuple(tensors[layer.weight].dims), owner) for layer in layers]


def _part(layer: Layer, shape: tuple[int, ...], owner: dict[tuple[str, int], np.ndarray]) -> Part:
    groups, outputs, inputs = layer.matrix(np.zeros(shape, np.float32)).shape
    rows, columns = np.full((groups, outputs), NONE), np.full((groups, inputs), NONE)
    for axis in range(len(shape)):
        numbers = owner.get((layer.weight, axis))
        if numbers is None:
            continue
        along = [-1 if each == axis else 1 for each in range(len(shape))]
        places = layer.matrix(np.broadcast_to(np.arange(shape[axis]).reshape(along), shape)).astype(np.int64)
        if (places == places[:, :, :1]).all():
            rows = numbers[places[:, :, 0]]
        else:
            columns = numbers[places[:, 0, :]]
    return Part(layer, rows, columns)
