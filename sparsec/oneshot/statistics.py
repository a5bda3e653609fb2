"""What a criterion knows of a layer's inputs: their second moments and means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsec.errors import PruningError
from sparsec.oneshot.criteria.moments import Decomposed, Gradients, Grid, Moments
from sparsec.oneshot.inputs import columns
from sparsec.oneshot.weights import Layer

MOST_POSITIONS = 1 << 15
"""Of all samples together; more say little more of a layer and take time."""
CHUNK = 4096
"""Positions of a product in float32, whose results are added in float64."""
FEW = 0.25
"""Outputs for each input up to which their products are taken with the Hessian rather than with themselves."""
SMALLEST = 1e-30


@dataclass(frozen=True)
class Statistics:
    """The inputs of a layer over the samples.

    Attributes:
        hessian: the mean of x x^T in float64, (groups, inputs, inputs).
        mean: the mean of x in float64, (groups, inputs).

    """

    hessian: np.ndarray
    mean: np.ndarray

    @cached_property
    def decomposed(self) -> tuple[Decomposed, ...]:
        """The Hessian of every group, to be decomposed once for all layers that have these inputs."""
        return tuple(map(Decomposed, self.hessian))

    def moments(self, grids: Sequence[Grid | None], slopes: Sequence[Gradients | None] | None = None, *,
                rough: bool = False) -> tuple[Moments, ...]:
        """Of every group, whose weights may have the values of these grids, and have these gradients."""
        return tuple(Moments(each.hessian, grid, slope, each, rough=rough) for each, grid, slope in zip(
            self.decomposed, grids, slopes or [None] * len(grids), strict=True))

    def of_groups(self, groups: np.ndarray) -> Statistics:
        """Those of some groups, in order."""
        if len(groups) == len(self.hessian):
            return self
        return Statistics(self.hessian[groups], self.mean[groups])

    def error(self, change: np.ndarray, weight: np.ndarray) -> float:
        """The root mean square of what a change of the weight makes of the outputs, relative to the outputs'."""
        return self.errors([change], weight)[0]

    def errors(self, changes: Sequence[np.ndarray], weight: np.ndarray) -> tuple[float, ...]:
        """That of each of some changes."""
        few = weight.shape[1] < FEW * weight.shape[2]
        hessians = [each.astype(np.float32) for each in self.hessian] if few else self.hessian
        whole, *squares = (sum(map(_square, matrix, hessians)) for matrix in (weight, *changes))
        return tuple(float(np.sqrt(max(each, 0.0) / max(whole, SMALLEST))) for each in squares)


def _square(matrix: np.ndarray, hessian: np.ndarray) -> float:
    """The sum over outputs of m H m^T, H (inputs, inputs), in float32 up to sums."""
    if len(matrix) < FEW * len(hessian):
        return float(np.sum((matrix @ hessian.astype(np.float32, copy=False)) * matrix, dtype=np.float64))
    both, total = matrix.T @ matrix, 0.0  # a product with itself takes half the multiply-adds
    for start in range(0, len(both), CHUNK):
        total += float(np.vdot(both[start:start + CHUNK].astype(np.float64), hessian[start:start + CHUNK]))
    return total


def measure(layer: Layer, values: Sequence[np.ndarray]) -> Statistics:
    """The statistics of a layer whose other operand has these values, one array a batch of samples.

    Raises:
        PruningError: squares of the inputs are not finite.

    """
    most = most_positions(values)
    hessian: np.ndarray | None = None
    total: np.ndarray | None = None
    count, waiting = 0, list[np.ndarray]()
    for index, value in enumerate(values):
        waiting.append(columns(layer, value, most))
        if index + 1 < len(values) and sum(part.shape[1] for part in waiting) < CHUNK:
            continue
        joined = np.concatenate(waiting, axis=1)  # (groups, positions, inputs)
        waiting = []
        for start in range(0, joined.shape[1], CHUNK):
            part = joined[:, start:start + CHUNK]
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                squares, sums = np.swapaxes(part, 1, 2) @ part, part.sum(axis=1, dtype=np.float64)
            if hessian is None or total is None:
                hessian, total = squares.astype(np.float64), sums
            else:
                hessian += squares
                total += sums
            count += part.shape[1]
    assert hessian is not None  # there is a sample
    assert total is not None
    if not np.isfinite(hessian.diagonal(axis1=1, axis2=2)).all():
        raise PruningError(f"layer '{layer.name}': its inputs are NaN or too large to be squared; leave out samples "
                           "with very large values, or scale them as the model expects")
    hessian /= count
    return Statistics(hessian, total / count)


@dataclass
class Measured:
    """`measure`, which layers that follow each other and read the same do once for all."""

    _key: tuple[object, ...] = ()
    _found: Statistics | None = None

    def of(self, layer: Layer, values: Sequence[np.ndarray]) -> Statistics:
        """The statistics of a layer."""
        geometry = [str(layer.attributes.get(name)) for name in ("group", "strides", "pads", "dilations", "auto_pad",
                                                                  "transA", "transB")]
        key = (layer.operator, layer.input, layer.side, layer.input_count, *layer.shape[2:], *geometry)
        if self._found is None or key != self._key:
            self._key, self._found = key, None  # the memory of the last one is free before the next is made
            self._found = measure(layer, values)
        return self._found


def most_positions(values: Sequence[np.ndarray]) -> int:
    """Positions of a batch that are looked at, at most."""
    return max(MOST_POSITIONS // max(len(values), 1), 8)


def mean(layer: Layer, values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the inputs of a layer alone."""
    most = most_positions(values)
    parts = [columns(layer, value, most) for value in values]
    total = sum((part.sum(axis=1, dtype=np.float64) for part in parts[1:]), parts[0].sum(axis=1, dtype=np.float64))
    return np.asarray(total / sum(part.shape[1] for part in parts))


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of a weight that several layers share."""
    if len(parts) == 1:
        return parts[0]
    return Statistics(sum((part.hessian for part in parts[1:]), parts[0].hessian) / len(parts),
                      sum((part.mean for part in parts[1:]), parts[0].mean) / len(parts))
