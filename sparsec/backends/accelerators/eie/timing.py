"""The exact timing recurrence of EIE: cycles of a run without stepping through them.

With D the capacity of the queues, activation k the k-th non-zero one, j its column, n(p, j) the entries of PE p there,
and t, s, f the cycles of broadcast, start and finish (s and f with one value a PE):

    t(k) = max(t(k-1) + 1 + rows of registers crossed, less one behind a row's last lane;  max over p of s(p, k-D) + 1)
    s(p, k) = max(f(p, k-1), t(k) + 1)
    f(p, k) = s(p, k) + max(1, n(p, j))
    cycles = max over p of f + 5

This equals the authors' own simulator; `events` models the same machine unit by unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import PIPELINE, Architecture
from sparsec.backends.accelerators.eie.segments import Segment
from sparsec.formats.eie import InterleavedColumns

VECTORS = 1024  # run side by side: their state stays in the second-level cache
ELEMENTS = 1 << 23  # of the temporary arrays


def measure(segments: Sequence[Segment], active: NDArray[np.bool_], arch: Architecture) -> Activity:
    """Run every vector through a layer's segments, one after the other.

    The first run finds its activations in the register files, where the layer before left them, and the last leaves its
    results there; all others move them from and to the activation SRAM.

    Args:
        segments: the layer's, as `segments.split` gives them.
        active: (vectors, columns) which activations are not zero.
        arch: the accelerator.

    """
    total = sum((run(s.stored, active[:, slice(*s.columns)], arch) for s in segments), Activity())
    loads = [_transfer(s.columns, arch) for s in segments]
    stores = [_transfer(rows, arch) for rows in sorted({s.rows for s in segments})]
    transfer = len(active) * (sum(loads) + sum(stores)) - loads[0] - stores[-1]
    return total + Activity(cycles=transfer, transfer=transfer, activation_reads=arch.pes * transfer)


def _transfer(bounds: tuple[int, int], arch: Architecture) -> int:
    """Cycles in which every PE moves its part of the activations [start, stop)."""
    start, stop = bounds
    return -(-(-(-(stop - start) // arch.pes) * arch.value_bits) // arch.activation_read_bits)


def run(stored: InterleavedColumns, active: NDArray[np.bool_], arch: Architecture) -> Activity:
    """Run every vector through one segment.

    Args:
        stored: the segment's entries.
        active: (vectors, columns) which activations are not zero.
        arch: the accelerator; its PEs are those of `stored`.

    """
    counts = stored.counts
    parts = [_recurrence(counts, active[i : i + VECTORS], arch.fifo) for i in range(0, len(active), VECTORS)]
    finish = np.concatenate([part.finish for part in parts])
    end = finish.max(axis=1)
    times = active.sum(axis=0)  # how often each column is used
    entries = int(times @ counts.sum(axis=1))
    padding = int(times @ padding_per_column(stored))
    empty = int(times @ (counts == 0).sum(axis=1))
    return Activity(
        runs=len(active),
        cycles=int(end.sum()) + PIPELINE * len(active),
        broadcasts=int(times.sum()),
        macs=entries - padding,
        padding=padding,
        empty=empty,
        starved=int(finish.sum()) - entries - empty,
        tail=int((end[:, None] - finish).sum()),
        drain=PIPELINE * arch.pes * len(active),
        full=sum(part.full for part in parts),
        scan=sum(part.scan for part in parts),
        busiest=int((active.astype(np.float64) @ counts).max(axis=1).sum()),
        weight_reads=weight_reads(stored, active, arch.row_entries),
        pointer_reads=arch.pes * int(times.sum()),
    )


def padding_per_column(stored: InterleavedColumns) -> NDArray[np.int64]:
    """(columns,) padding entries."""
    before = np.concatenate(([0], np.cumsum(stored.padding)))
    padding: NDArray[np.int64] = np.diff(before[stored.pointers + stored.base[:-1, None]], axis=1).sum(axis=0)
    return padding


class _Runs(NamedTuple):
    """The finish of every vector and PE, the cycles lost to full queues and those spent on crossing rows."""

    finish: NDArray[np.int32]
    full: int
    scan: int


def _recurrence(counts: NDArray[np.int64], active: NDArray[np.bool_], depth: int) -> _Runs:
    """The three equations, for vectors side by side."""
    pes = counts.shape[1]
    slots = np.maximum(counts, 1).astype(np.int32)
    lengths = active.sum(axis=1)
    order = np.argsort(-lengths, kind="stable")  # longest first: the vectors still running are a prefix
    columns, crossed = _schedule(active[order], pes)
    running = np.searchsorted(-lengths[order], -np.arange(len(columns)))
    sent = np.zeros(len(active), np.int32)
    finish = np.zeros((len(active), pes), np.int32)
    started = np.full((depth, len(active)), -1, np.int32)  # ring: the last PE's start of the activation `depth` ago
    full = 0
    for k, m in enumerate(running):
        ready = sent[:m] + 1 + crossed[k, :m]
        oldest = started[k % depth, :m]
        np.maximum(ready, oldest + 1, out=sent[:m])
        full += int((sent[:m] - ready).sum())
        start = np.maximum(finish[:m], sent[:m, None] + 1)
        start.max(axis=1, out=oldest)
        np.add(start, slots[columns[k, :m]], out=finish[:m])
    return _Runs(finish[np.argsort(order)], full, int(crossed.sum()))


def _schedule(active: NDArray[np.bool_], pes: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(steps, vectors) the column of each vector's k-th non-zero activation, and the rows crossed before it."""
    vector, column = np.nonzero(active)
    lengths = active.sum(axis=1)
    step = np.arange(len(column)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    shape = (lengths.max(initial=0), len(active))
    columns, crossed = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    columns[step, vector] = column
    before = np.where(step > 0, np.concatenate(([0], column[:-1])), -pes)  # as if from the row before the first
    last_lane = (step > 0) & (before % pes == pes - 1)
    crossed[step, vector] = column // pes - before // pes - last_lane
    return columns, crossed


def weight_reads(stored: InterleavedColumns, active: NDArray[np.bool_], row_entries: int) -> int:
    """Rows of the weight SRAMs that hold an entry of an active column: each is read once, as the columns ascend."""
    sizes = stored.pointers[:, -1]
    address = np.arange(len(stored.codes)) - np.repeat(stored.base[:-1], sizes)
    rows = -(-sizes // row_entries)
    row = address // row_entries + np.repeat(np.cumsum(rows) - rows, sizes)
    counts = stored.counts.T.ravel()
    column = np.repeat(np.tile(np.arange(stored.shape[1]), stored.pes), counts)
    touches = scipy.sparse.csr_array((np.ones(len(row), np.int32), (row, column)), (rows.sum(), stored.shape[1]))
    chunk = max(1, ELEMENTS // max(1, touches.shape[0]))
    return sum(int(np.count_nonzero(touches @ active[i : i + chunk].T.astype(np.int32)))
               for i in range(0, len(active), chunk))
