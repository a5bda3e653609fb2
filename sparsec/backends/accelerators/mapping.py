"""Mapping: which unit does what, tile by tile, and the helpers that mappings are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Work:
    """What the units have to do.

    Attributes:
        cycles: (steps, units) cycles that each is busy; what a step is, the timing's discipline says.
        useful: products of two non-zeros, over all steps and times.
        zeros: products with a zero.
        padding: products with a padding entry.
        times: (steps,) how often each step is repeated.
        accesses: of each buffer, words read and written.

    """

    cycles: NDArray[np.int64]
    useful: int
    zeros: int = 0
    padding: int = 0
    times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    accesses: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.times.size:
            object.__setattr__(self, "times", np.ones(len(self.cycles), np.int64))

    @property
    def busy(self) -> int:
        """Unit-cycles."""
        return int((self.times @ self.cycles).sum())


class Event(NamedTuple):
    """One unit at work, as the step-by-step model plays it.

    Attributes:
        step, unit: where it belongs.
        cycles: that it takes.
        outputs: (products,) flat indices into the (outputs, positions) result that they are added to; -1 for none.
        products: (products,) their values.
        padding: how many of them are those of padding entries.

    """

    step: int
    unit: int
    cycles: int
    outputs: NDArray[np.int64]
    products: NDArray[np.int64]
    padding: int = 0


def matches(w: NDArray[np.bool_], x: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(outputs, positions) how many places of (outputs, length) and (positions, length) masks are set in both."""
    counts: NDArray[np.int64] = (w.astype(np.float32) @ x.T.astype(np.float32)).astype(np.int64)
    return counts


def useful(filters: NDArray[np.int32], vectors: NDArray[np.int32]) -> int:
    """Products of two non-zeros in a product of (outputs, length) and (positions, length) integers."""
    return int(np.count_nonzero(filters, axis=0) @ np.count_nonzero(vectors, axis=0))


def ceil_div(a: NDArray[np.int64], b: int) -> NDArray[np.int64]:
    """Quotients, rounded up."""
    return -(-a // b)


def shares(work: NDArray[np.int64], units: int) -> NDArray[np.int64]:
    """(steps, items) dealt out to units in turns: (steps x turns, units), zeros where there is nothing left."""
    steps, items = work.shape
    padded = np.pad(work, ((0, 0), (0, -items % units)))
    return padded.reshape(steps * (padded.shape[1] // units), units)


def greedy(loads: NDArray[np.int64], units: int) -> NDArray[np.intp]:
    """(items,) the unit that each goes to: the heaviest first, each to the unit with the least so far."""
    unit = np.zeros(len(loads), np.intp)
    total = np.zeros(units, np.int64)
    for item in np.argsort(-loads, kind="stable"):
        unit[item] = total.argmin()
        total[unit[item]] += loads[item]
    return unit
