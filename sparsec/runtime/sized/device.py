"""Calls of a program for run-time sizes whose stages run on a device: its kernels are recorded once for every size.

The first call of some sizes takes the steps one by one, as `flow` does on the processor. Every value on the device gets
a place in one block of its memory. For that block stands an array of the same size on the processor, which nobody reads
or writes and which takes no memory, so that numpy tells what another shape or order of a value is. What is left is a
tape: steps on the processor, copies to pinned memory, and graphs of kernels and copies, each replayed by one launch.

Where caches are appended to, a tape is for all lengths of them (see `device_caches`), unless steps between need to know
the length: then the processor appends to them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.errors import DeviceError, InputError, UsageError
from sparsec.machine.memory import Again, Lane, Memory, Transfer
from sparsec.runtime.sized.arena import Arena, Full, addresses
from sparsec.runtime.sized.device_caches import LENGTH, Mirrors, Ragged, Short, Unfit
from sparsec.runtime.sized.device_growing import GrowingRecorder
from sparsec.runtime.sized.device_kernels import Plan
from sparsec.runtime.sized.device_recorder import Recorder
from sparsec.runtime.sized.device_recording import Brought, PinnedFull
from sparsec.runtime.sized.growing import Part
from sparsec.runtime.sized.items import Item, Unplanned
from sparsec.runtime.sized.runner import Feeds, Signature

FIRST_BYTES, FIRST_PINNED = 1 << 26, 1 << 22
"""The device's memory for intermediate values at first, and the pinned memory."""
GROWTH = 2, 1.25
"""How many times as large either becomes when it is too small: the first for which there is memory, or as needed."""
MOST = 64
"""Sizes that are remembered; where there are more, those go that were seen first."""
Shapes = tuple[tuple[int, ...], ...]
"""Of the inputs, and what those are that choose branches."""


