"""Caches of decoders on a device, whose graphs serve every length that the caches have room for.

What a call returns for a cache lies in the processor's memory with room to spare, see `growing`, and gets the new
tokens from the device, which keeps all of it in half precision. Where it comes back as the past, nothing but its length
is sent; any other past is sent first.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sparsec.kernels.divided_keys import MOST
from sparsec.machine.memory import ALIGNMENT, Lane, Transfer, element_type
from sparsec.runtime.sized.arena import Arena
from sparsec.runtime.sized.growing import Buffer, Part, extended
from sparsec.runtime.sized.operators import GROWS
from sparsec.runtime.sized.sizes import Terms

FIRST_TOKENS = 1 << 9
"""Those of all texts of a batch that caches have room for at first."""
GROWTH = 2
"""How many times as large they become when they are too small, if they may."""
BEHIND = 64
"""Tokens of a text that have room behind the longest past."""
RANK, LENGTH = 4, 2
"""Dimensions of a cache (batch, groups, length, depth), and the one that grows."""
CHUNK = 16
"""Bytes of which a head's features are a multiple."""


class Short(Exception):  # noqa: N818 - its owner grows them
    """The caches have no room for so many tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class Unfit(Exception):  # noqa: N818 - a call runs otherwise
    """A step needs to know how long the caches are; says which."""


class Ragged(Exception):  # noqa: N818 - a call runs otherwise
    """The texts of a batch, or the caches, have different lengths."""


@dataclass(frozen=True)
class Cache:
    """What the plan tells of a cache: the values, heads, and features of a head.

    What is `grown` is the output `present`, unless another branch is chosen.
    """

    past: str
    grown: str
    present: str
    groups: int
    depth: int


@dataclass(frozen=True)
class Caches:
    """Those of a program.

    Attributes:
        each: in the order in which they are appended to.
        open: by input the axes whose sizes may differ from call to call of a graph.
        sizes: the values that follow from these.
        most: the tokens of all texts that calls have at most, None where nothing says it.

    """

    each: Sequence[Cache]
    open: Sequence[frozenset[int]]
    sizes: frozenset[str]
    most: int | None = None

    def shapes(self, arrays: Sequence[np.ndarray]) -> tuple[tuple[int, ...], ...]:
        """Of the inputs, what a graph is for; -1 stands for any size."""
        return tuple([array.shape if not axes else
                      tuple([-1 if axis in axes else size for axis, size in enumerate(array.shape)])
                      for array, axes in zip(arrays, self.open)])  # noqa: B905 - equally many


def caches_of(fields: Mapping[str, Any]) -> Caches | None:
    """Those of a plan; None where there are none, or one graph does not serve several lengths.

    It does where floats are appended to inputs along the tokens, for outputs that attention alone reads, and no stage
    has rows for each of these.
    """
    inputs, outputs = ({each["value"]: each for each in fields[key]} for key in ("inputs", "outputs"))
    bound = {name for step in fields["steps"] if step["op"] == "rows" for name in _names(step["lead"])}
    found = []
    for step in fields["steps"]:
        if step["op"] in GROWS:
            spec, axis = inputs.get(step["inputs"][0]), step["attributes"].get("axis", LENGTH)
            present = _chosen(step["outputs"][0], fields["steps"])
            if (spec is None or len(spec["shape"]) != RANK or spec["dtype"] != "float32"
                    or axis not in (LENGTH, LENGTH - RANK) or (step["op"] == GROWS[0] and len(step["inputs"]) != LENGTH)
                    or present not in outputs):
                return None
            batch, groups, _, depth = spec["shape"]
            if not (isinstance(groups, int) and isinstance(depth, int)) or 2 * depth % CHUNK:
                return None
            bound |= _of(batch)
            found.append(Cache(spec["value"], step["outputs"][0], present, groups, depth))
    for name, terms, _ in reversed(fields["quotients"]):
        bound |= _names([terms]) if name in bound else set()
    free = set().union(*(_of(dim) for spec in fields["inputs"] for dim in spec["shape"])) - bound
    for name, terms, _ in fields["quotients"]:
        free |= {name} if _names([terms]) & free else set()
    grown = [inputs[each.past]["shape"][LENGTH] for each in found]
    if not found or not all(isinstance(dim, str) and dim in free for dim in grown):
        return None
    presents = {name for each in found for name in (each.grown, each.present)}
    if not all(_is_used(step, presents) for step in fields["steps"]):
        return None
    return Caches(found, [frozenset(axis for axis, dim in enumerate(spec["shape"]) if _of(dim) & free)
                          for spec in fields["inputs"]],
                  frozenset(name for name, each in fields["sizes"].items() if _names(each["terms"]) & free),
                  _most(inputs[found[0].past]["shape"], fields["limits"]))


def _most(shape: Sequence[Any], limits: Mapping[str, Sequence[int]]) -> int | None:
    """The tokens of a cache of all texts, and behind them, if both numbers have a limit."""
    texts, length = (dim if isinstance(dim, int) else limits[dim][1] if isinstance(dim, str) and dim in limits else None
                     for dim in (shape[0], shape[LENGTH]))
    return None if texts is None or length is None else texts * (length + BEHIND)


def _chosen(name: str, steps: Sequence[Mapping[str, Any]]) -> str:
    """What a value is behind the end of its branch."""
    for step in steps:
        if is_choice(step) and step["inputs"] == [name]:
            name = step["outputs"][0]
    return name


def is_choice(step: Mapping[str, Any]) -> bool:
    """Whether a step gives a branch's result the name that it has behind an If."""
    return bool(step["op"] == "Identity" and step["when"])


