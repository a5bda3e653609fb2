"""How long the kernels of a family take on this machine beside what the cost model makes of its rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from sparsec.backends.cpu import few_rows, products
from sparsec.backends.cpu.context import KernelCall
from sparsec.backends.cpu.planning import prepare_call
from sparsec.cost.roofline import DENSITIES, PIXELS, Machine
from sparsec.graph.layout import PaddedFlat, Tiled, round_up
from sparsec.kernels.isa import Isa, isa_of
from sparsec.kernels.matvec import Matvec
from sparsec.kernels.product import Epilogue
from sparsec.kernels.stencil import Stencil, convolution, linear
from sparsec.option import Option
from sparsec.target import Target

FEATURES, CHANNELS = (128, 512), (32, 96)  # of the linear layers and of the convolutions that are timed
TOKENS = 64  # a tile of the linear layer has at most
BEST = 1  # kernels of a family that are timed, those with the best predictions
ROUNDS = 2


def measure(target: Target, threads: int, machine: Machine) -> dict[str, list[list[float]]]:
    """`Machine.efficiency` beside the other rates; what cannot be measured is as at the nearest number of pixels."""
    isa, found = isa_of(target, threads), defaultdict[str, dict[int, list[float]]](dict)
    for row, pixels in enumerate(PIXELS):
        for density in DENSITIES:
            for family, ratio in _ratios(pixels, density, target, isa, machine).items():
                found[family].setdefault(row, []).append(ratio)
    return {family: [_nearest(rows, row) for row in range(len(PIXELS))] for family, rows in found.items()}


def _nearest(rows: Mapping[int, list[float]], row: int) -> list[float]:
    return rows[min(rows, key=lambda each: abs(each - row))]


def _ratios(pixels: int, density: float, target: Target, isa: Isa, machine: Machine) -> dict[str, float]:
    """Measured over predicted time of every family that takes so many pixels."""
    ratios = defaultdict[str, list[float]](list)
    for option, call in _kernels(pixels, density, target, isa, machine):
        time = prepare_call(call, target, isa.threads)
        seconds = min(time() for _ in range(ROUNDS))
        overhead = machine.overhead(option.work, isa.threads)
        predicted = machine.seconds(option.work, isa.threads) - overhead
        ratios[option.work.family].append(max(seconds - overhead, 0.1 * seconds) / predicted)
    return {family: math.exp(np.log(each).mean()) for family, each in ratios.items()}


def _kernels(pixels: int, density: float, target: Target, isa: Isa, machine: Machine
             ) -> Iterator[tuple[Option, KernelCall]]:
    """The best kernels of every family."""
    def best(options: list[Option]) -> Iterator[Option]:
        families = defaultdict[str, list[Option]](list)
        for option in sorted(options, key=lambda each: machine.seconds(each.work, isa.threads)):
            families[option.work.family].append(option)
        for members in families.values():
            yield from members[:BEST]

    rng = np.random.default_rng(0)

    def weight(outputs: int, inputs: int) -> np.ndarray:
        kept = rng.random((outputs, inputs)) < density
        return np.where(kept, rng.standard_normal((outputs, inputs)), 0).astype(np.float32)

    for size in FEATURES if pixels == 1 else ():
        matrix = weight(size, size)
        for option in best(few_rows.options_of(matrix, Matvec(size, size), isa, "int8")):
            yield option, few_rows.call_of(matrix, np.zeros(size, np.float32), option.params, isa)
    for stencil, layout in _geometries(pixels, isa):
        layer = products.Layer(weight(stencil.outputs, stencil.inner), np.zeros(stencil.outputs, np.float32), stencil,
                               Epilogue(), layout)
        for option in best(products.options(layer, target, isa)):
            yield option, products.call(layer, option.params, isa)


def _geometries(pixels: int, isa: Isa) -> Iterator[tuple[Stencil, PaddedFlat | None]]:
    """Linear layers and 3x3 convolutions; none of one pixel, which few rows have kernels of their own for."""
    for features in FEATURES if pixels > 1 else ():
        tokens = Tiled(1, pixels, features, min(TOKENS, round_up(pixels, isa.lanes)))
        yield linear(tokens, features, isa.lanes), None
    side = math.isqrt(pixels)
    for channels in CHANNELS if pixels > 1 else ():
        images = PaddedFlat(1, channels, side, side, 1, side + 1, isa.lanes)
        yield convolution(images, images, (3, 3), (1, 1), (1, 1)), images
