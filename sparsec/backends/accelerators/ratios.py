"""What the papers compare: functions of a seed that say what comes out here, on layers drawn from that seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sparsec.backends.accelerators.benchmarks import blocked, cycles, draw, gates, gemm, microjoules, recurrent
from sparsec.backends.accelerators.eie.accelerator import ACCELERATORS as EIE
from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.eie.benchmarks import random_layers
from sparsec.backends.accelerators.eie.simulate import simulate
from sparsec.backends.accelerators.shapes import (
    ALEXNET,
    GOOGLENET,
    MEASURED_BY_EYERISS,
    PRODUCTS,
    VGG,
    Network,
    dense,
    linear,
    mobilenet,
    with_activations,
)

Ratio = Callable[[int], float]
NETWORKS = (ALEXNET, GOOGLENET, VGG)
SPARSER = (with_activations(ALEXNET, MEASURED_BY_EYERISS["AlexNet"]),
           with_activations(VGG, MEASURED_BY_EYERISS["VGG-16"]))
"""Two of them with the activations that Eyeriss measured."""


@functools.cache
def taken(name: str, shapes: Network, seed: int, given: tuple[tuple[str, int], ...] = ()) -> int:
    """Cycles on layers drawn from a seed, which several comparisons are of."""
    return cycles(name, draw(shapes, seed), **dict(given))


def faster(name: str, rival: str, shapes: Network, **given: int) -> Ratio:
    """How many times fewer cycles one takes than another, whose configuration may be `given`."""
    return lambda seed: taken(rival, shapes, seed, tuple(given.items())) / taken(name, shapes, seed)


def geometric(ratios: Sequence[Ratio]) -> Ratio:
    """The geometric mean of several."""
    return lambda seed: float(np.exp(np.mean([np.log(ratio(seed)) for ratio in ratios])))


def arithmetic(ratios: Sequence[Ratio]) -> Ratio:
    """The arithmetic mean of several."""
    return lambda seed: float(np.mean([ratio(seed) for ratio in ratios]))


def every(name: str, rival: str, networks: Sequence[Network] = NETWORKS) -> Ratio:
    """`faster` over all networks."""
    return geometric([faster(name, rival, each) for each in networks])


def eie_times(seed: int) -> float:
    """EIE's microseconds for the nine layers of its table IV together."""
    layers, active = random_layers(seed)
    return sum(result.time_us for result in simulate(layers, active, EIE["eie"], Architecture()))


def predicated(active: float) -> Ratio:
    """Minerva's energy with every activation non-zero over that with a share of them, on its network for MNIST."""
    shapes = tuple(linear(f"{outputs}", outputs, inputs, 1.0, active)
                   for outputs, inputs in ((256, 784), (256, 256), (256, 256), (10, 256)))
    return lambda seed: microjoules("minerva", draw(dense(shapes), seed)) / microjoules("minerva", draw(shapes, seed))


def predicted(active: float, rank: int = 15) -> Ratio:
    """SparseNN without its prediction over SparseNN with it: hidden layers of 1,000 whose outputs are partly zero.

    The prediction is two products more, of `rank` outputs and of `rank` inputs; what it finds zero is not computed.
    """
    def ratio(seed: int) -> float:
        rng = np.random.default_rng(seed)
        whole = linear("hidden", 1000, 1000, 1.0, active).draw(rng)
        kept = (rng.random((1000, 1, 1, 1)) < active).astype(np.float32)
        down = replace(whole, weight=np.ones((rank, 1000, 1, 1), np.float32))
        up = linear("U", 1000, rank, 1.0).draw(rng)
        return cycles("sparsenn", [whole]) / cycles("sparsenn", [down, up, replace(whole, weight=whole.weight * kept)])

    return ratio


def pruned_lstm(*, balanced: bool) -> Ratio:
    """ESE on a dense LSTM over ESE on one of which 11.2 % of the weights are kept."""
    def ratio(seed: int) -> float:
        rng = np.random.default_rng(seed)
        whole, pruned = (cycles("ese", gates(kept, rng, balanced=balanced)) for kept in (1.0, 0.112))
        return whole / pruned

    return ratio


def lstm_time(seed: int) -> float:
    """Microseconds of a step of ESE's pruned LSTM."""
    return cycles("ese", gates(0.112, np.random.default_rng(seed), balanced=True)) / 200


def one_sided(shapes: Network) -> Ratio:
    """SparTen on weights without zeros over SparTen."""
    return lambda seed: taken("sparten", dense(shapes, activations=False), seed) / taken("sparten", shapes, seed)


def blocks(shapes: Network) -> Ratio:
    """Cambricon-X on single weights over Cambricon-S on blocks of the same density."""
    def ratio(seed: int) -> float:
        rng = np.random.default_rng(seed)
        return taken("cambricon-x", shapes, seed) / cycles("cambricon-s", [blocked(s, rng) for s in shapes])

    return ratio


def per_second(name: str, shapes: Network, clock_mhz: int) -> Ratio:
    """Inferences a second."""
    return lambda seed: 1e6 * clock_mhz / taken(name, shapes, seed)


def flexible(seed: int) -> float:
    """Eyeriss, with as many elements, on a dense MobileNet over Eyeriss v2 on a sparse one."""
    elements = (("units", 192), ("columns", 16))
    return taken("eyeriss", mobilenet(pruned=False), seed, elements) / taken("eyeriss-v2", mobilenet(pruned=True), seed)


def highly_parallel(lanes: int) -> Ratio:
    """EIE over MASR, each of so many multipliers at one clock, on a recurrent layer of 1,760 with a third of both."""
    def ratio(seed: int) -> float:
        layer = [recurrent(1760, 3520, 0.34, 0.34, np.random.default_rng(seed))]
        return cycles("eie", layer, units=lanes) / cycles("masr", layer, units=lanes)

    return ratio


def energy(name: str, rival: str, shapes: Network) -> Ratio:
    """How many times less energy one takes on chip than another."""
    def ratio(seed: int) -> float:
        layers = draw(shapes, seed)
        return microjoules(rival, layers) / microjoules(name, layers)

    return ratio


def products(stays: float, streams: float) -> Ratio:
    """SIGMA over the systolic array, the geometric mean over its products, of densities of the two matrices.

    The one with 16 rows, of the smaller matrix, keeps the other in place.
    """
    def one(rows: int, columns: int, inner: int) -> Ratio:
        def ratio(seed: int) -> float:
            w, x = (streams, stays) if rows == 16 else (stays, streams)
            layer = [gemm(rows, columns, inner, w, x, np.random.default_rng(seed))]
            return cycles("systolic", layer) / cycles("sigma", layer)

        return ratio

    return geometric([one(*shape) for shape in PRODUCTS])
