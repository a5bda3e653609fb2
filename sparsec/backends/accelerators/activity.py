"""What happened in one or more layers: the counters that every accelerator's report and energy are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

CAUSES = {
    "useful": "products of two non-zeros",
    "zeros": "products with a zero",
    "padding": "padding entries",
    "discarded": "products that belong to no output",
    "fragments": "lanes without an operand",
    "imbalance": "waiting for the slowest unit",
    "starved": "waiting for activations",
    "unused": "units without work",
    "overhead": "start, transfer and drain",
}
"""What a multiplier's cycles go to."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Counters; they add up.

    Attributes:
        cycles: from the first operand to the last result, layer after layer.
        spent: cycles of all multipliers by cause, keys of `CAUSES`: their sum is multipliers x cycles.
        accesses: of each buffer, reads and writes of one word.

    """

    cycles: int = 0
    spent: Mapping[str, int] = field(default_factory=dict)
    accesses: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Activity) -> Activity:
        return Activity(cycles=self.cycles + other.cycles, spent=_sum(self.spent, other.spent),
                        accesses=_sum(self.accesses, other.accesses))


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    total = Counter(one)
    total.update(other)
    return dict(total)
