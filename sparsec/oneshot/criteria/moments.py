"""What criteria know of the inputs of a layer: their second moments, decomposed once for all sparsities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.linalg import lapack

from sparsec.errors import PruningError

DAMPING = 0.01
"""Added to the diagonal of the Hessian, as a share of its mean."""
TRIES = 4
"""Each with ten times the damping of the one before."""


@dataclass(frozen=True)
class Grid:
    """Values that the weights of an output may have: multiples of `step` from `low` to `high`, each (outputs,)."""

    step: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def nearest(self, column: np.ndarray) -> np.ndarray:
        """The nearest values to one weight of every output."""
        return np.asarray((np.rint(column / self.step) * self.step).clip(self.low, self.high).astype(column.dtype))


class Gradients(Protocol):
    """The gradients of a weight (outputs, inputs)."""

    def gradients(self, first: int, last: int) -> np.ndarray:
        """Those of some outputs, (runs, outputs, inputs)."""


@dataclass(frozen=True)
class Decomposed:
    """A Hessian (inputs, inputs) that is decomposed when that is asked for, once."""

    hessian: np.ndarray

    @cached_property
    def scale(self) -> float:
        """The mean of the Hessian's diagonal; 1 where all inputs are zero."""
        return float(self.hessian.diagonal().mean()) or 1.0

    @cached_property
    def factor(self) -> np.ndarray:
        """That of the Hessian over `scale`: pruning does not depend on how large the inputs are."""
        return factor(self.hessian / self.scale)


@dataclass(frozen=True)
class Moments:
    """The inputs of one group of a layer, and what its weights may be.

    Attributes:
        hessian: the mean of x x^T in float64, (inputs, inputs).
        grid: the values that quantised weights may have; None for floats, and where outputs have no steps of their own.
        slopes: the gradients of the weight, where the criterion is one of `GRADED`.
        decomposed: the Hessian's, where layers share it.
        live: which weights (outputs, inputs) may be other than zero; None for those that are.
        rough: only about how much pruning loses is asked, so that what takes long for little may be left out.

    """

    hessian: np.ndarray
    grid: Grid | None = None
    slopes: Gradients | None = None
    decomposed: Decomposed | None = None
    live: np.ndarray | None = None
    rough: bool = False

    def live_of(self, weight: np.ndarray) -> np.ndarray:
        """Which elements of a weight (outputs, inputs) may be other than zero."""
        return weight != 0 if self.live is None else self.live

    @cached_property
    def _decomposed(self) -> Decomposed:
        return self.decomposed or Decomposed(self.hessian)

    @property
    def scale(self) -> float:
        """`Decomposed.scale`."""
        return self._decomposed.scale

    @property
    def factor(self) -> np.ndarray:
        """`Decomposed.factor`."""
        return self._decomposed.factor


def factor(hessian: np.ndarray) -> np.ndarray:
    """The upper triangular U with U^T U = (H + damping)^-1, in float64.

    H = R R^T with R upper triangular is a Cholesky decomposition from the last column, and U its inverse.

    Raises:
        PruningError: the Hessian is not positive semi-definite.

    """
    diagonal = np.arange(len(hessian))
    mean = float(hessian.diagonal().mean()) or 1.0
    for attempt in range(TRIES):
        damped = np.array(hessian[::-1, ::-1], np.float64, order="F")
        damped[diagonal, diagonal] += mean * DAMPING * 10**attempt
        lower, failed = lapack.dpotrf(damped, lower=1, clean=1, overwrite_a=1)
        if not failed:
            inverse, failed = lapack.dtrtri(lower, lower=1, overwrite_c=1)
            return np.asarray(inverse[::-1, ::-1])
    raise PruningError("the second moments of a layer's inputs have no Cholesky decomposition; leave out samples with "
                       "very large values, or use --criterion magnitude")
