"""EIE unit by unit and cycle by cycle (Han et al., ISCA 2016, section IV): one segment times one vector.

Each unit is a class whose `step` is one clock cycle. `timing` computes the same counters without stepping.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie.activity import Activity
from sparsec.backends.accelerators.eie.architecture import PIPELINE, Architecture
from sparsec.backends.accelerators.fixed_point import rescale
from sparsec.formats.eie import InterleavedColumns

Integers = NDArray[np.int64]
Numbers = NDArray[np.int32]
NONE = -1  # no entry


@dataclass(frozen=True)
class Column:
    """A column that a PE processed: the cycle it began and the cycles it took."""

    pe: int
    column: int
    start: int
    cycles: int


@dataclass(frozen=True)
class Run:
    """What a run did.

    Attributes:
        activity: its counters.
        accumulators: (rows,) the results.
        saturated: additions that saturated.
        bypasses: additions that took their operand from the addition before.
        broadcasts: cycle and column of each broadcast.
        stalls: cycles in which the broadcast waited for a full queue.
        columns: what the PEs processed.

    """

    activity: Activity
    accumulators: Numbers
    saturated: int
    bypasses: int
    broadcasts: list[tuple[int, int]]
    stalls: list[int]
    columns: list[Column]


@dataclass
class Broadcast:
    """The quadtree over the source registers: a row of them, one lane a PE, is searched for its next non-zero lane."""

    active: NDArray[np.bool_]  # (rows, pes)
    row: int = -1
    lane: int = 0
    scan: int = 0
    stalls: list[int] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = int(np.count_nonzero(self.active))

    def step(self, cycle: int, room: bool) -> None:  # noqa: FBT001 - a wire
        """Send a column to all queues; or move to the next row; or wait for room."""
        if not self.left:
            return
        pes = self.active.shape[1]
        lanes = np.flatnonzero(self.active[self.row, self.lane :]) if self.row >= 0 else np.zeros(0, np.int64)
        if not len(lanes):
            self.scan += 1
            self.row, self.lane = self.row + 1, 0
        elif not room:
            self.stalls.append(cycle)
        else:
            lane = self.lane + int(lanes[0])
            self.sent.append((cycle, self.row * pes + lane))
            self.left -= 1
            self.row, self.lane = (self.row, lane + 1) if lane + 1 < pes else (self.row + 1, 0)


@dataclass
class Queues:
    """A queue a PE. All are sent the same columns, so a queue's state is how many of them its PE has taken."""

    depth: int
    taken: Integers  # (pes,)
    sent: int = 0

    def room(self) -> bool:
        """Whether every queue can take one more."""
        return self.sent - int(self.taken.min()) < self.depth

    def idle(self) -> bool:
        """Whether every queue is empty."""
        return int(self.taken.min()) == self.sent


@dataclass
class PointerSram:
    """Each PE's pointer SRAM and address counter. A column without entries takes a cycle too.

    Successive pointers lie in two banks, so that one cycle reads both ends of a column.
    """

    pointers: Integers  # (pes, columns + 1)
    reads: int = 0
    empty: int = 0
    log: list[Column] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at, self.stop, self.column, self.finish = np.zeros((4, len(self.pointers)), np.int64)

    def step(self, cycle: int, queues: Queues, sent: list[tuple[int, int]]) -> Integers:
        """The entry that each PE issues: of its column, or of the next one in its queue."""
        taken = np.flatnonzero((self.at == self.stop) & (queues.taken < queues.sent))
        if len(taken):
            columns = np.array([sent[place][1] for place in queues.taken[taken].tolist()])
            at, stop = self.pointers[taken, columns], self.pointers[taken, columns + 1]
            cycles = np.maximum(stop - at, 1)
            self.column[taken], self.at[taken], self.stop[taken] = columns, at, stop
            self.finish[taken] = cycle + cycles
            self.empty += int(np.count_nonzero(at == stop))
            self.log += [Column(pe, column, cycle, each) for pe, column, each in
                         zip(taken.tolist(), columns.tolist(), cycles.tolist(), strict=True)]
        self.reads += len(taken)
        queues.taken[taken] += 1
        entry = np.where(self.at < self.stop, self.at, NONE)
        self.at += entry != NONE
        return entry


@dataclass
class WeightSram:
    """Each PE's weight SRAM: it holds on to the row that was read last."""

    row_entries: int
    pes: int
    reads: int = 0

    def __post_init__(self) -> None:
        self.row = self.entry = self.column = np.full(self.pes, NONE)

    def step(self, entry: Integers, column: Integers) -> tuple[Integers, Integers]:
        """The entry that arrived in the cycle before, its row read if it is another one."""
        ready, self.entry = (self.entry, self.column), entry
        self.column = column.copy()
        row = ready[0] // self.row_entries
        new = (ready[0] != NONE) & (row != self.row)
        self.reads += int(np.count_nonzero(new))
        self.row = np.where(new, row, self.row)
        return ready


