"""Which slabs (all elements at one index of one axis) of a graph's tensors can be dropped together.

Every axis has an array of *holds*: 0 where the slab may go, else the number of the reason why it stays. Operators
relate the axes of their inputs and outputs; a relation turns zeros into holds until it is satisfied, so that repeating
all of them ends at the largest consistent set of dropped slabs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Hold = NDArray[np.int32]
Key = tuple[ir.Value, int]  # a value and one of its axes
Cut = Mapping[ir.Value, Mapping[int, NDArray[np.bool_]]]  # the kept slabs of every axis that loses some
NEEDED = 1  # the hold of a slab with an element that an output of the model needs


@dataclass(frozen=True)
class Relation:
    """`shrink` adds holds to the arrays of `keys`, in place, with the number of `reason` unless it passes one on.

    One that `chooses` between slabs waits until no other relation has holds to add. In a `slabwise` one, what an
    operator writes at an index depends on no other index of the axes that it names.
    """

    keys: tuple[Key, ...]
    shrink: Callable[[Sequence[Hold], int], None]
    reason: str = ""
    chooses: bool = False
    slabwise: bool = False


def length(key: Key) -> int | None:
    """The number of slabs of an axis, None where it is symbolic or the rank is unknown."""
    value, axis = key
    dim = value.shape[axis] if value.shape is not None else None
    return dim if isinstance(dim, int) else None


def can_lose(key: Key) -> bool:
    """Axes of one slab may stand for any number when they broadcast, so they stay."""
    return (length(key) or 0) > 1


def _merge(target: Hold, source: Hold) -> None:
    np.copyto(target, source, where=target == 0)


def tie(*keys: Key) -> Iterator[Relation]:
    """Axes of equal length that correspond index by index; those of length 1 broadcast and take no part.

    One of symbolic length cannot lose slabs, and so the others lose none.
    """
    present = tuple(key for key in keys if can_lose(key))

    def shrink(holds: Sequence[Hold], _: int) -> None:
        for other in holds[1:]:
            _merge(holds[0], other)
        for other in holds[1:]:
            _merge(other, holds[0])

    if any(length(key) is None for key in keys):
        yield from freeze(present, "beside an axis of symbolic length")
    elif present:
        yield Relation(present, shrink, slabwise=True)


def freeze(keys: Iterable[Key], reason: str) -> Iterator[Relation]:
    """Relations that keep all slabs of these axes, for a reason that reports give."""

    def shrink(holds: Sequence[Hold], number: int) -> None:
        for hold in holds:
            hold[hold == 0] = number

    present = tuple(key for key in keys if can_lose(key))
    if present:
        yield Relation(present, shrink, reason)


def select(whole: Key, part: Key, index: NDArray[np.int64]) -> Iterator[Relation]:
    """Slab i of `part` is slab index[i] of `whole`."""

    def shrink(holds: Sequence[Hold], _: int) -> None:
        of_whole, of_part = holds
        _merge(of_part, of_whole[index])
        spread = np.zeros_like(of_whole)
        np.maximum.at(spread, index, of_part)
        _merge(of_whole, spread)

    def keep(holds: Sequence[Hold], number: int) -> None:
        holds[0][index] = np.where(holds[0][index] == 0, number, holds[0][index])

    if can_lose(whole) and can_lose(part):
        yield Relation((whole, part), shrink)
    elif can_lose(whole):
        yield Relation((whole,), keep, "the only slab of an axis")
    else:
        yield from freeze((part,), "a copy of the only slab of an axis")


def nonempty(key: Key, unless: Sequence[Key], reason: str) -> Iterator[Relation]:
    """The axis keeps a slab, unless all slabs of one of the axes `unless` go (then nothing reads it)."""

    def shrink(holds: Sequence[Hold], number: int) -> None:
        if not holds[0].any() and all(hold.any() for hold in holds[1:]):
            holds[0][0] = number

    if can_lose(key):
        yield Relation((key, *(other for other in unless if can_lose(other))), shrink, reason, chooses=True)


def product(left: Sequence[Key], right: Sequence[Key], reason: str) -> Iterator[Relation]:
    """Axes `left` and axes `right` that write the same elements as rectangles, in row-major order, as Reshape does."""
    ours, theirs = ([key for key in side if can_lose(key)] for side in (left, right))

    def shrink(holds: Sequence[Hold], number: int) -> None:
        sides = (holds[:len(ours)], holds[len(ours):])
        for to, source in (sides, sides[::-1]):
            elements = _rectangle(source, number).reshape([len(hold) for hold in to])
            for axis, hold in enumerate(to):
                _merge(hold, elements.max(axis=tuple(i for i in range(len(to)) if i != axis)))

    if ours and theirs:
        yield Relation((*ours, *theirs), shrink, reason)


def _rectangle(holds: Sequence[Hold], number: int) -> Hold:
    """The hold of every element: it stays where each of its slabs does, for their common reason or `number`."""
    result = holds[0]
    for hold in holds[1:]:
        outer, inner = result[:, None], hold[None, :]
        common = np.where(outer == inner, outer, number)
        result = np.where((outer > 0) & (inner > 0), common, 0).reshape(-1)
    return result


def solve(holds: dict[Key, Hold], relations: Iterable[Relation]) -> list[str]:
    """Adds the fewest holds that satisfy all relations; returns the reasons by their number."""
    reasons = {"": 0, "needed": NEEDED}
    users: dict[Key, list[Relation]] = defaultdict(list)
    queues: tuple[dict[int, Relation], dict[int, Relation]] = ({}, {})  # by identity, in order; the second chooses
    for relation in relations:
        queues[relation.chooses][id(relation)] = relation
        reasons.setdefault(relation.reason, len(reasons))
        for key in relation.keys:
            users[key].append(relation)
    while queues[0] or queues[1]:
        queue = queues[0] or queues[1]
        relation = queue.pop(next(iter(queue)))
        arrays = [holds[key] for key in relation.keys]
        before = [np.count_nonzero(hold) for hold in arrays]
        relation.shrink(arrays, reasons[relation.reason])
        for key, hold, count in zip(relation.keys, arrays, before, strict=True):
            if np.count_nonzero(hold) != count:
                for user in users[key]:
                    queues[user.chooses][id(user)] = user
    return list(reasons)
