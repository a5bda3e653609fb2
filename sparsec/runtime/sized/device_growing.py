"""How a call whose caches may have any length is taken on a device; see `device_caches`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sparsec.machine.memory import Lane, Transfer
from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.device_caches import LENGTH, Mirrors, Ragged, Short, Unfit, is_choice
from sparsec.runtime.sized.device_kernels import Plan
from sparsec.runtime.sized.device_recorder import Recorder
from sparsec.runtime.sized.device_recording import FLOAT, Brought
from sparsec.runtime.sized.held import Value
from sparsec.runtime.sized.items import Item, Unplanned
from sparsec.runtime.sized.operators import GROWS

LENGTHS = np.dtype(np.int32)
"""How kernels are told the length of caches."""


@dataclass(frozen=True)
class Cached(Value):
    """A cache behind what was appended to it: its number, and texts; its length is told on the device alone."""

    number: int = 0
    batch: int = 1


class GrowingRecorder(Recorder):
    """One call, whose items are repeated by others for any length of the caches.

    Args:
        plan, lane, arena, block, pinned: as of any recorder.
        mirrors: the caches.

    """

    natively: ClassVar[dict[str, str]] = Recorder.natively | dict.fromkeys(GROWS, "_append")

    def __init__(self, plan: Plan, lane: Lane, arena: Arena, block: Any, pinned: np.ndarray, mirrors: Mirrors) -> None:
        super().__init__(plan, lane, arena, block, pinned)
        self._mirrors, self._first = mirrors, mirrors.caches.each[0].past
        self._new: dict[int, tuple[str, Brought | None]] = {}
        self._masks: dict[str | None, Value] = {}  # with room for all keys of the caches
        self._attends = False  # this step, to caches
        self._length: np.ndarray

    def record(self, start: Mapping[str | None, Any], late: dict[str | None, Any]) -> None:
        """As of any recorder; then the presents are entered.

        Raises:
            Full, PinnedFull, Short: there is too little memory, or room in caches.
            Unfit, Ragged: the caches are not used as kernels for every length take them.

        """
        super().record(start, late)
        if not self._new:  # in a branch without a past
            return
        if len(self._new) < len(self._mirrors.number):
            raise Unfit("a branch appends to some of them alone")
        item = _appending(self._mirrors, self.tokens, [self._new[number] for number in sorted(self._new)])
        item(self._late)
        self.behind.append(item)

    def _prepare(self) -> None:
        """Send how long the caches are."""
        past = self._first
        pinned = self._pinned_array((1,), LENGTHS)

        def send(values: dict[str | None, Any]) -> None:
            pinned[0] = values[past].shape[LENGTH]

        self._do(send)
        self._length = self._piece((1,), LENGTHS).array
        self._work.append(Transfer(pinned, self._tensor(self._length), back=False))

    def _take(self, step: Mapping[str, Any], run: Callable[..., Any] | None) -> None:
        """Take a step; none but attention to its keys and values reads a cache behind what was appended."""
        found = [self._values.get(name) for name in step["inputs"]]
        self._attends = any(isinstance(value, Cached) for value in found)
        if self._attends and is_choice(step) and found[0] is not None:
            self._enter(step["outputs"][0], found[0])
            return
        super()._take(step, run)

    def _spend(self, name: str) -> None:
        """Its mask, too."""
        super()._spend(name)
        if (mask := self._masks.pop(name, None)) is not None:
            self._release(mask)

    def _append(self, step: Mapping[str, Any]) -> None:
        """A call of the kernel that writes new keys or values behind a cache."""
        past, new, *starts = step["inputs"]
        number = self._mirrors.number[past]
        for each in starts:
            self._check_starts(each, past)
        host = self._values[new].root is None
        value = self._there(new)
        if value.array.dtype not in (FLOAT, self._mirrors.half) or min(value.array.strides) < 0:
            raise Unfit(f"what is appended to '{past}' is {value.array.dtype.name}, or lies backwards")
        x = value.array
        batch, _, tokens, depth = x.shape
        total = self._late[past].shape[LENGTH] + tokens
        if total > self._mirrors.room(batch):
            raise Short(total)
        if self._new and tokens != self.tokens:
            raise Unfit(f"{tokens} tokens are appended to '{past}' and {self.tokens} to others")
        self.tokens = tokens
        cache = self._mirrors.array(self._arena, number, batch)
        if x.size:
            sizes, read, written = ([one, *each] for one, each in zip((1, 0, 0), (
                x.shape, (stride // x.itemsize for stride in x.strides),
                (stride // cache.itemsize for stride in cache.strides)), strict=True))
            self._between(f"append_{x.dtype.name}", [x, self._length, cache], [*sizes, *read, *written, depth])
        if not host:
            self._bring(new)
        self._new[number] = new, None if host else self._brought[new]
        self._enter(step["outputs"][0], Cached(None, late=True, number=number, batch=batch))

    def _check_starts(self, name: str, past: str) -> None:
        """See that all texts of a call have filled the past."""
        value = self._values[name]
        if value.root is not None:
            raise Unfit(f"'{name}', which tells where new tokens begin, is computed on the GPU")
        array = None if value.late else value.array

        def check(values: dict[str | None, Any]) -> None:
            starts = values[name] if array is None else array
            if not np.all(starts == values[past].shape[LENGTH]):
                raise Ragged

        self._do(check)

    def _projection(self, name: str, half: np.dtype[Any]) -> np.ndarray:
        """Of a cache all that there is room for."""
        value = self._values[name]
        if isinstance(value, Cached):
            return self._mirrors.array(self._arena, value.number, value.batch)
        return super()._projection(name, half)

    def _attend(self, name: str, arrays: Sequence[np.ndarray], numbers: Sequence[int], out: np.ndarray) -> None:
        """The kernel for as many keys as the device has been told, and the new ones."""
        if self._attends:
            name, arrays = f"{name}_grown", [*arrays, self._length]
        super()._attend(name, arrays, numbers, out)

    def _keys(self, keys: int) -> int:
        """Of caches the new ones; the device is told how many lie before them."""
        return self.tokens if self._attends else keys

    def _listing(self, name: str, given: Sequence[np.ndarray], made: Sequence[np.ndarray],
                 numbers: Sequence[int]) -> None:
        """Lists of as many keys as there are."""
        if self._attends:
            name, given = f"{name}_grown", [*given, self._length]
        super()._listing(name, given, made, numbers)

    def _mask(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Of a mask of a cache's keys the first ones are sent, as many as there are; the last size is the room."""
        if not self._attends:
            return super()._mask(name, shape)
        value = self._masks.get(name)
        if value is None:
            found, past, tokens = self._values[name], self._first, self.tokens
            own, keys = np.shape(found.array), self._late[past].shape[LENGTH] + tokens
            if own[-1:] == (1,) and not (found.late and keys == 1):  # the same for all keys
                return super()._mask(name, shape)
            if not found.late:
                raise Unfit(f"the mask '{name}' is for one number of keys")
            if own[-1] != keys:
                raise ValueError(f"a mask of {own[-1]} keys is added to scores of {keys}")
            pinned = self._pinned_array((*own[:-1], shape[-1]), FLOAT)

            def send(values: dict[str | None, Any]) -> None:
                mask = np.asarray(values[name])
                keys = values[past].shape[LENGTH] + tokens  # of this call
                if mask.shape != (*own[:-1], keys):
                    raise Unplanned
                pinned[..., :keys] = mask

            self._do(send)
            value = self._piece(pinned.shape, FLOAT)
            self._work.append(Transfer(pinned, self._tensor(value.array), back=False))
            assert value.root is not None
            self._users[value.root] += 1
            self._masks[name] = value
        return np.broadcast_to(value.array, shape)


def _appending(mirrors: Mirrors, tokens: int, new: Sequence[tuple[str, Brought | None]]) -> Item:
    """Enters the presents of caches among the values."""
    def enter(values: dict[str | None, Any]) -> None:
        mirrors.appended(values, tokens, [values[name] if brought is None else brought.pinned for name, brought in new])

    return enter
