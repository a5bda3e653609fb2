"""Windows: the arrays of the WELL kernels, see `formats.well`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.formats.well import count_slots, pack_slots, whole_groups
from sparsec.kernels.packing.recipe import Recipe, balanced
from sparsec.kernels.packing.values import encode

SAMPLE = 1 << 18  # weights that slots are counted for one by one


@dataclass(frozen=True)
class Windows(Recipe):
    """The fields of `kernels.cpu.rows.well.WellParams` that decide the layout."""

    codec: str
    unroll: int
    lanes: int
    threads: int
    base_dtype: str
    sort: bool

    def elements(self, rows: int, columns: int) -> int:
        """Those of all slots, were every window in use."""
        return (rows + self.lanes) * (columns + self.unroll + self.lanes) + self.threads

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `parts`, `rows`, `bases`, `indices` and `values`, see `kernels.cpu.rows.well.recipe`."""
        order = orders(weight)[int(self.sort)]
        starts, columns, values = columns_of(whole_groups(weight[order] if self.sort else weight, self.lanes))
        bases, step_of = pack_slots(starts, columns, weight.shape[1], self.lanes)
        iterations = -(-(bases >= 0).sum(axis=1) // self.unroll)
        first = np.concatenate([[0], np.cumsum(iterations)])
        slots = max(int(first[-1]), 1) * self.unroll  # never empty, so that every buffer has an address

        row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        group, lane = row // self.lanes, row % self.lanes
        place = (first[group] * self.unroll + step_of) * self.lanes + lane
        position = np.zeros(slots * self.lanes, np.uint8)
        position[place] = columns - bases[group, step_of]
        value = np.zeros(slots * self.lanes, np.float32)
        value[place] = values
        base = np.zeros(slots, self.base_dtype)
        live_group, step = np.nonzero(bases >= 0)
        base[first[live_group] * self.unroll + step] = bases[live_group, step]

        arrays = {"starts": first.astype(np.int32), "parts": balanced(first, self.threads)}
        if self.sort:
            arrays["rows"] = np.argsort(order).astype(np.int32)
        return arrays | {"bases": base, "indices": position, "values": encode(value, self.codec)}


def orders(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as they are, and by falling count of non-zeros."""
    return np.arange(weight.shape[0]), np.argsort(-np.count_nonzero(weight, axis=1), kind="stable")


def slots_in(weight: np.ndarray, several: Sequence[np.ndarray], lanes: int) -> list[int]:
    """Slots that the rows in each order take; of a weight beyond `SAMPLE` by groups of rows from all parts of it.

    The groups of all orders are packed at once, for what that takes is mostly by steps.
    """
    groups = -(-len(weight) // lanes)
    step = min(groups, -(-weight.size // SAMPLE)) or 1
    sampled = range(0, groups, step)
    if not sampled:
        return [0] * len(several)
    parts = [whole_groups(weight[order[lanes * group:lanes * (group + 1)]], lanes)
             for order in several for group in sampled]
    starts, columns, _ = columns_of(np.concatenate(parts))
    slots = count_slots(starts, columns, weight.shape[1], lanes).reshape(len(several), -1).sum(axis=1)
    return [round(int(each) * groups / len(sampled)) for each in slots]


def columns_of(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row starts, and the columns and values of the non-zeros in row order."""
    nonzero = weight != 0
    starts = np.concatenate([[0], np.cumsum(np.count_nonzero(nonzero, axis=1))])
    return starts, np.nonzero(nonzero)[1], weight[nonzero]
