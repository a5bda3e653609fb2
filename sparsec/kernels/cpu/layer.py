"""A layer with a constant weight as the kernels of a CPU take it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from sparsec.kernels.family import WeightedProduct


@dataclass(frozen=True)
class Buffer:
    """A flat array of activations."""

    size: int
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class CpuProduct(WeightedProduct):
    """What a kernel's arguments are: the weight's arrays, `constants`, `inputs`, `output`."""

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The arrays between the packed weight and the activations."""
        return (self.bias,)

    @property
    @abstractmethod
    def inputs(self) -> tuple[Buffer, ...]:
        """The activations that are read: x, then the residual where there is one."""

    @property
    @abstractmethod
    def output(self) -> Buffer:
        """The activations that are written."""
