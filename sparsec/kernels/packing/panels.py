"""Weights of products with outputs on the lanes, in panels of a few vectors: the values of kernels of any size."""

from __future__ import annotations

import numpy as np


def panels(matrix: np.ndarray, lanes: int, vectors: int) -> np.ndarray:
    """A weight (inputs, outputs) as (panel, input, output), flat.

    Panels are of so many vectors of outputs, no more than there are whole ones; the last panel and the last vector
    overlap those before them. Inputs are whole vectors, with weights of 0 behind the last one.
    """
    inputs, outputs = matrix.shape
    every = -(-outputs // lanes)
    first = np.minimum(np.arange(0, every, vectors), every - vectors)[:, None] + np.arange(vectors)
    channels = np.minimum(first * lanes, outputs - lanes)[..., None] + np.arange(lanes)
    whole = np.zeros((-(-inputs // lanes) * lanes, outputs), np.float32)
    whole[:inputs] = matrix
    return np.ascontiguousarray(whole[:, channels.reshape(len(first), -1)].transpose(1, 0, 2)).reshape(-1)
