"""Columns of a weight as packings see them: where a kernel reads their inputs, and their numbers in a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def read_offsets(columns: np.ndarray, channel_step: int, tap_offsets: Sequence[int], index_unit: int) -> np.ndarray:
    """Where a kernel reads the inputs of a chunk's columns (channels x taps), in the units of indices."""
    taps = len(tap_offsets)
    offsets = columns // taps * channel_step + np.asarray(tap_offsets)[columns % taps]
    return np.asarray(offsets // index_unit)


def numbered(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of every chosen element (rows, columns), and its number in its row."""
    row, column = np.divmod(np.flatnonzero(chosen), chosen.shape[1])
    count = np.bincount(row, minlength=len(chosen))
    return row, column, np.arange(len(row)) - (count.cumsum() - count)[row]
