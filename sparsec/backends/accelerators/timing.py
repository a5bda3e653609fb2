"""Disciplines of waiting: from what every unit has to do, step by step, to cycles, and to who waited for what."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.mapping import Work, shares

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


def dealt(work: Work, config: Configuration) -> Timing:
    """Items, one step of any number, are dealt to the units in passes, at whose end all wait for the slowest."""
    table = shares(work.cycles, config["units"])
    return barrier(Work(table, 0, times=np.repeat(work.times, len(table) // max(1, len(work.cycles)))), config)


def dynamic(work: Work, config: Configuration) -> Timing:
    """The items of a step, any number, go in order to whichever unit is idle first; at a step's end all wait."""
    cycles, units, idle, without = 0, config["units"], 0, 0
    for items, times in zip(work.cycles.tolist(), work.times.tolist(), strict=True):
        free = [0] * units
        for item in items:
            if item:
                heapq.heapreplace(free, free[0] + item)
        last = max(free)
        cycles += last * times
        idle += (units * last - sum(free)) * times
        without += last * free.count(0) * times
    return Timing(cycles, {"imbalance": idle - without, "unused": without})


def queued(work: Work, config: Configuration) -> Timing:
    """Steps are broadcast one a cycle into a queue of `queue` steps at every unit; a full one holds up the broadcast.

    A step takes each unit at least a cycle. With D the queue's capacity, t, s and f the cycles of broadcast, start and
    finish: t(k) = max(t(k-1) + 1, max over units of s(k-D) + 1), s(k) = max(f(k-1), t(k) + 1), f(k) = s(k) + work(k):
    EIE's recurrence (Han et al., ISCA 2016, section IV). A part of the steps begins when the one before has finished.
    """
    cycles = np.repeat(work.cycles, work.times, axis=0)
    return _queued(cycles, work.parts if work.parts.size else np.array([len(cycles)]), config["queue"])


def _queued(cycles: NDArray[np.int64], steps: NDArray[np.int64], depth: int) -> Timing:
    """Parts of so many steps each side by side, the longest first: those still running are the first ones."""
    order = np.argsort(-steps, kind="stable")
    first, lengths = (np.cumsum(steps) - steps)[order], steps[order]
    finish, sent = np.zeros((len(steps), cycles.shape[1]), np.int64), np.zeros(len(steps), np.int64)
    started = np.full((depth, len(steps)), -1, np.int64)
    waited = 0
    for k, running in enumerate(np.searchsorted(-lengths, -np.arange(lengths.max(initial=0)))):
        sent[:running] = np.maximum(sent[:running], started[k % depth, :running]) + 1
        start = np.maximum(finish[:running], sent[:running, None] + 1)
        waited += int(start.sum() - finish[:running].sum())
        started[k % depth, :running] = start.max(axis=1, initial=0)
        finish[:running] = start + np.maximum(cycles[first[:running] + k], 1)
    last, empty = finish.max(axis=1, initial=0), int(np.count_nonzero(cycles == 0))
    return Timing(int(last.sum()), {"starved": waited, "imbalance": int((last[:, None] - finish).sum()),
                                    "overhead": empty})
