"""What `sparsec calibrate` measured of GPUs, kept in the user's cache directory by a GPU's name and a target's code.

Where an architecture's rates were fitted to kernels on the very product that is at hand (`gpu.MEASURED`), its
bandwidths stay as fitted: plain loads reach others than the copies of kernels do, which factors tell.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsec.cost.calibration import default_path as cpu_path
from sparsec.cost.calibration import read_entries, write_entries
from sparsec.cost.gpu import DEVICES, MEASURED, TOKENS, Device
from sparsec.cost.option import GpuWork
from sparsec.target import Target

COMMAND = "sparsec calibrate --target cuda-sm…"
LEAST_SHARE = 0.1
"""Of a measured time, what is taken to be no launch."""


@dataclass(frozen=True)
class GpuRates:
    """What was measured of a GPU.

    Attributes:
        launch_s: seconds that a kernel with nothing to do takes, from a CUDA graph.
        memory_bytes_per_s: at which loads bring what no cache holds.
        l2_bytes_per_s: at which they bring what the L2 cache holds, to all multiprocessors together.
        multiprocessors: their number, as the driver says.
        factors: those of `cost.gpu.Device`.

    """

    launch_s: float
    memory_bytes_per_s: float
    l2_bytes_per_s: float
    multiprocessors: int
    factors: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def device(self, target: Target, name: str) -> Device:
        """The GPU of that name, as the cost model knows it."""
        shipped = DEVICES[target.archs[0]]
        if is_fitted(shipped, name):
            return replace(shipped, launch_s=self.launch_s, factors=self.factors)
        return replace(
            shipped, name=name, multiprocessors=self.multiprocessors, launch_s=self.launch_s, factors=self.factors,
            memory_bytes_per_s=self.memory_bytes_per_s, l2_bytes_per_s=self.l2_bytes_per_s / self.multiprocessors,
            mma_per_s=shipped.mma_per_s * self.multiprocessors / shipped.multiprocessors)


def is_fitted(device: Device, name: str) -> bool:
    """Whether the rates were fitted to kernels on a GPU of that name, such as "NVIDIA H200"."""
    return device.source == MEASURED and device.name.split()[0] in name.split()


def derived(times: Iterable[tuple[GpuWork, float]], device: Device) -> dict[str, list[float]]:
    """`Device.factors` from what kernels took, in seconds: measured over predicted time, launches apart.

    Of several times for as many tokens it is the mean ratio (geometric); between tokens it is interpolated, and beyond
    them it is the nearest. `device` has no factors of these kernels.
    """
    ratios = defaultdict[str, dict[int, list[float]]](lambda: defaultdict(list))
    for work, seconds in times:
        overhead = device.overhead(work)
        ratio = max(seconds - overhead, LEAST_SHARE * seconds) / (device.seconds(work) - overhead)
        ratios[work.kernel][work.columns].append(math.log(ratio))
    return {kernel: _interpolated({columns: float(np.mean(each)) for columns, each in found.items()})
            for kernel, found in ratios.items()}


def completed(factors: Mapping[str, Sequence[float]], kernels: Iterable[str]) -> dict[str, list[float]]:
    """The factors, with the mean of all for the kernels that there was no time for: so none is preferred for that."""
    mean = np.exp(np.mean(np.log(list(factors.values())), axis=0)).tolist()
    return {**dict.fromkeys(kernels, mean), **{kernel: list(row) for kernel, row in factors.items()}}


def _interpolated(logs: Mapping[int, float]) -> list[float]:
    known = sorted(logs)
    row: list[float] = np.exp(np.interp(np.log(TOKENS), np.log(known), [logs[each] for each in known])).tolist()
    return row


def default_path() -> Path:
    """The file in the user's cache directory."""
    return cpu_path().with_name("gpu-calibration.json")


def code_of(target: Target) -> str:
    """What ends the keys of a target's entries: the architectures whose kernels were timed."""
    return f", {'+'.join(target.archs)}"


def key(target: Target, name: str) -> str:
    """The entry of a GPU for a target."""
    return name + code_of(target)


def kept(path: Path) -> dict[str, GpuRates]:
    """The entries of a file of GPUs' rates; none, with a warning, where it cannot be read."""
    return read_entries(path, _rates, COMMAND)


def keep(name: str, rates: GpuRates, path: Path | None = None) -> Path:
    """Write the rates of a `key` beside the others; returns the file.

    Raises:
        CalibrationError: it cannot be written; what was there is untouched.

    """
    path = path or default_path()
    write_entries({each: asdict(entry) for each, entry in (kept(path) | {name: rates}).items()}, path)
    return path


def _rates(entry: dict[str, Any]) -> GpuRates:
    numbers = {each: float(entry[each]) for each in ("launch_s", "memory_bytes_per_s", "l2_bytes_per_s")}
    count = int(entry["multiprocessors"])
    factors = {str(kernel): np.array(row, np.float64) for kernel, row in entry["factors"].items()}
    if any(row.shape != (len(TOKENS),) for row in factors.values()):
        raise ValueError(f"the factors of {', '.join(factors)} are not {len(TOKENS)} each")
    rates = np.array([count, *numbers.values()])
    if not all(np.all(np.isfinite(each) & (each > 0)) for each in (rates, *factors.values())):
        raise ValueError("rates must be positive")
    return GpuRates(**numbers, multiprocessors=count, factors={name: row.tolist() for name, row in factors.items()})
