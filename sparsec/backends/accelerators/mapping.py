"""Mapping: which unit does what, tile by tile, and the helpers that mappings are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.layer import Operands
from sparsec.backends.accelerators.representation import Entries, fill


@dataclass(frozen=True, eq=False)
class Work:
    """What the units have to do.

    Attributes:
        cycles: (steps, units) cycles that each is busy; what a step is, the timing's discipline says.
        useful: products of two non-zeros, over all steps and times.
        zeros: products with a zero.
        padding: products with a padding entry.
        discarded: products of two non-zeros that belong to no output.
        times: (steps,) how often each step is repeated.
        overhead: cycles in which no unit works.
        parts: how many steps, of a step each, each part has, where parts wait for each other; none for one part.
        accesses: of each buffer, words read and written.

    """

    cycles: NDArray[np.int64]
    useful: int
    zeros: int = 0
    padding: int = 0
    discarded: int = 0
    times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    overhead: int = 0
    parts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    accesses: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.times.size:
            object.__setattr__(self, "times", np.ones(len(self.cycles), np.int64))

    @property
    def busy(self) -> int:
        """Unit-cycles."""
        return int(self.times @ self.cycles.sum(axis=1))


class Event(NamedTuple):
    """One unit at work, as the step-by-step model plays it.

    Attributes:
        step, unit: where it belongs; unit -1 is overhead, in which none works.
        cycles: that it takes.
        outputs: (products,) flat indices into the (outputs, positions) result that they are added to; -1 for none.
        products: (products,) their values.
        padding: how many of them are those of padding entries.
        part: of the steps, where parts wait for each other.

    """

    step: int
    unit: int
    cycles: int
    outputs: NDArray[np.int64]
    products: NDArray[np.int64]
    padding: int = 0
    part: int = 0


class Inner(NamedTuple):
    """One inner product: its output and position, and its products with where they are added."""

    output: int
    position: int
    outputs: NDArray[np.int64]
    products: NDArray[np.int64]


def side_by_side(works: Sequence[Work]) -> Work:
    """The items of several groups of a layer, which share the units: of works of one step each, one."""
    accesses = sum((Counter(work.accesses) for work in works), Counter())
    return Work(np.hstack([work.cycles for work in works]), sum(work.useful for work in works),
                sum(work.zeros for work in works), sum(work.padding for work in works),
                sum(work.discarded for work in works), accesses=accesses)


def matches(w: NDArray[np.bool_], x: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(outputs, positions) how many places of (outputs, length) and (positions, length) masks are set in both."""
    counts: NDArray[np.int64] = (w.astype(np.float32) @ x.T.astype(np.float32)).astype(np.int64)
    return counts


def inner_products(layer: Operands, weights: Entries, activations: Entries) -> Iterator[Inner]:
    """Every output at every position, from the entries of filters and of windows: the places that both have."""
    positions = layer.shape[1]
    for output, position in np.ndindex(*layer.shape):
        (of, factors), (at, values) = weights.fibre(output), activations.fibre(position)
        _, one, other = np.intersect1d(of, at, assume_unique=True, return_indices=True)
        products = factors[one] * values[other]
        yield Inner(output, position, np.full(len(products), output * positions + position), products)


def ceil_div(a: NDArray[np.int64], b: int) -> NDArray[np.int64]:
    """Quotients, rounded up."""
    return -(-a // b)


def shares(work: NDArray[np.int64], units: int) -> NDArray[np.int64]:
    """(steps, items) dealt out to units in turns: (steps x turns, units), zeros where there is nothing left."""
    steps, items = work.shape
    padded = fill(work, 0, -items % units)
    return padded.reshape(steps * (padded.shape[1] // units), units)


def count_places(items: int, turns: int, units: int) -> NDArray[np.int64]:
    """(2, units) which units have an item in every turn but the last, and in the last."""
    return np.stack((np.full(units, int(turns > 1)), np.arange(units) < items - (turns - 1) * units)).astype(np.int64)


def greedy(loads: NDArray[np.int64], units: int) -> NDArray[np.intp]:
    """(items,) the unit that each goes to: the heaviest first, each to the unit with the least so far."""
    unit = np.zeros(len(loads), np.intp)
    total = np.zeros(units, np.int64)
    for item in np.argsort(-loads, kind="stable"):
        unit[item] = total.argmin()
        total[unit[item]] += loads[item]
    return unit