@dataclass(frozen=True)
class Tape:
    """What a call of some sizes does.

    Attributes:
        items: in order; each reads and enters values.
        last: recorded work behind these, if there is some.
        behind: items behind that.
        outputs: of the model: where each is brought, or its contents or, for None, its name among the values.
        left: by output its copy from the device, if it is there when all work is done.
        tokens: what is appended to caches.
        kept: memory of the device that the work reads, beside the block.

    """

    items: tuple[Item, ...]
    last: Again | None
    behind: tuple[Item, ...]
    outputs: tuple[tuple[Brought | np.ndarray | None, str], ...]
    left: tuple[Transfer | None, ...]
    tokens: int = 0
    kept: tuple[Any, ...] = ()

    def copies(self, wanted: Sequence[int]) -> list[Transfer]:
        """Those of some outputs."""
        return [copy for copy in (self.left[index] for index in wanted) if copy is not None]


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
        self._mirrors = None if plan.caches is None else Mirrors(plan.caches, plan.kernels.half)
        self._unfit: set[Shapes] = set()  # calls of which a step must know how long the caches are
        self._ragged: set[Shapes] = set()  # those of texts of different lengths, until other texts begin
        self._wanted: Sequence[int] = ()
        self._begin()
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
        self._lane.check()
        self._wanted = wanted
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
        inputs = dict(values)
        if self._block is None:  # a call before needed more than there is
            self._begin()
        if self._pinned is None:
            self._take_pinned(FIRST_PINNED)
        if self._mirrors is not None and (tape := self._grown(self._mirrors, values, arrays, sizes)) is not None:
            return tape
        values.clear()
        values.update(inputs)
        shapes = self._key([array.shape for array in arrays], arrays)
        if (tape := self._again(shapes, values)) is not None:
            return tape
        return self._record(shapes, inputs, values, self._program.start(arrays, sizes))

    def _key(self, shapes: Sequence[tuple[int, ...]], arrays: Sequence[np.ndarray]) -> Shapes:
        """What a tape is for."""
        return *shapes, *((int(arrays[place].all()),) for place in self._plan.conditions)

    def _grown(self, mirrors: Mirrors, values: dict[str | None, Any], arrays: Sequence[np.ndarray],
               sizes: Mapping[str, int]) -> Tape | None:
        """`_run` for any length of the caches, None where the processor must append to them."""
        shapes = self._key(mirrors.caches.shapes(arrays), arrays)
        if not any(values[cache.past].size for cache in mirrors.caches.each):
            self._ragged.clear()
        if shapes in self._unfit or shapes in self._ragged:
            return None
        try:
            return self._grow(mirrors, values, arrays, sizes)
        except Ragged:
            self._ragged.add(shapes)
        except Unfit as error:
            self._unfit.add(shapes)
            warnings.warn(f"the processor appends to the caches, all of which every call sends to the GPU: {error}",
                          stacklevel=2)
        return None

    def _grow(self, mirrors: Mirrors, values: dict[str | None, Any], arrays: Sequence[np.ndarray],
              sizes: Mapping[str, int]) -> Tape:
        """`_grown`.

        Raises:
            Unfit, Ragged: that cannot be.

        """
        caches = mirrors.caches
        shapes = self._key(caches.shapes(arrays), arrays)
        (batch, length), *others = {(values[cache.past].shape[0], values[cache.past].shape[LENGTH])
                                    for cache in caches.each}
        if others or not batch:
            raise Ragged
        tape = self.tapes.get(shapes)
        if mirrors.lack(batch, total := length + (0 if tape is None else tape.tokens)):
            self._take_caches(mirrors, batch, total)
        told = self._program.start(arrays, sizes, caches.sizes)
        values.update((name, told[name]) for name in caches.sizes)
        inputs = dict(values)
        if shapes in self.tapes:
            mirrors.send(values, self._lane, self._block)
            if (tape := self._again(shapes, values)) is not None:
                return tape
        start = self._program.start(arrays, sizes)
        while True:
            try:
                return self._record(shapes, inputs, values, start, mirrors)
            except Short as error:
                tokens = error.tokens
            self._take_caches(mirrors, batch, tokens)  # when nothing has the block before

    def _again(self, shapes: Shapes, values: dict[str | None, Any]) -> Tape | None:
        """Take a tape again, if there is one and the values have the sizes that they had."""
        if (tape := self.tapes.get(shapes)) is not None:
            try:
                for item in tape.items:
                    item(values)
                copies = tape.copies(self._wanted)
                if tape.last is not None:
                    tape.last(copies)
                elif copies:
                    self._lane.do(copies)
                for item in tape.behind:
                    item(values)
            except Unplanned:  # sizes follow from values, and these have others than before
                del self.tapes[shapes]
            else:
                return tape
        return None

    def _record(self, shapes: Shapes, inputs: Mapping[str | None, Any], values: dict[str | None, Any],
                start: Mapping[str | None, Any], mirrors: Mirrors | None = None) -> Tape:
        """Take the steps and remember them."""
        while len(self.tapes) >= MOST:
            del self.tapes[next(iter(self.tapes))]
        while True:
            self._clear()
            values.clear()
            values.update(inputs)
            if mirrors is not None:
                mirrors.send(values, self._lane, self._block)
            about = self._plan, self._lane, self._arena, self._block, self._pinned
            recorder = Recorder(*about) if mirrors is None else GrowingRecorder(*about, mirrors)
            try:
                recorder.record(start, values)
            except Full as error:
                take, have, least = self._take, self._room, self._room + error.nbytes
            except PinnedFull as error:
                take, have, least = self._take_pinned, self._pinned.nbytes, error.nbytes
            else:
                names = [each["value"] for each in self._program.outputs]
                tape = self.tapes[shapes] = Tape(
                    tuple(recorder.items), recorder.last, tuple(recorder.behind), tuple(map(recorder.output, names)),
                    tuple(map(recorder.left.get, names)), recorder.tokens, tuple(recorder.kept))
                self._lane.do(tape.copies(self._wanted))
                return tape
            del recorder, about  # which have the block
            take(*_larger(have, least))

    def _begin(self) -> None:
        """Take what calls need at least."""
        if self._mirrors is not None:
            self._mirrors.shrink()
        self._take(FIRST_BYTES)

    def _take(self, *rooms: int) -> None:
        """Take another block, with room beside caches for the first of these numbers of bytes that there is memory for.

        Nothing of what was recorded holds then.
        """
        self.tapes.clear()
        self._block: Any = None  # before there is more
        caches = 0 if self._mirrors is None else self._mirrors.nbytes

        def take(room: int) -> None:
            with self._memory.guard(room + caches, of_call=True):
                self._block = self._lane.allocate(room + caches)

        self._room = _first(take, rooms)
        self._arena = Arena(self._room + caches, addresses(self._room + caches))
        self._clear()
        if self._mirrors is not None:
            self._mirrors.forget()

    def _take_caches(self, mirrors: Mirrors, batch: int, tokens: int) -> None:
        """Take another block in which caches have room for so many tokens of every text."""
        def take(spare: int) -> None:
            mirrors.grow(batch, tokens, spare=bool(spare))
            self._take(self._room)

        _first(take, (1, 0))

    def _clear(self) -> None:
        """Give back all of the block but the places of caches."""
        self._arena.clear()
        if self._mirrors is not None:
            self._mirrors.reserve(self._arena)

    def _take_pinned(self, *sizes: int) -> None:
        """Take other pinned memory, as `_take`."""
        self.tapes.clear()
        self._pinned: Any = None  # before there is more

        def take(nbytes: int) -> None:
            self._pinned = self._lane.pinned(nbytes)

        _first(take, sizes)

    def _output(self, found: Brought | np.ndarray | None, name: str, values: Mapping[str | None, Any]) -> np.ndarray:
        """An output in memory of its own; a cache has its buffer."""
        if isinstance(found, Brought):
            return found.array()
        array = np.asarray(values[name] if found is None else found)
        return array if isinstance(array.base, Part) else array.copy()


def _larger(have: int, least: int) -> list[int]:
    """Numbers of bytes to have in place of others, the best first."""
    return sorted({least, *(max(least, int(factor * have)) for factor in GROWTH)}, reverse=True)


def _first(take: Callable[[int], None], options: Sequence[int]) -> int:
    """The first of some options that can be taken.

    Raises:
        DeviceError: the last one cannot, either.

    """
    for option in options[:-1]:
        try:
            take(option)
        except DeviceError:
            continue
        return option
    take(options[-1])
    return options[-1]
