"""Measure the rates that the cost model needs of this machine, with kernels of our own."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import tvm

from sparsec.backends.cpu.build import settings
from sparsec.backends.cpu.planning import CYCLE_BYTES
from sparsec.errors import CalibrationError
from sparsec.kernels.cpu import probes
from sparsec.kernels.emit.isa import Isa, isa_of
from sparsec.target import Target, machine_features

REPEATS = 15
SHORT, LONG = (1, 8), (9, 16)  # lengths of short loops, from and below
GROUPS = 1 << 16  # more than a branch predictor can remember
ROUNDS = 20_000
BEYOND = 16  # times the L2 cache: what the L3 cache is measured on
DRAM_BYTES = 256 << 20


def measure(target: Target, threads: int, progress: Callable[[str], None] = lambda _what: None) -> dict[str, float]:
    """The rates of one core: the fields of `cost.roofline.Machine`; and the bandwidths that all threads share.

    Gathers and DRAM are measured to be shown: no kernel uses gathers, and beyond the L3 cache the model takes the
    bandwidth of as many bytes as kernels go through when they are timed (`planning.CYCLE_BYTES`).

    Raises:
        CalibrationError: the target is not this machine.

    """
    if not target.mcpu or target.features - machine_features():
        raise CalibrationError(f"'{target.name}' is not this machine; calibrate --target cpu")
    isa = isa_of(target, threads)
    with settings(target) as llvm:
        def seconds(kernel: tvm.tirx.PrimFunc, *inputs: np.ndarray) -> float:
            function = tvm.compile(kernel.with_attr("global_symbol", "main"), target=llvm)["main"]
            return _seconds(function, [*inputs, np.zeros(threads * probes.CHAINS * isa.lanes, np.float32)])

        progress("multiply-adds")
        halves = np.full(2 * isa.lanes, 0.5, np.float32)
        fma = ROUNDS * probes.CHAINS / seconds(probes.multiply_add(ROUNDS, isa), halves)
        progress("permutes")
        places = np.random.default_rng(0).integers(0, probes.GATHERED, probes.PLACES * isa.lanes, np.int32)
        steps = ROUNDS * probes.CHAINS
        permutes = gathers = fma  # what no kernel does where registers cannot be permuted
        if isa.permutes:
            x = np.ones(probes.GATHERED, np.float32)
            permutes = steps / seconds(probes.permute(ROUNDS, isa), places[:isa.lanes], x[:probes.CHAINS * isa.lanes])
            gathers = steps / seconds(probes.gather(ROUNDS, isa), places, x)
        progress("loads")
        l1 = _bandwidth(target.l1_bytes // 2, isa, seconds)
        progress("bandwidths")
        l2 = _bandwidth(target.l2_bytes // 2, isa, seconds)
        l3, cold, dram = (_bandwidth(size // threads, isa, seconds) * threads
                          for size in (BEYOND * target.l2_bytes, CYCLE_BYTES, DRAM_BYTES))
        progress("overheads")
        group = _group_seconds(isa, seconds)
        call = seconds(probes.multiply_add(1, isa), halves)
    waited = 1 / max(1 / l2 - 1 / l1, 0.1 / l2)  # beside what the loads take anyway
    return {"fmas_per_s": fma, "loads_per_s": l1 / (4 * isa.lanes), "permutes_per_s": permutes, "group_s": group,
            "l2_bytes_per_s": waited, "l3_bytes_per_s": l3, "memory_bytes_per_s": cold, "call_s": call,
            "dram_bytes_per_s": dram, "gathers_per_s": gathers}


def _bandwidth(nbytes: int, isa: Isa, seconds: Callable[..., float]) -> float:
    """Bytes per second and thread, each reading so many bytes over and over."""
    step = probes.CHAINS * isa.lanes
    floats = max(1, nbytes // 4 // step) * step
    sweeps = max(1, (1 << 20) // floats)
    x = np.zeros(isa.threads * floats, np.float32)
    return 4 * floats * sweeps / seconds(probes.read(floats, sweeps, isa), x)


def _group_seconds(isa: Isa, seconds: Callable[..., float]) -> float:
    """What a loop of varying length costs beside its steps: the line through two mean lengths, at zero."""
    points = []
    for low, high in (SHORT, LONG):
        lengths = np.sort(np.random.default_rng(0).integers(low, high, GROUPS))  # as packing sorts the rows of a weight
        starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
        spent = seconds(probes.short_loops(GROUPS, isa), starts, np.zeros(64 * probes.WIDE * isa.lanes, np.float32))
        points.append((lengths.mean(), spent / GROUPS))
    (short, fast), (long, slow) = points
    return float(max(1e-10, fast - (slow - fast) / (long - short) * short))


def _seconds(function: tvm.runtime.Executable, arrays: list[np.ndarray]) -> float:
    """The shortest time of a call; calls too short for the clock are timed together."""
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    function(*tensors)
    count = 1
    best = float("inf")
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(count):
            function(*tensors)
        spent = time.perf_counter() - begin
        best = min(best, spent / count)
        count = max(count, int(2e-4 / best))
    return best
