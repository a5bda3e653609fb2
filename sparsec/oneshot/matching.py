"""Weights that bring a layer, given the inputs that pruning has left, as near as can be to its dense outputs.

Errors of the layers in front are made up for before a layer is pruned, as far as its inputs still tell what they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsec.oneshot.inputs import columns
from sparsec.oneshot.statistics import CHUNK, Statistics, most_positions
from sparsec.oneshot.weights import Layer

DOUBT = 2.0
"""Positions for each input that make half the way to V right: fewer tell little of what other samples would bring."""
MOST_INPUTS = 8192
"""Of a layer; one of more is pruned as it is, for the time that it takes."""


def matched(matrix: np.ndarray, layer: Layer, dense: Sequence[np.ndarray], now: Sequence[np.ndarray],
            inputs: Statistics) -> np.ndarray:
    """W moved towards the V with the least mean of (W x - V z)^2 + damping (W - V)^2, x what the dense layer gets and z
    what this does; the further, the more positions the samples have.

    Args:
        matrix: W (groups, outputs, inputs).
        layer: the layer.
        dense: its other operand in the dense network, one array a batch.
        now: that in the pruned network.
        inputs: the moments of z.

    """
    if layer.input_count > MOST_INPUTS or all(np.array_equal(a, b) for a, b in zip(dense, now, strict=True)):
        return matrix
    found = matrix.copy()
    owed, positions = _owed(matrix, layer, dense, now)
    trust = np.float32(positions / (positions + DOUBT * layer.input_count))
    for group, hessian in enumerate(inputs.decomposed):
        upper = hessian.factor.astype(np.float32)  # V - W is small, so that this is exact enough
        found[group] += trust / np.float32(hessian.scale) * (owed[group] @ upper.T @ upper)
    return found


def _owed(matrix: np.ndarray, layer: Layer, dense: Sequence[np.ndarray], now: Sequence[np.ndarray],
          ) -> tuple[np.ndarray, int]:
    """The mean of W (x - z) z^T in float32, (groups, outputs, inputs), and of how many positions it is."""
    most, first = most_positions(now), matrix.shape[1] <= matrix.shape[2]  # whether W is multiplied before the mean
    total, count = np.zeros((layer.groups, *(matrix.shape[1:] if first else matrix.shape[2:] * 2))), 0
    waiting = list[tuple[np.ndarray, np.ndarray]]()
    for index, (before, after) in enumerate(zip(dense, now, strict=True)):
        waiting.append((columns(layer, before, most), columns(layer, after, most)))
        if index + 1 < len(now) and sum(part.shape[1] for part, _ in waiting) < CHUNK:
            continue  # adding to a large matrix takes as long for few positions as for many
        x, z = (np.concatenate(parts, axis=1) for parts in zip(*waiting, strict=True))
        waiting = []
        count += x.shape[1]
        for start in range(0, x.shape[1], CHUNK):
            seen = z[:, start:start + CHUNK]
            moved = x[:, start:start + CHUNK] - seen
            total += np.swapaxes(moved @ np.swapaxes(matrix, 1, 2) if first else moved, 1, 2) @ seen
    mean = (total / count).astype(np.float32)
    return mean if first else matrix @ mean, count
