"""Measure the rates that the cost model needs of this machine, with kernels of our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tvm

from sparsec.backends.cpu.build import settings
from sparsec.cost.tuning import CACHED_BYTES
from sparsec.errors import CalibrationError
from sparsec.kernels.cpu import probes
from sparsec.kernels.emit.isa import Isa, isa_of
from sparsec.kernels.emit.tir import Expr
from sparsec.target import Target, lacking

REPEATS = 15
QUICK_REPEATS = 5  # of what the first use of a machine measures, in under a second
SHORT, LONG = (1, 8), (9, 16)  # lengths of short loops, from and below
GROUPS = 1 << 16  # more than a branch predictor can remember
ROUNDS = 20_000
TILE_ROUNDS, TILE_PRODUCTS = 4_000, 4  # products of tiles of a round
TURNS = 2  # of all bandwidths, since another process may have a cache for a while
BEYOND = 16  # times the L2 cache: what the L3 cache is measured on
DRAM_BYTES = 256 << 20


@dataclass(frozen=True)
class _Core:
    """What times kernels for a target on this machine."""

    isa: Isa
    llvm: tvm.target.Target
    repeats: int

    def seconds(self, kernel: Expr, *inputs: np.ndarray) -> float:
        """The shortest time of a call of a probe."""
        function = tvm.compile(kernel.with_attr("global_symbol", "main"), target=self.llvm)["main"]
        sums = np.zeros(self.isa.threads * probes.CHAINS * self.isa.lanes, np.float32)
        return _seconds(function, [*inputs, sums], self.repeats)

    def multiply_adds(self, rounds: int) -> float:
        """Seconds of so many rounds of `CHAINS` multiply-adds."""
        return self.seconds(probes.multiply_add(rounds, self.isa), np.full(2 * self.isa.lanes, 0.5, np.float32))

    def bandwidth(self, nbytes: int) -> float:
        """Bytes per second and thread, each reading so many bytes over and over."""
        step = probes.CHAINS * self.isa.lanes
        floats = max(1, nbytes // 4 // step) * step
        sweeps = max(1, (1 << 20) // floats)
        x = np.zeros(self.isa.threads * floats, np.float32)
        return 4 * floats * sweeps / self.seconds(probes.read(floats, sweeps, self.isa), x)


@contextmanager
def _core(target: Target, threads: int, repeats: int) -> Iterator[_Core]:
    if not target.mcpu or lacking(target):
        raise CalibrationError(f"'{target.name}' is not this machine; calibrate --target cpu")
    with settings(target) as llvm:
        yield _Core(isa_of(target, threads), llvm, repeats)


def measure_quickly(target: Target, threads: int) -> dict[str, float]:
    """What this machine multiplies and its bandwidths, in under a second: some fields of `cost.roofline.Machine`.

    Raises:
        CalibrationError: the target is not this machine.

    """
    with _core(target, threads, QUICK_REPEATS) as core:
        return _bandwidths(core, target) | _tiles(core)


def measure(target: Target, threads: int, progress: Callable[[str], None] = lambda _what: None) -> dict[str, float]:
    """The rates of one core: the fields of `cost.roofline.Machine`; and the bandwidths that all threads share.

    Gathers and DRAM are measured to be shown: no kernel uses gathers, and beyond the L3 cache the model takes the
    bandwidth of as many bytes as kernels go through when they are timed (`CACHED_BYTES`).

    Raises:
        CalibrationError: the target is not this machine.

    """
    with _core(target, threads, REPEATS) as core:
        progress("multiply-adds and bandwidths")
        rates = _bandwidths(core, target) | _tiles(core)
        progress("permutes")
        permutes, gathers = _permutes(core) if core.isa.permutes else (rates["fmas_per_s"],) * 2
        progress("overheads")
        return rates | {"permutes_per_s": permutes, "gathers_per_s": gathers, "group_s": _group_seconds(core),
                        "call_s": core.multiply_adds(1),
                        "dram_bytes_per_s": core.bandwidth(DRAM_BYTES // threads) * threads}


def _bandwidths(core: _Core, target: Target) -> dict[str, float]:
    """What a core multiplies and loads, and what caches and memory bring."""
    threads = core.isa.threads
    sizes = (target.l1_bytes // 2, target.l2_bytes // 2, BEYOND * target.l2_bytes // threads, CACHED_BYTES // threads)
    turns = [[*(core.bandwidth(size) for size in sizes), ROUNDS * probes.CHAINS / core.multiply_adds(ROUNDS)]
             for _ in range(TURNS)]
    l1, l2, l3, cold, fmas = map(max, zip(*turns, strict=True))
    waited = 1 / max(1 / l2 - 1 / l1, 0.1 / l2)  # beside what the loads take anyway
    return {"fmas_per_s": fmas, "loads_per_s": l1 / (4 * core.isa.lanes), "l2_bytes_per_s": waited,
            "l3_bytes_per_s": l3 * threads, "memory_bytes_per_s": cold * threads}


def _tiles(core: _Core) -> dict[str, float]:
    """What a core multiplies of tiles, if it has any."""
    if not core.isa.tiles:
        return {}
    spent = core.seconds(probes.tile_products(TILE_ROUNDS, core.isa), np.ones(4 * probes.TILE_BYTES, np.uint8))
    return {"tiles_per_s": TILE_PRODUCTS * TILE_ROUNDS / spent}


def _permutes(core: _Core) -> tuple[float, float]:
    """Permutes of registers and gathers from L1 per second."""
    lanes, steps = core.isa.lanes, ROUNDS * probes.CHAINS
    places = np.random.default_rng(0).integers(0, probes.GATHERED, probes.PLACES * lanes, np.int32)
    x = np.ones(probes.GATHERED, np.float32)
    return (steps / core.seconds(probes.permute(ROUNDS, core.isa), places[:lanes], x[:probes.CHAINS * lanes]),
            steps / core.seconds(probes.gather(ROUNDS, core.isa), places, x))


def _group_seconds(core: _Core) -> float:
    """What a loop of varying length costs beside its steps: the line through two mean lengths, at zero."""
    points = []
    for low, high in (SHORT, LONG):
        lengths = np.sort(np.random.default_rng(0).integers(low, high, GROUPS))  # as packing sorts the rows of a weight
        starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
        x = np.zeros(64 * probes.WIDE * core.isa.lanes, np.float32)
        points.append((lengths.mean(), core.seconds(probes.short_loops(GROUPS, core.isa), starts, x) / GROUPS))
    (short, fast), (long, slow) = points
    return float(max(1e-10, fast - (slow - fast) / (long - short) * short))


def _seconds(function: tvm.runtime.Executable, arrays: list[np.ndarray], repeats: int) -> float:
    """The shortest time of a call; calls too short for the clock are timed together."""
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    function(*tensors)
    count = 1
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(count):
            function(*tensors)
        spent = time.perf_counter() - begin
        best = min(best, spent / count)
        count = max(count, int(2e-4 / best))
    return best
