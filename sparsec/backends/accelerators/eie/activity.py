"""What happened in one or more runs of the accelerator: the counters that reports and energy models read."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Counters of one or more runs; a run multiplies one segment of a matrix by one vector. They add up.

    The PE-cycles add up too: macs + padding + empty + starved + tail + drain = PEs x (cycles - transfer).

    Attributes:
        runs: runs.
        cycles: from the start of each run to its last write-back, and the transfers.
        broadcasts: non-zero activations sent to the PEs.
        macs: PE-cycles that multiplied a weight.
        padding: PE-cycles that multiplied a padding entry.
        empty: PE-cycles that found a column without entries.
        starved: PE-cycles that waited for an activation.
        tail: PE-cycles between a PE's last entry and the slowest PE's.
        drain: PE-cycles in which the pipeline emptied.
        transfer: cycles that moved activations between SRAM and register files, in batches after the first.
        full: cycles in which the broadcast waited for a full queue.
        scan: cycles in which the broadcast moved to the next row of activation registers.
        busiest: entries of the busiest PE, run by run.
        weight_reads: reads of the weight SRAMs, a row each.
        pointer_reads: reads of the pointer SRAMs, both ends of a column at once.
        activation_reads: accesses of the activation SRAMs.

    """

    runs: int = 0
    cycles: int = 0
    broadcasts: int = 0
    macs: int = 0
    padding: int = 0
    empty: int = 0
    starved: int = 0
    tail: int = 0
    drain: int = 0
    transfer: int = 0
    full: int = 0
    scan: int = 0
    busiest: int = 0
    weight_reads: int = 0
    pointer_reads: int = 0
    activation_reads: int = 0

    def __add__(self, other: Activity) -> Activity:
        return Activity(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def entries(self) -> int:
        """Entries that the PEs processed, padding included."""
        return self.macs + self.padding
