"""A layer with a constant weight as the kernels of a CPU take it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.family import Family, WeightedProduct


@dataclass(frozen=True)
class Activations:
    """A flat array of activations, of which a share is expected to be zero."""

    size: int
    dtype: str = "float32"
    zeros: float = field(default=0.0, compare=False)

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """What a measurement fills it with: floats around zero, or small integers."""
        if np.dtype(self.dtype).kind == "f":
            values = rng.standard_normal(self.size, np.float32).astype(self.dtype, copy=False)
            return np.where(rng.random(self.size) < self.zeros, values.dtype.type(0), values)
        return rng.integers(0, 128, self.size, self.dtype)


@dataclass(frozen=True, eq=False)
class CpuProduct(WeightedProduct):
    """What a kernel's arguments are: the weight's arrays, `constants`, `inputs`, `output`."""

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The arrays between the packed weight and the activations."""
        return (self.bias,)

    @property
    @abstractmethod
    def inputs(self) -> tuple[Activations, ...]:
        """The activations that are read: x, then the residual where there is one."""

    @property
    @abstractmethod
    def output(self) -> Activations:
        """The activations that are written."""

    def ends(self, isa: Isa) -> Activations | None:  # noqa: ARG002 - for products that keep some
        """What a kernel keeps of the range of what it writes, written as well."""
        return None


CpuFamily: TypeAlias = Family[Any, Any, Isa]
"""A family of any layer and any parameters, as tables hold them."""
