"""What a packing is: from a weight to the arrays that a kernel reads, with numpy alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


class Recipe(ABC):
    """How a kernel's arrays follow from its weight.

    Those in `kernels.packing.RECIPES`, which artifacts repeat, are frozen dataclasses of JSON's types.
    """

    @abstractmethod
    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays for a weight (outputs, inputs), in the order of the kernel's arguments."""


@dataclass(frozen=True)
class Unstored(Recipe):
    """A recipe that no artifact repeats, because the arrays take fewer bytes than the weight or need more than it."""

    arrays: Callable[[np.ndarray], dict[str, np.ndarray]]

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays."""
        return self.arrays(weight)


def balanced(first: np.ndarray, parts: int) -> np.ndarray:
    """Boundaries of `parts` ranges of rows (or groups) with about equally many iterations each.

    `first` holds the first iteration of every row, and the end of the last.
    """
    inner = np.searchsorted(first, first[-1] * np.arange(parts) / parts)
    return np.append(inner, len(first) - 1).astype(np.int32)
