"""What a packing is: from a weight to the arrays that a kernel reads, with numpy alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sparsec.errors import FormatError

Params = TypeVar("Params")

LARGEST = 1 << 24
NAMES = ("f32", "f16", "embedded", "uint8", "uint16", "uint32", "uint64", "int16", "int32")
"""The largest number, and the names, that parameters may be."""


class Recipe(ABC):
    """How a kernel's arrays follow from its weight.

    Those in `kernels.packing.RECIPES`, which artifacts repeat, are frozen dataclasses of JSON's types.
    """

    @abstractmethod
    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays for a weight (outputs, inputs), in the order of the kernel's arguments."""

    def elements(self, rows: int, columns: int) -> int:
        """The most elements that packing a weight of that shape handles at once, about; artifacts ask before they pack.

        The weight's own, unless a recipe that artifacts store says more.
        """
        return rows * columns

    def check(self) -> None:
        """Refuse parameters that none of sparsec's kernels has.

        Raises:
            FormatError: a number is not from 1 to `LARGEST`, or a name none of `NAMES`.

        """
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,) if isinstance(value, int) else ()
            least = 0 if isinstance(value, tuple | bool) else 1
            if not all(least <= number <= LARGEST for number in numbers) or value == () or (
                    isinstance(value, str) and value not in NAMES):
                raise FormatError(f"{type(self).__name__}: {name} is {value!r:.40}")


@dataclass(frozen=True)
class Unstored(Recipe):
    """A recipe that no artifact repeats, because the arrays take fewer bytes than the weight or need more than it."""

    arrays: Callable[[np.ndarray], dict[str, np.ndarray]]

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """What `arrays` makes of the weight."""
        return self.arrays(weight)


def unstored(pack: Callable[[np.ndarray, Params], dict[str, np.ndarray]]) -> Callable[[Params], Recipe]:
    """The `recipe` of a family whose arrays `pack` makes from (weight, parameters), and no artifact repeats."""
    return lambda params: Unstored(lambda weight: pack(weight, params))


def balanced(first: np.ndarray, parts: int) -> np.ndarray:
    """Boundaries of `parts` ranges of rows (or groups) with about equally many iterations each.

    `first` holds the first iteration of every row, and the end of the last.
    """
    inner = np.searchsorted(first, first[-1] * np.arange(parts) / parts)
    return np.append(inner, len(first) - 1).astype(np.int32)
