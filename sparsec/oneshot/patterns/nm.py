"""N:M: at most N non-zeros in every M inputs of an output that lie together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.nm import best_of_groups, group_counts


@dataclass(frozen=True)
class NM:
    """N of M consecutive columns; of a convolution M channels at one place of the kernel."""

    n: int
    m: int

    @property
    def rows(self) -> int:
        """One: every output has groups of its own."""
        return 1

    @property
    def columns(self) -> int:
        """A group."""
        return self.m

    @property
    def fixed(self) -> float:
        """1 - N / M."""
        return 1 - self.n / self.m

    def reject(self, inputs: int, innermost: int) -> str | None:  # noqa: ARG002 - groups lie in the innermost
        """M must divide the channels, or the inputs of a linear layer."""
        return f"{self.m} does not divide its {innermost} inputs" if innermost % self.m else None

    def choose(self, scores: np.ndarray, sparsity: float) -> np.ndarray:  # noqa: ARG002 - the pattern fixes it
        """The N highest of every group."""
        return best_of_groups(scores, self.n, self.m)

    def sparsity_of(self, live: np.ndarray) -> float:
        """The pattern's where no group has more."""
        return self.fixed if group_counts(live, self.m).max() <= self.n else 0.0
