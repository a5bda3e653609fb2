"""How long kernels take on this machine beside what the cost model makes of its rates."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.backends.cpu.calls import call
from sparsec.backends.cpu.planning import prepare_call
from sparsec.cost.option import Option
from sparsec.cost.roofline import DENSITIES, PIXELS, Machine
from sparsec.graph.layout import PaddedFlat, Tiled, round_up
from sparsec.kernels.cpu.codes.finish import Finish, Quantized
from sparsec.kernels.cpu.codes.layer import CodesProduct
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.kernels.cpu.layer import CpuProduct
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.stencil import Stencil, convolution, linear
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.emit.codes import FOUR
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.isa import Isa, isa_of
from sparsec.kernels.family import offers
from sparsec.target import Target

FEATURES = 128, 512  # of the linear layers that are timed
NETWORKS = (1024, 256.0), (512, 3.0)  # of layers on few rows: features, and the network's weights by the L2 cache
ROWS_BY_PIXELS = {1: 1, 16: 8}  # of activations: kernels for few take up to eight
CONVOLUTIONS = (1, 64), (1, 256), (3, 32), (3, 96)  # sides of the kernels and channels of the convolutions
TOKENS = 64  # a tile of the linear layer has at most
NEAR = 1.5  # times the fastest kernel of a layer, up to which it matters how far off a prediction is
ROUNDS, MORE_ROUNDS, AGREE = 2, 2, 1.1
"""Rounds of all kernels of a layer in turns, and as many more at most of those whose two fastest differ by more."""
BUDGET_S = 120.0  # of a calibration, which takes what is not measured until then from the nearest size
FIRST = 1  # of DENSITIES: what every number of pixels is measured at before any other density

Place = tuple[int, int]
"""An entry of a table of efficiencies: of PIXELS and of DENSITIES."""
Times = dict[Option, list[float]]
"""Seconds by kernel, of every round."""


@dataclass(frozen=True)
class Timings:
    """What kernels of layers took.

    Attributes:
        layers: by place in the tables.
        sizes, of: the places whose layers were all timed before the time was up, and all.

    """

    layers: Mapping[Place, Sequence[Times]]
    sizes: int
    of: int

    @property
    def differ(self) -> tuple[float, float]:
        """By how much the fastest two rounds of a kernel differ: the median of all, and what nine of ten stay below."""
        every = [_apart(times) - 1 for timed in self.layers.values() for layer in timed for times in layer.values()]
        median, most = np.quantile(every or [0.0], (0.5, 0.9))
        return float(median), float(most)

    def table(self, machine: Machine, threads: int) -> dict[str, list[list[float]]]:
        """`Machine.efficiency` beside these rates; what was not timed is as where it was nearby."""
        found = defaultdict[str, dict[Place, float]](dict)
        for place, timed in self.layers.items():
            for kernel, ratio in _ratios(timed, machine, threads).items():
                found[kernel][place] = ratio
        return {kernel: [[_nearest(ratios, row, column) for column in range(len(DENSITIES))]
                         for row in range(len(PIXELS))] for kernel, ratios in found.items()}


def measure(target: Target, threads: int, machine: Machine, budget_s: float = BUDGET_S) -> Timings:
    """Time kernels at as many sizes as there is time for; the tilings are the best by the rates.

    The budget ends with the kernels of a layer that have been compiled.
    """
    isa, layers = isa_of(target, threads), defaultdict[Place, list[Times]](list)
    deadline, places = time.perf_counter() + budget_s, _places()
    for sizes, place in enumerate(places):
        for layer in _layers(PIXELS[place[0]], DENSITIES[place[1]], target, isa, machine):
            layers[place].append(_timed(layer))
            if time.perf_counter() > deadline:
                return Timings(layers, sizes, len(places))
    return Timings(layers, len(places), len(places))


def _places() -> list[Place]:
    """The entries of a table in the order in which they are measured: one of every number of pixels, then the rest."""
    columns = sorted(range(len(DENSITIES)), key=lambda column: column != min(FIRST, len(DENSITIES) - 1))
    return [(row, columns[0]) for row in range(len(PIXELS))] + [
        (row, column) for row in range(len(PIXELS)) for column in columns[1:]]


def _nearest(ratios: Mapping[Place, float], row: int, column: int) -> float:
    """The ratio at the nearest number of pixels, and of these at the nearest density."""
    return ratios[min(ratios, key=lambda place: (abs(place[0] - row), abs(place[1] - column)))]


def _timed(layer: Sequence[tuple[Option, Callable[[], float]]]) -> Times:
    """What kernels of a layer take, in turns."""
    found: Times = {option: [] for option, _ in layer}
    for number in range(ROUNDS + MORE_ROUNDS):
        for option, run in layer:
            if number < ROUNDS or _apart(found[option]) > AGREE:
                found[option].append(run())
    return found


def _apart(times: Sequence[float]) -> float:
    """The second least time over the least."""
    least, second, *_ = sorted(times)
    return second / least


def _ratios(layers: Sequence[Times], machine: Machine, threads: int) -> dict[str, float]:
    """Measured over predicted time of every kernel, from the layers that it is fast on."""
    ratios = defaultdict[str, list[tuple[float, float]]](list)  # with how much slower than its best rival a kernel is
    for timed in layers:
        for option, times in timed.items():
            seconds = min(times)
            rival = min(min(each) for other, each in timed.items() if _league(other) == _league(option))
            overhead = machine.overhead(option.cpu_work, threads)
            predicted = machine.seconds(option.cpu_work, threads) - overhead
            ratio = max(seconds - overhead, 0.1 * seconds) / predicted
            ratios[option.cpu_work.kernel].append((seconds / rival, ratio))
    return {kernel: _typical(each) for kernel, each in ratios.items()}


def _league(option: Option) -> tuple[bool, str]:
    """Whether the weight is dense, and how its values are stored: what decides beside the time which kernel runs."""
    return option.is_dense, option.codec


def _typical(ratios: Sequence[tuple[float, float]]) -> float:
    """The mean ratio where a kernel is among the fastest, else where it comes nearest."""
    limit = max(NEAR, min(slower for slower, _ in ratios))
    return math.exp(np.mean([math.log(ratio) for slower, ratio in ratios if slower <= limit]))


def _layers(pixels: int, density: float, target: Target, isa: Isa, machine: Machine
            ) -> Iterator[list[tuple[Option, Callable[[], float]]]]:
    """The best tiling of every kernel for every layer, with what times it."""
    def best(layer: CpuProduct, precision: str) -> list[tuple[Option, Callable[[], float]]]:
        tilings: dict[str, Option] = {}
        options, _ = offers(FAMILIES, layer, target, isa, precision)
        for option in sorted(options, key=lambda each: machine.seconds(each.cpu_work, isa.threads)):
            tilings.setdefault(option.cpu_work.kernel, option)
        network = layer.network if isinstance(layer, RowProduct) else None
        return [(each, prepare_call(call(layer, each, isa), target, isa.threads, network)) for each in tilings.values()]

    rng = np.random.default_rng(0)

    def weight(outputs: int, inputs: int) -> np.ndarray:
        kept = rng.random((outputs, inputs)) < density
        return np.where(kept, rng.standard_normal((outputs, inputs)), 0).astype(np.float32)

    for size, caches in NETWORKS if pixels in ROWS_BY_PIXELS else ():
        shape = Matvec(size, size, ROWS_BY_PIXELS[pixels])
        yield best(RowProduct(weight(size, size), np.zeros(size, np.float32), shape,
                              network=caches * target.l2_bytes / (4 * size * size)), "int8")
    for stencil, layout in _geometries(pixels, isa.lanes):
        yield best(StencilProduct(weight(stencil.outputs, stencil.inner), np.zeros(stencil.outputs, np.float32),
                                  stencil, Epilogue(), layout), "bf16")
    for stencil, layout in itertools.islice(_geometries(pixels, FOUR * isa.lanes, "uint8"), 1, None, 2):
        yield best(_quantized(weight(stencil.outputs, stencil.inner), stencil, layout), "fp32")


def _quantized(weight: np.ndarray, stencil: Stencil, layout: PaddedFlat | None) -> CodesProduct:
    """The product of codes whose weight has zeros where the given one has."""
    codes = np.clip(np.sign(weight) + 40 * weight, -127, 127).astype(np.int8)
    numbers = Quantized(np.full(len(codes), 1e-3, np.float32), np.zeros(len(codes), np.int64), codes.sum(axis=1),
                        np.zeros(0, np.float32))
    return CodesProduct(codes, numbers.begins, stencil, Finish(), numbers, layout)


def _geometries(pixels: int, lanes: int, dtype: str = "float32") -> Iterator[tuple[Stencil, PaddedFlat | None]]:
    """Linear layers and convolutions; none of one pixel, which few rows have kernels of their own for."""
    for features in FEATURES if pixels > 1 else ():
        tokens = Tiled(1, pixels, features, min(max(TOKENS, lanes), round_up(pixels, lanes)), dtype)
        yield linear(tokens, features, lanes), None
    side = math.isqrt(pixels)
    for kernel, channels in CONVOLUTIONS if pixels > 1 else ():
        pad = kernel // 2
        images = PaddedFlat(1, channels, side, side, pad, side + pad, lanes, dtype=dtype)
        yield convolution(images, images, (kernel, kernel), (1, 1), (pad, pad)), images
