"""The step that takes one token of one text through all stages at once, see `compiler.sized.token`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sparsec.machine import tvm_runtime
from sparsec.machine.memory import ALIGNMENT, aligned, carrier, element_type
from sparsec.runtime.sized.attention import FLOAT, by_rows, flat
from sparsec.runtime.sized.branches import is_taken
from sparsec.runtime.sized.growing import Buffer, claim_next, extended
from sparsec.runtime.sized.kernels import Kernels
from sparsec.runtime.sized.sizes import value_of

HALVES = ("keys", "values")
SIZE = 8  # bytes of a number among the sizes


class Caller(Protocol):
    """What calls the function on arrays by the number of its input, which must live until it has run."""

    def give(self, place: int, array: np.ndarray) -> None:
        """What an input is from now on."""

    def give_cache(self, place: int, buffer: Buffer) -> None:
        """The same of all that a cache's buffer has room for."""

    def run(self, outputs: Sequence[tuple[np.dtype[Any], Sequence[int]]]) -> Sequence[np.ndarray]:
        """The outputs of these element types and shapes, in memory that nothing else has."""


class Replayed:
    """Runs the function's kernels one after the other.

    Args:
        kernels: of the runner.
        number: of the function among those of the library.
        inputs, outputs: how many it takes and makes.

    """

    def __init__(self, kernels: Kernels, number: int, inputs: int, outputs: int) -> None:
        self._kernels = kernels  # whose memory the function works in
        self._run, self._words = kernels.once(number, inputs, outputs)
        self._kept: list[np.ndarray | None] = [None] * inputs
        self._caches: list[Buffer | None] = [None] * inputs

    def give(self, place: int, array: np.ndarray) -> None:
        """Its address."""
        self._kept[place], self._words[place] = array, array.ctypes.data

    def give_cache(self, place: int, buffer: Buffer) -> None:
        """Its address, where it is another one than last time."""
        if self._caches[place] is not buffer:
            self._caches[place], self._words[place] = buffer, buffer.address

    def run(self, outputs: Sequence[tuple[np.dtype[Any], Sequence[int]]]) -> Sequence[np.ndarray]:
        """In new arrays."""
        found = [aligned(tuple(shape), dtype) for dtype, shape in outputs]
        self._words[len(self._kept):] = [array.ctypes.data for array in found]
        self._run()
        return found


class Machine:
    """Runs the function in a virtual machine, where it does more than call kernels.

    Args:
        function: with its constants bound.
        inputs: how many it takes.

    """

    def __init__(self, function: Callable[..., Any], inputs: int) -> None:
        runtime = tvm_runtime.load()
        self._function, self._share, self._item = function, runtime.from_dlpack, runtime.get_item
        self._arguments: list[Any] = [None] * inputs

    def give(self, place: int, array: np.ndarray) -> None:
        """As TVM sees it."""
        writeable = array if array.flags.writeable else array.copy()
        self._arguments[place] = self._share(writeable.view(carrier(array.dtype.name)))

    def give_cache(self, place: int, buffer: Buffer) -> None:
        """As TVM sees it."""
        self._arguments[place] = buffer.flat

    def run(self, outputs: Sequence[tuple[np.dtype[Any], Sequence[int]]]) -> Sequence[np.ndarray]:
        """In the machine's memory."""
        results = self._function(*self._arguments)
        return [np.from_dlpack(self._item(results, index)).view(dtype).reshape(shape)
                for index, (dtype, shape) in enumerate(outputs)]


