"""Calls of a program for run-time sizes whose stages run on a device: its kernels are recorded once for every size.

The first call of some sizes takes the steps one by one, as `flow` does on the processor. Every value on the device gets
a place in one block of its memory. For that block stands an array of the same size on the processor, which nobody reads
or writes and which takes no memory, so that numpy tells what another shape or order of a value is. What is left is a
tape: steps on the processor, copies to pinned memory, and graphs of kernels and copies, each replayed by one launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsec.errors import InputError, UsageError
from sparsec.machine.memory import Lane, Memory
from sparsec.runtime.sized.arena import Arena, Full
from sparsec.runtime.sized.device_kernels import Plan
from sparsec.runtime.sized.device_recorder import Brought, PinnedFull, Recorder
from sparsec.runtime.sized.items import Item, Unplanned
from sparsec.runtime.sized.runner import Feeds, Signature

FIRST_BYTES, FIRST_PINNED = 1 << 26, 1 << 22
"""The device's memory for intermediate values at first, and the pinned memory."""
GROWTH = 4
"""How many times as large either becomes when it is too small."""
MOST = 64
"""Sizes that are remembered; where there are more, those go that were seen first."""
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Tape:
    """What a call of some sizes does.

    Attributes:
        items: in order; each reads and enters values.
        outputs: of the model: where each is brought, or its contents or, for None, its name among the values.
        kept: what the items need.

    """

    items: tuple[Item, ...]
    outputs: tuple[tuple[Brought | np.ndarray | None, str], ...]
    kept: tuple[Any, ...] = field(repr=False, default=())


class DeviceRunner:
    """One call at a time, with a stream, memory and graphs of its own.

    Args:
        program: what is run.
        plan: of its steps.
        memory: the device's.

    """

    def __init__(self, program: Signature, plan: Plan, memory: Memory) -> None:
        assert memory.lane is not None  # or it is the processor's
        self._program, self._plan, self._memory = program, plan, memory
        self._lane: Lane = memory.lane()
        self.tapes: dict[Shapes, Tape] = {}
        self._take(FIRST_BYTES)
        self._take_pinned(FIRST_PINNED)

    remembers = False  # of what the processor repeats

    def runs_as_one(self, _sizes: Mapping[str, int]) -> bool:
        """No function takes one token through all stages."""
        return False

    def __call__(self, feeds: Feeds, wanted: Sequence[int], seconds: list[float] | None = None) -> list[np.ndarray]:
        """The wanted outputs.

        Raises:
            InputError: an input does not fit, or a step cannot be computed at these sizes.
            UsageError: steps are to be timed one by one.
            DeviceError: the device fails.

        """
        if seconds is not None:
            raise UsageError("the steps of an artifact for run-time sizes on a GPU are not timed one by one; "
                             "profile it at fixed sizes")
        arrays, sizes = self._program.bind(feeds)
        values: dict[str | None, Any] = {
            spec.value: array for spec, array in zip(self._program.inputs, arrays, strict=True)}
        try:
            with np.errstate(all="ignore"):
                tape = self._run(values, arrays, sizes)
        except (ValueError, ArithmeticError) as error:  # of numpy, where sizes do not fit together
            listed = ", ".join(f"{name} is {size}" for name, size in sizes.items())
            raise InputError(f"the model cannot be computed where {listed}: {error}") from error
        return [self._output(*tape.outputs[index], values) for index in wanted]

    def _run(self, values: dict[str | None, Any], arrays: Sequence[np.ndarray], sizes: Mapping[str, int]) -> Tape:
        """Run what is remembered of such sizes, or take the steps and remember them."""
        shapes = tuple(array.shape for array in arrays)
        if (tape := self.tapes.get(shapes)) is not None:
            try:
                for item in tape.items:
                    item(values)
            except Unplanned:  # sizes follow from values, and these have others than before
                del self.tapes[shapes]
            else:
                return tape
        while len(self.tapes) >= MOST:
            del self.tapes[next(iter(self.tapes))]
        inputs = dict(values)
        while True:
            self._arena.clear()
            recorder = Recorder(self._plan, self._lane, self._arena, self._block, self._pinned)
            values.clear()
            values.update(inputs)
            try:
                recorder.record(self._program.start(arrays, sizes), values)
            except Full:
                del recorder  # which has the block
                self._take(GROWTH * self._arena.memory.nbytes)
            except PinnedFull:
                self._take_pinned(GROWTH * self._pinned.nbytes)
            else:
                outputs = tuple(recorder.output(each["value"]) for each in self._program.outputs)
                self.tapes[shapes] = Tape(tuple(recorder.items), outputs, tuple(recorder.kept))
                return self.tapes[shapes]

    def _take(self, nbytes: int) -> None:
        """Take another block, of so many bytes; nothing of what was recorded holds then."""
        self.tapes.clear()
        self._block: Any = None  # before there is more
        with self._memory.guard(nbytes):
            self._block = self._lane.allocate(nbytes)
        self._arena = Arena(nbytes)

    def _take_pinned(self, nbytes: int) -> None:
        """Take other pinned memory, as `_take`."""
        self.tapes.clear()
        self._pinned = self._lane.pinned(nbytes)

    def _output(self, found: Brought | np.ndarray | None, name: str, values: Mapping[str | None, Any]) -> np.ndarray:
        """An output in memory of its own."""
        return found.array() if isinstance(found, Brought) else np.array(values[name] if found is None else found)
