"""A text's next token: what the call before has looked at is not looked at again, where its caches come back.

Between two tokens the weights have gone through the caches of the processor, and whatever Python touches comes from
memory: looking at every input as a first call does takes longer than kernels of small weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sparsec.runtime.sized.branches import is_taken
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

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        """The outputs, in order: of each the name, value and shape."""

    def known(self, sizes: Sizes, told: Collection[str] | None = None) -> Values:
        """The constants, and the values that follow from sizes: all, or the ones `told`."""

    def sizes(self, inputs: Sequence[Input], arrays: Sequence[np.ndarray]) -> dict[str, int]:
        """The sizes of the symbols, read from some inputs."""

    def advanced(self, sizes: Sizes, symbols: Sequence[str]) -> dict[str, int]:
        """Sizes where some symbols are one more."""


class Following:
    """Calls of a token's function for the caches that its last call has given.

    Args:
        program: what it is of.
        token: the function.
        before: what it reads.

    """

    def __init__(self, program: Told, token: Token, before: Before) -> None:
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
        found = [feeds.get(spec.name) for spec in self._others]
        arrays = [array for array in found if type(array) is np.ndarray and array.dtype.isnative]
        if len(arrays) < len(found):
            return None
        sizes = self._program.sizes(self._read, [*arrays, *[feeds[name] for name in self._alike]])
        if not self._token.fits(sizes):
            return None
        given: Values = {spec.value: array for spec, array in zip(self._others, arrays)}  # noqa: B905 - as above
        given.update(zip(self._token.pasts, caches))  # noqa: B905 - as above
        try:
            values = self._before.read(given, sizes)
            return values if self._token.takes(values) and self._token.follow(values, sizes) is not None else None
        except (ValueError, ArithmeticError):  # the call that looks at everything tells which
            return None


class Before:
    """What the function of a token reads, which steps make of sizes and inputs.

    Where they make it of sizes alone, a text that goes on has it worked out for some places at once.

    Args:
        program: what the steps are of.
        token: the function.
        steps: in order.

    """

    def __init__(self, program: Told, token: Token, steps: Sequence[Any]) -> None:
        self._program, self._steps = program, steps
        outputs = {each["value"] for each in program.outputs}
        self._wanted = token.reads | outputs
        self._told = self._wanted.union(*(step[1] for step in steps))
        made = {name for step in steps for name in step[2]}
        read = {name for step in steps for name in (*step[1], *(name for name, _ in step[4]))} - made
        self._of_sizes = read.isdisjoint(spec.value for spec in program.inputs) and made.isdisjoint(outputs)
        self._symbols = growing(program.inputs, token)
        self._kept: dict[frozenset[tuple[str, int]], Values] = {}
        self._next: frozenset[tuple[str, int]] = frozenset()

    def read(self, given: Values, sizes: Sizes) -> Values:
        """All of it, with the values of the inputs."""
        return {**self._at(sizes), **given} if self._of_sizes else self._computed(sizes, given)

    def _at(self, sizes: Sizes) -> Values:
        """The values for some sizes, which nobody may change."""
        key = _key(sizes)
        if (found := self._kept.get(key)) is not None:
            return found
        found, later = self._constant(sizes), sizes
        self._kept = {key: found}
        for _ in range(AHEAD - 1 if key == self._next else 0):
            later = self._program.advanced(later, self._symbols)
            try:
                self._kept[_key(later)] = self._constant(later)
            except Exception:  # noqa: BLE001 - a text ends where its tables of positions do, with any operator's error
                break
        self._next = _key(self._program.advanced(later, self._symbols))
        return found

    def _constant(self, sizes: Sizes) -> Values:
        """What is read for some sizes, made not to be changed: an output of it is copied."""
        values = self._computed(sizes, {})
        kept = {name: values[name] for name in self._wanted if name in values}
        for value in kept.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return kept

    def _computed(self, sizes: Sizes, given: Values) -> Values:
        """All values, worked out."""
        values = self._program.known(sizes, self._told)
        values.update(given)
        with np.errstate(all="ignore"):
            for run, inputs, outputs, _, when in self._steps:
                if not when or is_taken(when, values):
                    values.update(zip(outputs, run([values[name] for name in inputs])))  # noqa: B905 - some are absent
        return values


def _key(sizes: Sizes) -> frozenset[tuple[str, int]]:
    return frozenset(sizes.items())


def growing(inputs: Sequence[Input], token: Token) -> list[str]:
    """The symbols of the lengths of a token's caches."""
    lengths = (spec.shape[LENGTH] for spec in inputs if spec.value in token.pasts)
    return list(dict.fromkeys(each for each in lengths if isinstance(each, str)))