class Token:
    """The step; one call at a time.

    Attributes:
        pasts: the values that caches are given as.
        grown: their buffers as of the last call, in order; none where not all are appended to.
        made: the values that it enters.

    Args:
        call: makes what calls the function, from how many inputs that takes.
        about: what the plan says of it.
        scratch: of the kernels of attention: what keys are padded to, rows of scores, and threads.

    """

    def __init__(self, call: Callable[[int], Caller], about: Mapping[str, Any], scratch: Mapping[str, int]) -> None:
        self._ones, self._when = about["ones"], about["when"]
        self._caches = [[(cache[half]["past"], cache[half]["present"], cache[half]["start"]) for half in HALVES]
                        for cache in about["caches"]]
        self._starts = [(start, past) for cache in self._caches for past, _, start in cache if start is not None]
        self.pasts, self._presents = ([half[index] for cache in self._caches for half in cache] for index in range(2))
        self._lengths = [(cache["mask"], cache["keys"]["past"], int(cache["keys"]["present"] is not None))
                         for cache in about["caches"] if "mask" in cache]
        self._outputs = [(each["name"], element_type(each["dtype"]), each["shape"]) for each in about["outputs"]]
        self._pair, self._floats = scratch["pair"], scratch["threads"] * (about["depth"] + scratch["rows"])
        self._call = call(len(about["inputs"]) + 1)
        places = {each["name"]: index for index, each in enumerate(about["inputs"])}
        self._sizes = aligned((len(self._caches), ALIGNMENT // SIZE), np.dtype(np.int64))[:, :5]
        self.grown: list[Buffer] = []
        self._length = self._end = 0
        self._places: list[tuple[int, int]] = []
        for number in range(len(self._caches)):
            self._call.give(places.pop(f"sizes.{number}"), self._sizes[number])
            self._places.append((places.pop(f"keys.{number}"), places.pop(f"values.{number}")))
        self._buffers: list[tuple[str, np.ndarray]] = []
        self._masks: list[tuple[str, int]] = []
        for name, place in places.items():
            each = about["inputs"][place]
            if each["shape"] is None:
                self._masks.append((name, place))
            else:
                buffer = aligned(tuple(each["shape"]), element_type(each["dtype"]))
                self._buffers.append((name, buffer.reshape(-1)))
                self._call.give(place, buffer)
        self._room, self._scratch = 0, len(about["inputs"])
        self.made = frozenset({name for name, *_ in self._outputs} | {
            present for cache in self._caches for _, present, _ in cache if present is not None})

    @property
    def reads(self) -> frozenset[str]:
        """The values that it is given."""
        halves = [half for cache in self._caches for half in cache]
        return frozenset({name for name, _ in (*self._when, *self._buffers, *self._masks)}
                         | {mask for mask, *_ in self._lengths} | {past for past, *_ in halves}
                         | {start for *_, start in halves if start is not None})

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is one token of one text that is asked for."""
        return all(value_of(terms, sizes) == 1 for terms in self._ones)

    def takes(self, values: Mapping[str | None, Any]) -> bool:
        """Whether the branch is taken that it computes, caches are appended to where they end, and masks fit them."""
        if not is_taken(self._when, values) or any(
                values[mask].size != values[past].shape[2] + more for mask, past, more in self._lengths):
            return False
        return all((values[start] == values[past].shape[2]).all() for start, past in self._starts)

    def run(self, values: dict[str | None, Any], sizes: Mapping[str, int]) -> frozenset[str]:
        """Enter the outputs, and the caches with the token, into the values; their names."""
        call, keys, grown = self._call, set[int](), list[Buffer]()
        for halves, places, told in zip(self._caches, self._places, self._sizes, strict=True):
            strides: tuple[int, ...] = ()
            for (past, present, _), place in zip(halves, places, strict=True):
                array = values[past]
                if present is None:
                    array = by_rows(array)
                    call.give(place, flat(array))
                    steps: Sequence[int] = [stride // FLOAT for stride in array.strides]
                else:
                    cache, array = extended(array, 1)
                    call.give_cache(place, cache)
                    values[present], steps = array, cache.steps
                    grown.append(cache)
                strides += steps[1], steps[2]
            count = array.shape[2]
            told[:] = count, *strides
            keys.add(count)
        self._length = max(keys)
        self.grown = grown if len(keys) == 1 and len(grown) == len(self.pasts) else []
        self._end = min((each.room for each in grown), default=0)
        return self._computed(values, sizes)

    def follow(self, values: dict[str | None, Any], sizes: Mapping[str, int]) -> frozenset[str] | None:
        """`run` for the caches that the last call has given; None where they have no room, or another has taken it."""
        buffers, length = self.grown, self._length
        if not claim_next(buffers, length, self._end):
            return None
        length += 1
        for present, buffer in zip(self._presents, buffers):  # noqa: B905 - equally many
            values[present] = buffer.view(length)
        self._length = length  # no sooner: where an interrupt comes before, caches are looked at again
        self._sizes[:, 0] = length
        return self._computed(values, sizes)

    def _computed(self, values: dict[str | None, Any], sizes: Mapping[str, int]) -> frozenset[str]:
        """Enter the outputs; the names of all that the function has made."""
        for name, buffer in self._buffers:
            buffer[:] = values[name].reshape(-1)
        for name, place in self._masks:
            self._call.give(place, np.ascontiguousarray(values[name]).reshape(-1))
        self._grow(-(-self._length // self._pair) * self._pair * self._floats)
        shapes = [(dtype, [value_of(terms, sizes) for terms in shape]) for _, dtype, shape in self._outputs]
        for (name, *_), array in zip(self._outputs, self._call.run(shapes), strict=True):
            values[name] = array
        return self.made

    def _grow(self, floats: int) -> None:
        if floats > self._room:
            self._room = 2 * floats
            self._call.give(self._scratch, aligned((self._room,), np.dtype(np.float32)))


def steps_before(about: Mapping[str, Any], steps: Sequence[Any]) -> list[Any]:
    """The steps whose results the function takes."""
    return [steps[number] for number in about["before"]]
