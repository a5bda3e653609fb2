"""One call at a time of a program for sizes that only the run tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sparsec.errors import InputError
from sparsec.runtime.sized.branches import is_taken
from sparsec.runtime.sized.flow import Flow, Tape
from sparsec.runtime.sized.following import Before, Following
from sparsec.runtime.sized.growing import Part
from sparsec.runtime.sized.sizes import Input
from sparsec.runtime.sized.token import Token

Feeds = Mapping[str, np.ndarray]
Values = dict[str | None, Any]
Run = Callable[[Sequence[Any]], Sequence[np.ndarray]]
"""A step: from its inputs to its outputs."""
Step = tuple[Run, Sequence[str | None], Sequence[str], Sequence[str], Sequence[tuple[str, bool]]]
"""A step with the names of its inputs and outputs, and of what none behind it needs, and when it runs."""


class Signature(Protocol):
    """What a runner asks of its program."""

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs, in order."""

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        """The outputs, in order: of each the name, value and shape."""

    @property
    def constants(self) -> Collection[np.ndarray]:
        """The constants of the operators on numpy."""

    def bind(self, feeds: Feeds) -> tuple[list[np.ndarray], dict[str, int]]:
        """The inputs in order, and the sizes of the symbols."""

    def sizes(self, inputs: Sequence[Input], arrays: Sequence[np.ndarray]) -> dict[str, int]:
        """The sizes of the symbols, read from some inputs."""

    def advanced(self, sizes: Mapping[str, int], symbols: Sequence[str]) -> dict[str, int]:
        """Sizes where some symbols are one more."""

    def start(self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], told: Collection[str] | None = None,
              ) -> Values:
        """The values that are known before the first step; of those that follow from sizes, all or the ones `told`."""

    def known(self, sizes: Mapping[str, int], told: Collection[str] | None = None) -> Values:
        """The constants, and the values that follow from sizes: all, or the ones `told`."""


class Runner:
    """The steps with functions of their own.

    Args:
        program: what they are of.
        steps: in order.
        token: what takes one token of one text through all of them, and `before` the steps whose results it takes.
        flow: what repeats calls of sizes that have been seen.

    """

    def __init__(self, program: Signature, steps: Sequence[Step], token: Token | None = None,
                 before: Sequence[Step] = (), flow: Flow | None = None) -> None:
        self._program, self._steps, self._token = program, steps, token
        self._flow, self._at = flow, ""
        self._checks = [(spec.name, spec.value, spec.dtype) for spec in program.inputs]
        self._before = None if token is None else Before(program, token, before)
        whole = token is not None and token.made.issuperset(each["value"] for each in program.outputs)
        self._following = Following(program, token, self._before) if token and self._before and whole else None

    def runs_as_one(self, sizes: Mapping[str, int]) -> bool:
        """Whether a call of some sizes is one function."""
        return self._token is not None and self._token.fits(sizes)

    @property
    def remembers(self) -> bool:
        """Whether a call has been remembered, so that others of its sizes repeat it without looking at every step."""
        return self._flow is not None and bool(self._flow.tapes)

    def __call__(self, feeds: Feeds, wanted: Sequence[int], seconds: list[float] | None = None) -> list[np.ndarray]:
        """The wanted outputs; where `seconds` is given, every step by itself, whose time is appended."""
        if self._flow is not None and seconds is None and (found := self._repeated(self._flow, feeds, wanted)):
            return found
        if self._following is not None and seconds is None and (values := self._following.run(feeds)):
            return [values[self._program.outputs[index]["value"]] for index in wanted]
        arrays, sizes = self._program.bind(feeds)
        try:
            with np.errstate(all="ignore"):
                if seconds is None and self.runs_as_one(sizes) and (found := self._as_one(arrays, sizes, wanted)):
                    return found
                return self._computed(arrays, self._program.start(arrays, sizes), wanted, seconds)
        except (ValueError, ArithmeticError) as error:  # of numpy, where sizes do not fit together
            listed = ", ".join(f"{name} is {size}" for name, size in sizes.items())
            fixed = "; the file may hold a size that its exporter has fixed" if "reshape" in str(error) else ""
            raise InputError(f"'{self._at}' cannot be computed where {listed}: {error}{fixed}") from error

    def _as_one(self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], wanted: Sequence[int],
                ) -> list[np.ndarray] | None:
        """The wanted outputs of one token of one text, None where the function does not take its values."""
        assert self._token is not None
        assert self._before is not None
        given: Values = {value: array for (_, value, _), array in zip(self._checks, arrays, strict=True)}
        try:
            values = self._before.read(given, sizes)
        except (ValueError, ArithmeticError):  # the steps by themselves tell which
            return None
        if not self._token.takes(values):
            return None
        made = self._token.run(values, sizes)
        names = [self._program.outputs[index]["value"] for index in wanted]
        return [values[name] if name in made else self._result(values[name], arrays) for name in names]

    def _computed(self, arrays: Sequence[np.ndarray], values: Values, wanted: Sequence[int],
                  seconds: list[float] | None) -> list[np.ndarray]:
        """The wanted outputs of sizes that have not been seen, or of which nothing is kept."""
        if self._flow is not None and seconds is None:
            inputs = {name: array for (_, name, _), array in zip(self._checks, arrays, strict=True)}
            try:
                first = self._flow.first(values, inputs)
            except (ValueError, ArithmeticError):  # the steps by themselves tell which
                first = None
            if first is not None:
                return self._found(*first, arrays, wanted)
        for step in self._steps:
            begin = 0.0 if seconds is None else time.perf_counter()
            self._run(step, values)
            for name in step[3]:
                values.pop(name, None)
            if seconds is not None:
                seconds.append(time.perf_counter() - begin)
        return [self._result(values[self._program.outputs[index]["value"]], arrays) for index in wanted]

    def _run(self, step: Step, values: Values) -> None:
        """Take a step, if it is one of the branch that is chosen."""
        run, inputs, outputs, _, when = step
        self._at = outputs[0]
        if not when or is_taken(when, values):
            values.update(zip(outputs, run([values[name] for name in inputs])))  # noqa: B905 - some are absent

    def _repeated(self, flow: Flow, feeds: Feeds, wanted: Sequence[int]) -> list[np.ndarray] | None:
        """The wanted outputs, as a call of the same sizes was taken before; None where that cannot be."""
        arrays = [feeds.get(name) for name, _, _ in self._checks]
        shapes = tuple([array.shape if type(array) is np.ndarray and array.dtype == dtype else None
                        for array, (_, _, dtype) in zip(arrays, self._checks)])  # noqa: B905 - equally many
        if len(feeds) != len(arrays) or (tape := flow.tapes.get(shapes)) is None:
            return None
        values: Values = {name: array for (_, name, _), array in zip(self._checks, arrays)}  # noqa: B905 - as above
        return self._found(values, tape, arrays, wanted) if flow.again(shapes, tape, values) else None

    def _found(self, values: Mapping[str | None, Any], tape: Tape, arrays: Sequence[Any], wanted: Sequence[int],
               ) -> list[np.ndarray]:
        """The wanted outputs of a tape that has run."""
        found = []
        for index in wanted:
            array, name = tape.outputs[index]
            found.append(self._result(values[name], arrays) if array is None else array.copy())
        return found

    def _result(self, value: Any, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """An output with memory of its own: a view of an input or a constant is copied, a cache has its buffer."""
        array = np.asarray(value)
        if isinstance(array.base, Part):
            return array
        shared = any(np.may_share_memory(array, each) for each in (*arrays, *self._program.constants))
        return array.copy() if shared or not array.flags.writeable else array
