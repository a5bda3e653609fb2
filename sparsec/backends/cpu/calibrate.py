"""Measure the rates that the cost model needs of this machine, with kernels of our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tvm

from sparsec.backends.cpu.build import settings
from sparsec.cost.tuning import CACHED_BYTES, SHARING
from sparsec.errors import CalibrationError
from sparsec.kernels.cpu import probes
from sparsec.kernels.emit.isa import Isa, isa_of
from sparsec.kernels.emit.tir import Expr
from sparsec.machine import tvm_runtime
from sparsec.machine.cpus import available, cores
from sparsec.target import Target, lacking

REPEATS = 15
QUICK_REPEATS = 5  # of what the first use of a machine measures, in under a second
SHORT, LONG = (1, 8), (9, 16)  # lengths of short loops, from and below
GROUPS = 1 << 16  # more than a branch predictor can remember
ROUNDS = 20_000
TILE_ROUNDS, TILE_PRODUCTS = 4_000, 4  # products of tiles of a round
TURNS = 4, 12  # of all rates, fewest and most: another process may have the core or a cache for a while
STEADY = 1.03  # turns go on while one brings a rate so many times the best before
PRIVATE = ("fmas_per_s", "loads_per_s", "l2_bytes_per_s", "tiles_per_s")  # what every core has for itself
BEYOND = 16  # times the L2 cache: what the L3 cache is measured on
DRAM_BYTES = 256 << 20


@dataclass(frozen=True)
class _Core:
    """What times kernels for a target on this machine."""

    isa: Isa
    llvm: tvm.target.Target
    repeats: int

    def timer(self, kernel: Expr, *inputs: np.ndarray) -> Callable[[], float]:
        """What measures the shortest time of a call of a probe, in seconds."""
        function = tvm.compile(kernel.with_attr("global_symbol", "main"), target=self.llvm)["main"]
        sums = np.zeros(self.isa.threads * probes.CHAINS * self.isa.lanes, np.float32)
        tensors = [tvm.runtime.tensor(array) for array in (*inputs, sums)]
        clock = time.thread_time if self.isa.threads == 1 else time.perf_counter  # which other programs hardly lengthen
        return lambda: float(tvm_runtime.call(self.isa.threads, _seconds, function, tensors, self.repeats, clock))

    def seconds(self, kernel: Expr, *inputs: np.ndarray) -> float:
        """The shortest time of a call of a probe."""
        return self.timer(kernel, *inputs)()

    def multiply_adds(self, rounds: int) -> Callable[[], float]:
        """What measures the seconds of so many rounds of `CHAINS` multiply-adds."""
        return self.timer(probes.multiply_add(rounds, self.isa), np.full(2 * self.isa.lanes, 0.5, np.float32))

    def bandwidth(self, nbytes: int) -> Callable[[], float]:
        """What measures the bytes per second and thread, each reading so many bytes over and over."""
        step = probes.CHAINS * self.isa.lanes
        floats = max(1, nbytes // 4 // step) * step
        sweeps = max(1, (1 << 20) // floats)
        seconds = self.timer(probes.read(floats, sweeps, self.isa), np.zeros(self.isa.threads * floats, np.float32))
        return lambda: 4 * floats * sweeps / seconds()


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
    return _undisturbed(target, threads, QUICK_REPEATS)


def measure(target: Target, threads: int, progress: Callable[[str], None] = lambda _what: None) -> dict[str, float]:
    """The rates of one core: the fields of `cost.roofline.Machine`; and the bandwidths that all threads share.

    Gathers and DRAM are measured to be shown: no kernel uses gathers, and beyond the L3 cache the model takes the
    bandwidth of as many bytes as kernels go through when they are timed (`CACHED_BYTES`).

    Raises:
        CalibrationError: the target is not this machine.

    """
    with _core(target, threads, REPEATS) as core:
        progress("multiply-adds and bandwidths")
        rates = _undisturbed(target, threads, REPEATS)
        progress("permutes")
        permutes, gathers = _permutes(core) if core.isa.permutes else (rates["fmas_per_s"],) * 2
        progress("overheads")
        return rates | {"permutes_per_s": permutes, "gathers_per_s": gathers, "group_s": _group_seconds(core),
                        "call_s": core.multiply_adds(1)(),
                        "dram_bytes_per_s": core.bandwidth(DRAM_BYTES // threads)() * threads}


def _undisturbed(target: Target, threads: int, repeats: int) -> dict[str, float]:
    """The rates of some threads, each no lower than one by itself says.

    Other programs lengthen a run of several threads several times, and the processor time of one hardly.
    """
    with _core(target, threads, repeats) as core:
        rates = _rates(core, target)
    if threads == 1 or min(available(), cores()) < threads:
        return rates
    with _core(target, 1, repeats) as core:
        alone = _rates(core, target)
    return {name: max(rate, alone[name] / (SHARING if name in PRIVATE else 1)) for name, rate in rates.items()}


def _rates(core: _Core, target: Target) -> dict[str, float]:
    """What a core multiplies, of tiles, too, if it has any, and loads, and what caches and memory bring."""
    threads = core.isa.threads
    multiply_adds = core.multiply_adds(ROUNDS)
    timed = {"l1": core.bandwidth(target.l1_bytes // 2), "l2": core.bandwidth(target.l2_bytes // 2),
             "l3": core.bandwidth(BEYOND * target.l2_bytes // threads), "cold": core.bandwidth(CACHED_BYTES // threads),
             "fmas": lambda: ROUNDS * probes.CHAINS / multiply_adds()}
    if core.isa.tiles:
        tiles = core.timer(probes.tile_products(TILE_ROUNDS, core.isa), np.ones(4 * probes.TILE_BYTES, np.uint8))
        timed["tiles"] = lambda: TILE_PRODUCTS * TILE_ROUNDS / tiles()
    best = best_rates(timed)
    waited = 1 / max(1 / best["l2"] - 1 / best["l1"], 0.1 / best["l2"])  # beside what the loads take anyway
    return {"fmas_per_s": best["fmas"], "loads_per_s": best["l1"] / (4 * core.isa.lanes), "l2_bytes_per_s": waited,
            "l3_bytes_per_s": max(best["l3"], best["cold"]) * threads,  # memory's bytes come through it
            "memory_bytes_per_s": best["cold"] * threads,
            **({"tiles_per_s": best["tiles"]} if "tiles" in best else {})}


def best_rates(timed: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The highest rates of turns, which end when one brings nothing more."""
    fewest, most = TURNS
    best = dict.fromkeys(timed, 0.0)
    for turn in range(most):
        found = {name: max(best[name], measured()) for name, measured in timed.items()}
        steady = all(found[name] <= STEADY * best[name] for name in timed)
        best = found
        if steady and turn >= fewest - 1:
            break
    return best


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


def _seconds(function: tvm.runtime.Executable, tensors: Sequence[tvm.runtime.Tensor], repeats: int,
             clock: Callable[[], float]) -> float:
    """The shortest time of a call; calls too short for the clock are timed together."""
    function(*tensors)
    count = 1
    best = float("inf")
    for _ in range(repeats):
        begin = clock()
        for _ in range(count):
            function(*tensors)
        spent = clock() - begin
        best = min(best, spent / count)
        count = max(count, int(2e-4 / best))
    return best
