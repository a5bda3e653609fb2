"""Calls of sizes that have been seen: what their first call has worked out is kept, and the others repeat it.

The first call of some sizes takes the steps one by one. Every result of a kernel gets a place in one block of memory,
which is given back when nobody needs it; steps on numpy that only look at memory in another shape, or compute from
sizes alone, are then done for good. What is left is a `Tape`: programs of kernels that run without Python, steps on
numpy whose results depend on values, and copies of what these give to where kernels expect it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsec.runtime.sized.arena import Arena, Full
from sparsec.runtime.sized.items import Unplanned
from sparsec.runtime.sized.kernels import Kernels
from sparsec.runtime.sized.recorder import Recorder
from sparsec.runtime.sized.rows import Splitter

FIRST_BYTES = 1 << 24
"""The memory for intermediate values at first; it is mapped when it is used."""
GROWTH = 4
"""How many times as large it becomes when it is too small."""
MOST = 256
"""Sizes that are remembered; where there are more, those go that were seen first."""

Shapes = tuple[tuple[int, ...] | None, ...]
"""Of the inputs; None stands for what has to be looked at first."""
Values = dict[str | None, Any]
"""By name what differs from call to call: the inputs, and what steps on numpy give."""
Output = tuple[np.ndarray | None, str]
"""Where an output lies after a call, or None and the value's name."""


@dataclass(frozen=True)
class Tape:
    """What a call of some sizes does.

    Attributes:
        items: in order; each reads and enters values.
        outputs: of the model.
        computes: whether numpy computes something.
        kept: what the items hold addresses of.

    """

    items: tuple[Callable[[Values], object], ...]
    outputs: tuple[Output, ...]
    computes: bool
    kept: tuple[Any, ...] = field(repr=False, default=())


class Flow:
    """The tapes of a runner, all in one block of memory; one call at a time.

    Args:
        kernels: of the runner.
        steps: of the plan, as it tells them.
        runs: what runs each step on numpy.
        spent: by step, what none behind it needs.
        outputs: the values that are outputs.
        splitter: how rows are divided.
        scratch: of the kernels of attention.

    """

    def __init__(self, kernels: Kernels, steps: Sequence[Mapping[str, Any]], runs: Sequence[Callable[..., Any]],
                 spent: Sequence[Sequence[str]], outputs: Sequence[str], splitter: Splitter,
                 scratch: Sequence[Mapping[str, int]]) -> None:
        self._about = kernels, steps, runs, spent, outputs, splitter, scratch
        self._arena = Arena(FIRST_BYTES)
        self.tapes: dict[Shapes, Tape] = {}
        self._refused: set[Shapes] = set()

    def again(self, shapes: Shapes, tape: Tape, values: Values) -> bool:
        """Take a tape again with the inputs among the values, to which its results are added; False where that fails.

        It does where sizes follow from values, and these have other ones than before.

        """
        try:
            if tape.computes:
                with np.errstate(all="ignore"):
                    for item in tape.items:
                        item(values)
            else:
                for item in tape.items:
                    item(values)
        except Unplanned:
            self._refuse(shapes)
            return False
        except (ValueError, ArithmeticError):  # of numpy, whose steps by themselves tell more
            return False
        return True

    def first(self, start: Mapping[str | None, Any], inputs: Mapping[str, np.ndarray]) -> tuple[Values, Tape] | None:
        """Take the steps of a call of new sizes and remember them: the values and the tape; None where that cannot be.

        Args:
            start: what is known before the first step.
            inputs: by value.

        Raises:
            ValueError, ArithmeticError: numpy cannot compute a step.

        """
        shapes = tuple(array.shape for array in inputs.values())
        if shapes in self._refused:
            return None
        while len(self.tapes) >= MOST:
            del self.tapes[next(iter(self.tapes))]
        while True:
            self._arena.clear()
            recorder = Recorder(self._arena, *self._about)
            try:
                values = recorder.record(start, inputs)
            except Full:
                self.tapes.clear()
                self._arena = Arena(GROWTH * self._arena.memory.nbytes)
            except Unplanned:
                self._refuse(shapes)
                return None
            else:
                tape = Tape(tuple(recorder.items), tuple(recorder.outputs), recorder.computes, tuple(recorder.kept))
                self.tapes[shapes] = tape
                return values, tape

    def _refuse(self, shapes: Shapes) -> None:
        self.tapes.pop(shapes, None)
        if len(self._refused) >= MOST:
            self._refused.clear()
        self._refused.add(shapes)
