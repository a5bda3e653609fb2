"""The sizes of a call: read from the shapes of its inputs, checked, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sparsec.errors import InputError

Terms = Sequence[Sequence[Any]]
"""A polynomial: of every monomial the coefficient, then the symbols that it is multiplied with."""


def value_of(terms: Terms, sizes: Mapping[str, int]) -> int:
    """The value of a polynomial for sizes by symbol."""
    total = 0
    for factor, *names in terms:
        product = factor
        for name in names:
            product *= sizes[name]
        total += product
    return int(total)


def text_of(terms: Terms) -> str:
    """A polynomial as its factors are written."""
    return " + ".join("*".join(map(str, names if factor == 1 and names else [factor, *names]))
                      for factor, *names in terms)


@dataclass(frozen=True)
class Input:
    """An input of a model: its dimensions are numbers, symbols or polynomials of these."""

    name: str
    value: str
    dtype: np.dtype[Any]
    shape: tuple[Any, ...]

    @cached_property
    def sums(self) -> list[tuple[int, Terms]]:
        """The axes whose sizes follow from others."""
        return [(axis, dim) for axis, dim in enumerate(self.shape) if not isinstance(dim, int | str)]

    def described(self) -> list[int | str]:
        """The shape as a session tells it."""
        return [dim if isinstance(dim, int | str) else text_of(dim) for dim in self.shape]


def sizes_of(inputs: Sequence[Input], arrays: Sequence[np.ndarray], limits: Mapping[str, Sequence[int]],
             ) -> dict[str, int]:
    """The size of every symbol.

    Raises:
        InputError: an array does not fit its input, two inputs disagree, or a size is outside of its limits.

    """
    sizes: dict[str, int] = {}
    origins: dict[str, str] = {}
    before: Input | None = None
    shape: tuple[int, ...] = ()
    for spec, array in zip(inputs, arrays, strict=True):
        if array.dtype != spec.dtype or array.ndim != len(spec.shape):
            raise InputError(f"input '{spec.name}' takes {spec.dtype.name} of shape {_listed(spec)}; given: "
                             f"{array.dtype.name} of shape {array.shape}")
        if before is None or array.shape != shape or spec.shape != before.shape:  # caches are all alike
            _read(spec, array, sizes, origins)
            before, shape = spec, array.shape
    for name, (least, most) in limits.items():
        if name in sizes and not least <= sizes[name] <= most:
            raise InputError(f"dimension '{name}' is {sizes[name]} in input '{origins[name]}', and the artifact was "
                             f"compiled for {least} to {most}; compile it with a wider range for '{name}'")
    for spec, array in zip(inputs, arrays, strict=True):
        for axis, dim in spec.sums:
            if value_of(dim, sizes) != array.shape[axis]:
                raise InputError(f"axis {axis} of input '{spec.name}' must be {text_of(dim)} = {value_of(dim, sizes)}, "
                                 f"and is {array.shape[axis]}")
    return sizes


def _read(spec: Input, array: np.ndarray, sizes: dict[str, int], origins: dict[str, str]) -> None:
    """Enter the sizes of an input's symbols, and which input they come from."""
    for axis, (dim, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
        if isinstance(dim, str):
            if sizes.setdefault(dim, size) != size:
                raise InputError(f"dimension '{dim}' is {sizes[dim]} in input '{origins[dim]}' and {size} in input "
                                 f"'{spec.name}', axis {axis}; it must have one size")
            origins.setdefault(dim, spec.name)
        elif isinstance(dim, int) and dim != size:
            raise InputError(f"axis {axis} of input '{spec.name}' must be {dim}, and is {size}; it takes "
                             f"{spec.dtype.name} of shape {_listed(spec)}")


def _listed(spec: Input) -> str:
    return f"({', '.join(map(str, spec.described()))})"
