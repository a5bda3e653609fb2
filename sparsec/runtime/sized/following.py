"""A text's next token: what the call before has looked at is not looked at again, where its caches come back.

Between two tokens the weights have gone through the caches of the processor, and whatever Python touches comes from
memory: looking at every input as a first call does takes longer than kernels of small weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sparsec.runtime.sized.sizes import Input
from sparsec.runtime.sized.token import Token

AHEAD = 8
"""Places of a text that are worked out at once, where they follow from sizes alone: the first of them costs most."""
LENGTH = 2
"""The axis along which caches grow."""
Values = dict[str | None, Any]
Sizes = Mapping[str, int]


class Told(Protocol):
    """What is asked of the program."""

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs, in order."""

    def sizes(self, inputs: Sequence[Input], arrays: Sequence[np.ndarray]) -> dict[str, int]:
        """The sizes of the symbols, read from some inputs."""

    def advanced(self, sizes: Sizes, symbols: Sequence[str]) -> dict[str, int]:
        """Sizes where some symbols are one more."""


class Following:
    """Calls of a token's function for the caches that its last call has given.

    Args:
        program: what it is of.
        token: the function.
        before: from the values of the inputs, and sizes, to all that the function reads.

    """

    def __init__(self, program: Told, token: Token, before: Callable[[Values, Sizes], Values]) -> None:
        self._program, self._token, self._before = program, token, before
        caches = {spec.value: spec for spec in program.inputs if spec.value in token.pasts}
        self._caches = [caches[value].name for value in token.pasts if value in caches]
        alike = {spec.shape: spec for spec in caches.values()}.values()  # which have the same sizes
        self._alike = [spec.name for spec in alike]
        self._others = [spec for spec in program.inputs if spec.value not in caches]
        self._read = [*self._others, *alike]

    def run(self, feeds: Mapping[str, np.ndarray]) -> Values | None:
        """All values with the outputs; None where a call has to look at everything."""
        grown, names = self._token.grown, self._caches
        if len(grown) != len(names) or len(feeds) != len(names) + len(self._others):
            return None
        caches = [feeds.get(name) for name in names]
        if not all([buffer.gave(array) for buffer, array in zip(grown, caches)]):  # noqa: B905, C419 - as fast as it goes
            return None
        arrays = [feeds.get(spec.name) for spec in self._others]
        if not all(type(array) is np.ndarray and array.dtype.isnative for array in arrays):
            return None
        sizes = self._program.sizes(self._read, [*arrays, *[feeds[name] for name in self._alike]])  # type: ignore[list-item]
        if not self._token.fits(sizes):
            return None
        given: Values = {spec.value: array for spec, array in zip(self._others, arrays)}  # noqa: B905 - as above
        given.update(zip(self._token.pasts, caches))  # noqa: B905 - as above
        try:
            values = self._before(given, sizes)
        except (ValueError, ArithmeticError):  # the call that looks at everything tells which
            return None
        return values if self._token.takes(values) and self._token.follow(values, sizes) is not None else None


class Ahead:
    """What steps make of sizes alone, for a place of a text and some behind it.

    Args:
        program: what it is of.
        symbols: the sizes that grow by one with every token.
        make: from sizes to the values.

    """

    def __init__(self, program: Told, symbols: Sequence[str], make: Callable[[Sizes], Values]) -> None:
        self._program, self._symbols, self._make = program, symbols, make
        self._kept: dict[frozenset[tuple[str, int]], Values] = {}

    def at(self, sizes: Sizes) -> Values:
        """The values for some sizes, which nobody may change."""
        found = self._kept.get(_key(sizes))
        if found is None:
            found, later = self._make(sizes), sizes
            self._kept = {_key(sizes): found}
            for _ in range(AHEAD - 1):
                later = self._program.advanced(later, self._symbols)
                try:
                    self._kept[_key(later)] = self._make(later)
                except (ValueError, IndexError, ArithmeticError):  # a text ends where its tables of positions do
                    break
        return found


def _key(sizes: Sizes) -> frozenset[tuple[str, int]]:
    return frozenset(sizes.items())


def growing(inputs: Sequence[Input], token: Token) -> list[str]:
    """The symbols of the lengths of a token's caches."""
    lengths = (spec.shape[LENGTH] for spec in inputs if spec.value in token.pasts)
    return list(dict.fromkeys(each for each in lengths if isinstance(each, str)))
