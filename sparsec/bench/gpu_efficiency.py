"""How long products take on the GPU at hand beside what the cost model makes of its rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsec.backends.cuda.backend import CudaBackend
from sparsec.backends.cuda.measuring import prepare_product
from sparsec.backends.cuda.planning import measured
from sparsec.backends.cuda.products import options
from sparsec.cost.gpu import TOKENS, Device
from sparsec.cost.gpu_calibration import completed, derived
from sparsec.cost.option import GpuWork, Option
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import Target

SIZES = 4096, 1024  # of the square weights, in the order in which they are measured
ORDER = 128, 1, 1024, 16  # of TOKENS, likewise: what ends early has some in the middle
BLOCK, KEPT_BLOCKS = 64, 0.25
FEW = 0.1  # non-zeros of a weight without a pattern
RANGE = -4.0, 4.0  # of activations, whose codes something else has made
PRECISIONS = "int8", "fp8"  # both have the kernels of half precision among them
ROUNDS = 2

Measure = Callable[[GpuProduct, Option, Target], Callable[[], float]]


@dataclass(frozen=True)
class Timings:
    """What kernels of products took.

    Attributes:
        times: seconds of every round, by kernel.
        kernels: the families that there are, timed or not.
        sizes, of: the sizes at which all families were timed before the time was up, and all.

    """

    times: Sequence[tuple[GpuWork, Sequence[float]]]
    kernels: Sequence[str]
    sizes: int
    of: int

    @property
    def differ(self) -> tuple[float, float]:
        """By how much rounds of a kernel differ: the median of all, and what nine of ten stay below."""
        median, most = np.quantile([max(each) / min(each) - 1 for _, each in self.times] or [0.0], (0.5, 0.9))
        return float(median), float(most)

    @property
    def timed(self) -> set[str]:
        """The families that were timed at some size."""
        return {work.kernel for work, _ in self.times}

    def factors(self, device: Device) -> dict[str, list[float]]:
        """`Device.factors` beside these rates."""
        return completed(derived(((work, min(seconds)) for work, seconds in self.times), device), self.kernels)


def measure(target: Target, device: Device, budget_s: float, prepare: Measure = prepare_product) -> Timings:
    """Time the tile that is predicted to be the fastest of every family, at as many sizes as there is time for.

    The budget ends with the kernel that has been compiled. `prepare` makes what times a kernel.
    """
    deadline, times, kernels = time.perf_counter() + budget_s, list[tuple[GpuWork, Sequence[float]]](), set[str]()
    places = [(size, columns) for size in SIZES for columns in ORDER]
    for size in SIZES:
        weights = _weights(size)
        for columns in ORDER:
            for layer, option in _best(weights, columns, target, device):
                assert isinstance(option.work, GpuWork)
                kernels.add(option.work.kernel)
                if time.perf_counter() <= deadline or not times:
                    run = prepare(layer, option, target)
                    times.append((option.work, [run() for _ in range(ROUNDS)]))
            if time.perf_counter() > deadline:
                return Timings(times, sorted(kernels), places.index((size, columns)), len(places))
    return Timings(times, sorted(kernels), len(places), len(places))


def _best(weights: Sequence[GpuProduct], columns: int, target: Target, device: Device
          ) -> Iterator[tuple[GpuProduct, Option]]:
    """The best tile of every family, each on the first of the weights that its format is for."""
    backend, seen = CudaBackend(), set[str]()
    for number, weight in enumerate(weights):
        layer, tilings = replace(weight, columns=columns), dict[str, Option]()
        for precision in PRECISIONS:
            if backend.reject_precision(target, precision) is None:
                found, _ = measured(*options(layer, target, precision))
                for option in sorted(found, key=lambda each: device.seconds(_work(each))):
                    if option.is_dense == (number == 0) and option.family not in seen:
                        tilings.setdefault(option.family, option)
        seen |= tilings.keys()
        yield from ((layer, option) for option in tilings.values())


def _work(option: Option) -> GpuWork:
    assert isinstance(option.work, GpuWork)
    return option.work


def _weights(size: int) -> list[GpuProduct]:
    """Layers whose weights are dense, 2:4, blocks, and without a pattern."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((size, size), np.float32)
    pairs = np.tile(np.array([1, 1, 0, 0], np.float32), size // 4)
    blocks = np.kron(rng.random((size // BLOCK, size // BLOCK)) < KEPT_BLOCKS, np.ones((BLOCK, BLOCK), bool))
    return [GpuProduct(np.where(kept, values, 0).astype(np.float32), np.zeros(size, np.float32), max(TOKENS),
                       Epilogue(), ranges=RANGE, written=True)
            for kept in (True, pairs > 0, blocks, rng.random((size, size)) < FEW)]
