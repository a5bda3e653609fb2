"""The values of a call while its steps are taken: what is known of each, and the memory of an arena that they hold."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.windows import Geometry


@dataclass(frozen=True)
class Unread:
    """Windows that are read as rows, for as many of these at once as a function takes."""

    kernel: str
    x: np.ndarray
    found: Geometry


@dataclass(frozen=True)
class Value:
    """A value while it is known.

    Attributes:
        array: its contents.
        root: where the piece of memory begins that it lies in, None outside of the arena.
        late: every call makes it anew, elsewhere.
        windows: what it would be made from; `array` has no contents then.

    """

    array: Any
    root: int | None = None
    late: bool = False
    windows: Unread | None = None

    @property
    def fixed(self) -> bool:
        """Whether it is the same in all calls of these sizes."""
        return self.root is None and not self.late


class Held:
    """Values by name and copies of them; a piece of the arena is given back with the last of them that lies in it."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._values: dict[str | None, Value] = {}
        self._copies: dict[str | None, Value] = {}
        self._users: Counter[int] = Counter()

    def _piece(self, shape: tuple[int, ...], dtype: np.dtype[Any], more: int = 0) -> Value:
        """An array in the arena, with `more` bytes behind it that are its own."""
        nbytes = math.prod(shape) * dtype.itemsize
        root = self._arena.take(nbytes + more)
        return Value(self._arena.memory[root:root + nbytes].view(dtype).reshape(shape), root)

    def _enter(self, name: str | None, value: Value) -> None:
        if value.root is not None:
            self._users[value.root] += 1
        self._values[name] = value

    def _keep(self, name: str | None, copy: Value) -> None:
        """Let a copy stand for a value from now on."""
        if (before := self._copies.get(name)) is not None:
            self._release(before)
        if copy.root is not None:
            self._users[copy.root] += 1
        self._copies[name] = copy

    def _spend(self, name: str) -> None:
        """Give back what none of the other steps needs."""
        for values in (self._values, self._copies):
            if (value := values.pop(name, None)) is not None:
                self._release(value)

    def _release(self, value: Value) -> None:
        if value.root is None:
            return
        self._users[value.root] -= 1
        if not self._users[value.root]:
            self._arena.give(value.root)
