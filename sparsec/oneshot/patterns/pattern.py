"""What a pattern of zeros is."""

from __future__ import annotations

from typing import Protocol

import numpy as np

LEAST = np.finfo(np.float32).tiny
"""The score of a weight that is not zero, at least."""


class Pattern(Protocol):
    """Where zeros may lie in a weight matrix (outputs, inputs).

    Attributes:
        rows: outputs that are kept and removed together.
        columns: any number of whole groups of so many columns can be chosen by themselves.
        fixed: the sparsity that the pattern has, None where any can be asked for.

    """

    @property
    def rows(self) -> int: ...  # noqa: D102 - an attribute of the class

    @property
    def columns(self) -> int: ...  # noqa: D102 - an attribute of the class

    @property
    def fixed(self) -> float | None: ...  # noqa: D102 - an attribute of the class

    def reject(self, inputs: int, innermost: int) -> str | None:
        """Why a matrix of so many columns cannot have the pattern; `innermost` are those that lie together."""

    def choose(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        """The weights to keep, by scores (outputs, columns): the highest; as many as the sparsity leaves."""

    def sparsity_of(self, live: np.ndarray) -> float:
        """The most at which `choose` keeps all of some weights (outputs, columns): a matrix of no others has it."""


def ranked(scores: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Scores by which `choose` takes weights that are zero before all others, and blocks of zeros before all others."""
    return np.where(live, np.maximum(scores, LEAST), np.float32(0))


def highest(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Which of these scores are among the highest; of equals the first."""
    removed = round(sparsity * scores.size)
    kept = np.ones(scores.size, bool)
    if removed:
        flat = scores.reshape(-1)
        bound = np.partition(flat, removed - 1)[removed - 1]
        kept[flat < bound] = False
        equal = np.flatnonzero(flat == bound)
        kept[equal[len(equal) - (removed - int(np.count_nonzero(flat < bound))):]] = False
    return kept.reshape(scores.shape)