def _is_used(step: Mapping[str, Any], presents: Collection[str]) -> bool:
    """Whether a step reads no cache behind what was appended, attends to it, or is the end of a branch."""
    cached = [name in presents for name in step["inputs"]]
    attends = step["op"] == "attention" and cached[:3] == [False, True, True] and not any(cached[3:])
    return not any(cached) or attends or (is_choice(step) and step["outputs"][0] in presents)


def _names(polynomials: Iterable[Terms]) -> set[str]:
    return {name for terms in polynomials for _, *names in terms for name in names}


def _of(dim: int | str | Terms) -> set[str]:
    """The symbols of a dimension of an input."""
    if isinstance(dim, int):
        return set()
    return {dim} if isinstance(dim, str) else _names([dim])


class Mirrors:
    """The caches of a runner.

    Args:
        caches: of the program.
        half: the element type in which the device keeps them.

    """

    def __init__(self, caches: Caches, half: str) -> None:
        self.caches, self.half = caches, element_type(half)
        self.number = {each.past: number for number, each in enumerate(caches.each)}
        self._tokens = FIRST_TOKENS
        self._roots: list[int] = []
        self._staging: np.ndarray | None = None
        self._held: list[tuple[weakref.ref[Buffer] | None, int]] = []

    def reserve(self, arena: Arena) -> None:
        """Take their places in an empty block, which are the same every time.

        Raises:
            Full: there is no room.

        """
        self._roots = [arena.take(self._nbytes(each)) for each in self.caches.each]

    def forget(self) -> None:
        """Their places have no contents."""
        self._held = [(None, 0)] * len(self.caches.each)

    @property
    def nbytes(self) -> int:
        """Of a block, what they take."""
        return sum(size + -size % ALIGNMENT for size in map(self._nbytes, self.caches.each))

    def lack(self, batch: int, tokens: int) -> bool:
        """Whether there is no room for so many tokens of every text."""
        return batch * tokens > self._tokens

    def grow(self, batch: int, tokens: int, *, spare: bool) -> None:
        """Have room for so many tokens of every text in other places, and for as many as calls may need soon.

        Raises:
            ValueError: kernels do not number so many elements.

        """
        needed, width = batch * tokens, max(each.groups * each.depth for each in self.caches.each)
        if needed * width > MOST:
            raise ValueError(f"caches of {batch} x {tokens} tokens of {width} numbers have more elements than the "
                             f"{MOST} that kernels number")
        most = min(MOST // width, needed if not spare else GROWTH * self._tokens if self.caches.most is None else
                   min(GROWTH * self._tokens, self.caches.most))
        self._tokens, self._staging = max(needed, most), None

    def shrink(self) -> None:
        """Have room for as many as at first."""
        self._tokens, self._staging = FIRST_TOKENS, None

    def room(self, batch: int) -> int:
        """Tokens of every text that there is room for."""
        return self._tokens // batch

    def array(self, arena: Arena, number: int, batch: int) -> np.ndarray:
        """What stands for a cache (batch, groups, room, depth)."""
        cache, root = self.caches.each[number], self._roots[number]
        shape = batch, cache.groups, self.room(batch), cache.depth
        return arena.memory[root:root + self._nbytes(cache)].view(self.half)[:int(np.prod(shape))].reshape(shape)

    def send(self, values: Mapping[str | None, Any], lane: Lane, block: Any) -> None:
        """Send the pasts among the values that the device does not have."""
        for number, cache in enumerate(self.caches.each):
            past, (held, length) = values[cache.past], self._held[number]
            buffer = _beginning_with(past)
            tokens = past.shape[LENGTH]
            if tokens and (buffer is None or held is None or held() is not buffer or tokens > length):
                self._held[number] = None, 0
                self._send(past, number, lane, block)
            self._held[number] = None if buffer is None else weakref.ref(buffer), tokens

    def appended(self, values: dict[str | None, Any], tokens: int, new: Sequence[Any]) -> None:
        """Enter the presents among the values, which have so many tokens more; the device has these already."""
        for number, (cache, array) in enumerate(zip(self.caches.each, new, strict=True)):
            past = values[cache.past]
            length = past.shape[LENGTH]
            buffer, present = extended(past, tokens)
            buffer.part(length, length + tokens)[...] = array
            present.flags.writeable = False  # the device would not see what is written
            values[cache.present] = present
            self._held[number] = weakref.ref(buffer), length + tokens

    def _send(self, past: np.ndarray, number: int, lane: Lane, block: Any) -> None:
        """Copy a past to its place, head by head."""
        if self._staging is None:
            self._staging = lane.pinned(max(map(self._nbytes, self.caches.each)))
        batch, groups, tokens, depth = past.shape
        pinned = self._staging[:past.size * self.half.itemsize].view(self.half).reshape(past.shape)
        pinned[...] = past
        step = self.room(batch) * depth * self.half.itemsize
        lane.do([Transfer(pinned[text, head], lane.view(block, self._roots[number] + (text * groups + head) * step,
                                                        (tokens * depth,), self.half.name), back=False)
                 for text, head in product(range(batch), range(groups))])

    def _nbytes(self, cache: Cache) -> int:
        return self._tokens * cache.groups * cache.depth * self.half.itemsize


def _beginning_with(past: np.ndarray) -> Buffer | None:
    """The buffer whose first tokens an array is, as a session has returned it, so that nobody has written to it."""
    buffer = past.base.buffer if isinstance(past.base, Part) else None
    if past.flags.writeable or buffer is None or buffer.axis != LENGTH or past.strides != buffer.whole.strides:
        return None
    same = past.ctypes.data == buffer.address and past.shape == buffer.part(0, past.shape[LENGTH]).shape
    return buffer if same and past.shape[LENGTH] <= buffer.filled else None