@dataclass
class Arithmetic:
    """Four stages: look-up of weight and row; multiplication and read of the accumulator; addition; write.

    An addition to the row of the addition before takes its operand from there: the accumulator was read too early.
    """

    stored: InterleavedColumns
    codebook: Numbers
    activations: Numbers
    shift: int
    limit: int
    saturated: int = 0
    bypasses: int = 0

    def __post_init__(self) -> None:
        pes = self.stored.pes
        self.codes, self.runs = np.append(self.stored.codes, 0), np.append(self.stored.runs, 0)
        self.entries, self.padding = np.zeros((2, pes), np.int64)
        self.accumulators = np.zeros((pes, -(-self.stored.shape[0] // pes)), np.int32)
        none, zero = np.full(pes, NONE), np.zeros(pes, np.int32)
        self.position = none  # the row of the last entry of the column, counted within the PE
        self.fetched = (none, none)  # entry, column
        self.decoded = (none, zero, none)  # row, weight, column
        self.multiplied = (none, zero, zero)  # row, product, operand
        self.added = (none, zero)  # row, sum

    def step(self, fetched: tuple[Integers, Integers]) -> None:
        """Advance every stage, the last one first."""
        row, total = self.added
        pes = np.flatnonzero(row != NONE)
        self.accumulators[pes, row[pes]] = total[pes]
        self.added = self._add(row, total)
        row, weight, column = self.decoded
        product = rescale(weight * self.activations[column], self.shift)
        self.multiplied = (row, product, self.accumulators[np.arange(len(row)), row])
        self.decoded = self._decode(*self.fetched)
        self.fetched = fetched

    def _add(self, previous: Integers, total: Numbers) -> tuple[Integers, Numbers]:
        row, product, operand = self.multiplied
        bypass = (row != NONE) & (row == previous)
        self.bypasses += int(np.count_nonzero(bypass))
        result = np.where(bypass, total, operand) + product
        self.saturated += int(np.count_nonzero((np.abs(result) > self.limit) & (row != NONE)))
        return row, np.clip(result, -self.limit, self.limit)

    def _decode(self, entry: Integers, column: Integers) -> tuple[Integers, Numbers, Integers]:
        valid = entry != NONE
        address = np.where(valid, self.stored.base[:-1] + entry, -1)
        first = entry == self.stored.pointers[np.arange(len(entry)), column]
        self.position = np.where(valid, np.where(first, NONE, self.position) + self.runs[address] + 1, self.position)
        self.entries += valid
        self.padding += valid & (self.codes[address] == 0)
        return np.where(valid, self.position, NONE), self.codebook[self.codes[address]], column


def simulate(stored: InterleavedColumns, codebook: Numbers, activations: Numbers, arch: Architecture, shift: int,
             ) -> Run:
    """Multiply a segment by one vector.

    Args:
        stored: the segment.
        codebook: shared weights in fixed point; the first is 0.
        activations: (columns,) in fixed point.
        arch: the accelerator; its PEs are those of `stored`.
        shift: fraction bits of a product less those of the accumulators.

    """
    active = np.zeros(-(-len(activations) // stored.pes) * stored.pes, np.bool_)
    active[: len(activations)] = activations != 0
    broadcast, queues = Broadcast(active.reshape(-1, stored.pes)), Queues(arch.fifo, np.zeros(stored.pes, np.int64))
    pointers, weights = PointerSram(stored.pointers), WeightSram(arch.row_entries, stored.pes)
    arithmetic = Arithmetic(stored, codebook, activations, shift, (1 << (arch.value_bits - 1)) - 1)
    cycle = 0  # the start
    while broadcast.left or not queues.idle() or cycle < pointers.finish.max() + PIPELINE - 1:
        cycle += 1
        room = queues.room()
        entry = pointers.step(cycle, queues, broadcast.sent)
        arithmetic.step(weights.step(entry, pointers.column))
        broadcast.step(cycle, room)
        queues.sent = len(broadcast.sent)
    finish, entries, padding = pointers.finish, arithmetic.entries, int(arithmetic.padding.sum())
    activity = Activity(
        runs=1, cycles=cycle + 1, broadcasts=len(broadcast.sent), macs=int(entries.sum()) - padding, padding=padding,
        empty=pointers.empty, starved=int((finish - entries).sum()) - pointers.empty,
        tail=int((finish.max() - finish).sum()), drain=PIPELINE * arch.pes, full=len(broadcast.stalls),
        scan=broadcast.scan, busiest=int(entries.max()), weight_reads=weights.reads, pointer_reads=pointers.reads,
    )  # fmt: skip
    results = arithmetic.accumulators.T.ravel()[: stored.shape[0]]
    return Run(activity, results, arithmetic.saturated, arithmetic.bypasses, broadcast.sent, broadcast.stalls,
               pointers.log)
