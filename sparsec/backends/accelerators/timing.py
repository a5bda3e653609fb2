"""Disciplines of waiting: from what every unit has to do, step by step, to cycles, and to who waited for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.mapping import Work

Configuration = Mapping[str, int]


@dataclass(frozen=True)
class Timing:
    """How long the units take together.

    Attributes:
        cycles: until the last has finished.
        waits: unit-cycles that were not busy, by cause, keys of `activity.CAUSES`; with the busy ones they are
            units x cycles.

    """

    cycles: int
    waits: Mapping[str, int]


Discipline = Callable[[Work, Configuration], Timing]


def barrier(work: Work, _config: Configuration) -> Timing:
    """All units wait for the slowest at the end of every step."""
    slowest = work.cycles.max(axis=1, initial=0)
    idle = (slowest[:, None] - work.cycles) * work.times[:, None]
    without = int(idle[work.cycles == 0].sum())
    return Timing(int(slowest @ work.times), {"imbalance": int(idle.sum()) - without, "unused": without})


def independent(work: Work, _config: Configuration) -> Timing:
    """No unit waits before the layer's end."""
    busy = work.times @ work.cycles
    idle = busy.max(initial=0) - busy
    without = int(idle[busy == 0].sum())
    return Timing(int(busy.max(initial=0)), {"imbalance": int(idle.sum()) - without, "unused": without})


def clustered(work: Work, config: Configuration) -> Timing:
    """The units of a cluster, `cluster` of them, wait for its slowest at the end of every step; clusters do not."""
    cycles = work.cycles.reshape(len(work.cycles), -1, config["cluster"])
    spans = work.times @ cycles.max(axis=2, initial=0)
    idle = spans[:, None] - np.tensordot(work.times, cycles, axes=1)
    last = int(spans.max(initial=0))
    behind = config["cluster"] * (last - spans)
    unused = int(behind[spans == 0].sum())
    return Timing(last, {"imbalance": int(idle.sum() + behind.sum()) - unused, "unused": unused})


def queued(work: Work, config: Configuration) -> Timing:
    """Steps are broadcast one a cycle into a queue of `queue` steps at every unit; a full one holds up the broadcast.

    A step takes each unit at least a cycle. With D the queue's capacity, t, s and f the cycles of broadcast, start and
    finish: t(k) = max(t(k-1) + 1, max over units of s(k-D) + 1), s(k) = max(f(k-1), t(k) + 1), f(k) = s(k) + work(k):
    EIE's recurrence (Han et al., ISCA 2016, section IV).
    """
    depth, cycles = config["queue"], np.repeat(np.maximum(work.cycles, 1), work.times, axis=0)
    finish, sent, waited = np.zeros(cycles.shape[1], np.int64), 0, 0
    started: NDArray[np.int64] = np.full(depth, -1, np.int64)
    for k, step in enumerate(cycles):
        sent = max(sent + 1, int(started[k % depth]) + 1)
        start = np.maximum(finish, sent + 1)
        waited += int((start - finish).sum())
        started[k % depth] = start.max(initial=0)
        finish = start + step
    last = int(finish.max(initial=0))
    busy_by_empty = int((cycles - np.repeat(work.cycles, work.times, axis=0)).sum())
    return Timing(last, {"starved": waited, "imbalance": int((last - finish).sum()), "overhead": busy_by_empty})
