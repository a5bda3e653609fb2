"""The roofline cost model: a kernel takes as long as its busiest resource, plus what it cannot overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from sparsec.cost.option import Work


class Rates(Protocol):
    """What prices the work of a kernel on one kind of machine.

    Attributes:
        error: times the fastest prediction, up to which a dense kernel is preferred, for predictions err by as much.

    """

    error: ClassVar[float]

    def seconds(self, work: Any, threads: int = 1) -> float:
        """The time of a run."""
        ...

    def bound(self, work: Any) -> str:
        """What limits the kernel: "compute", "bandwidth" or "overhead"."""
        ...

    def nbytes(self, work: Any) -> float:
        """Bytes that come from where bandwidth is short."""
        ...

    def least_seconds(self, work: Any, flops: float, lanes: int, threads: int) -> float:
        """The time that the busiest of arithmetic units, caches and memory needs at least.

        `flops` are operations on non-zeros alone, `lanes` the elements of a vector register.
        """
        ...


PIXELS = (1, 16, 64, 256, 1024)
DENSITIES = (0.05, 0.2, 0.5, 1.0)

EXPOSED = 0.5
"""The share of the shorter one of a core's work and its waiting for memory that does not hide behind the longer."""

CACHED = " cached"
"""What the names of kernels of few rows end in where the caches hold the network's weights."""

ROUNDED = " bf16"
"""What the names of kernels end in that round activations to bf16, of those with a twin that does not."""

LIKE = {"spmm/shifted": ("spmm/im2col", 1.0), "spmm/mec": ("spmm/im2col", 1.0), "spmm/compact": ("spmm/direct", 1.0),
        "spmm/matched-direct": ("spmm/direct", 1.15), "spmm/matched-halo": ("spmm/halo", 1.05),
        "spmm/matched-im2col": ("spmm/im2col", 1.2)}
"""Kernels that a machine's efficiencies may not have yet: those whose inner loops are like theirs, and what they take
longer beside these by a Zen 4's efficiencies."""

FORK_S = 2.5e-6
"""Seconds until the threads of a kernel have begun and joined again (TVM 0.27's pool)."""


TILES_PER_S = 2e8
"""AMX at 3.2 GHz: a product of tiles takes 16 cycles."""


@dataclass(frozen=True)
class Machine:
    """Rates of one core.

    Attributes:
        fmas_per_s: vector multiply-adds per second.
        loads_per_s: vector loads from L1 per second.
        permutes_per_s: permutes of a register by variable positions per second.
        group_s: seconds that the set-up and exit of a short inner loop cost.
        l2_bytes_per_s: bandwidth of the L2 cache, by what a load takes longer than one from L1.
        l3_bytes_per_s: bandwidth of the L3 cache.
        memory_bytes_per_s: bandwidth of as much as a network's weights take.
        call_s: seconds to call a kernel.
        tiles_per_s: products of tiles of 16 x 64 and 64 x 16 bytes per second, where there are any.
        efficiency: by kernel (`Work.kernel`) what it takes longer than the rates say, for every number of `PIXELS` and
            every one of `DENSITIES`; others are interpolated, and kernels without an entry take as long.

    """

    error: ClassVar[float] = 1.1

    fmas_per_s: float
    loads_per_s: float
    permutes_per_s: float
    group_s: float
    l2_bytes_per_s: float
    l3_bytes_per_s: float
    memory_bytes_per_s: float
    call_s: float
    tiles_per_s: float = TILES_PER_S
    efficiency: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def seconds(self, work: Work, threads: int = 1) -> float:
        """The time of a run whose work is shared evenly by the threads, unless one does it all."""
        threads = 1 if work.serial else threads
        ports = (work.fmas / self.fmas_per_s, work.loads / self.loads_per_s, work.permutes / self.permutes_per_s)
        busy = max(ports) + work.tiles / self.tiles_per_s + work.l2_bytes / self.l2_bytes_per_s
        core, memory = busy / threads, self._far(work)
        roofline = max(core, memory) + EXPOSED * min(core, memory)
        return self.overhead(work, threads) + self.factor(work) * roofline

    def _far(self, work: Work) -> float:
        """Seconds for what comes from beyond the L2 cache."""
        return work.l3_bytes / self.l3_bytes_per_s + work.memory_bytes / self.memory_bytes_per_s

    def overhead(self, work: Work, threads: int = 1) -> float:
        """What calls, waking threads and short loops take of it."""
        return self.call_s + (FORK_S if threads > 1 else 0.0) + work.groups * self.group_s / threads

    def factor(self, work: Work) -> float:
        """What the kernel takes longer than the rates say; where that is unknown, what its twin without suffix takes.

        Of weights in caches that is the kernel on others, of activations in bf16 the one on float32. Where that is
        unknown, too, the kernel is taken to be no better than the one that it is `LIKE`.
        """
        twin = work.kernel.removesuffix(CACHED).removesuffix(ROUNDED)
        like, longer = LIKE.get(twin, (twin, 1.0))
        table = next((self.efficiency[name] for name in (work.kernel, twin, like) if name in self.efficiency), None)
        if table is None:
            return 1.0
        by_pixels = [np.interp(math.log(work.density or 1.0), np.log(DENSITIES), row) for row in table]
        known = work.kernel in self.efficiency or twin in self.efficiency
        factor = float(np.interp(math.log(max(1, work.pixels)), np.log(PIXELS), by_pixels))
        return factor if known else factor * longer

    def nbytes(self, work: Work) -> float:
        """Bytes that come from beyond the L1 cache."""
        return work.l2_bytes + work.l3_bytes + work.memory_bytes

    def least_seconds(self, work: Work, flops: float, lanes: int, threads: int) -> float:
        """The time that the busiest of arithmetic units, caches and memory needs at least."""
        return max(flops / (2 * (lanes or 1) * self.fmas_per_s * threads),
                   work.l2_bytes / (self.l2_bytes_per_s * threads), self._far(work))

    def bound(self, work: Work) -> str:
        """What limits the kernel: "compute", "bandwidth" or "overhead"."""
        terms = {
            "compute": (max(work.fmas / self.fmas_per_s, work.permutes / self.permutes_per_s)
                        + work.tiles / self.tiles_per_s),
            "bandwidth": work.loads / self.loads_per_s + work.l2_bytes / self.l2_bytes_per_s + self._far(work),
            "overhead": work.groups * self.group_s + self.call_s,
        }
        return max(terms, key=terms.__getitem__)


# Measured on one Zen 5 core at 4.3 GHz.
DEFAULT_MACHINE = Machine(fmas_per_s=8.0e9, loads_per_s=7.8e9, permutes_per_s=7.8e9, group_s=1.2e-9,
                          l2_bytes_per_s=500e9, l3_bytes_per_s=90e9, memory_bytes_per_s=90e9, call_s=0.1e-6)
