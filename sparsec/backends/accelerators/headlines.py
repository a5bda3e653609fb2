"""The papers' headline comparisons: what they say, and the function of a seed that says what comes out here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsec.backends.accelerators.benchmarks import blocked, cycles, draw, gemm, lstm, microjoules
from sparsec.backends.accelerators.layer import Layer
from sparsec.backends.accelerators.shapes import (
    ALEXNET,
    GOOGLENET,
    LINEAR,
    PRODUCTS,
    VGG,
    Network,
    dense,
    mobilenet,
)

Ratio = Callable[[int], float]
NETWORKS = (ALEXNET, GOOGLENET, VGG)


@dataclass(frozen=True)
class Headline:
    """A published comparison.

    Attributes:
        accelerator: whose.
        what: what is compared.
        paper: the published number.
        here: from a seed to the number that comes out.

    """

    accelerator: str
    what: str
    paper: float
    here: Ratio


@functools.cache
def taken(name: str, shapes: Network, seed: int) -> int:
    """Cycles on layers drawn from a seed, which several comparisons are of."""
    return cycles(name, draw(shapes, seed))


def faster(name: str, rival: str, shapes: Network) -> Ratio:
    """How many times fewer cycles one takes than another."""
    return lambda seed: taken(rival, shapes, seed) / taken(name, shapes, seed)


def mean(ratios: Sequence[Ratio]) -> Ratio:
    """The geometric mean of several."""
    return lambda seed: float(np.exp(np.mean([np.log(ratio(seed)) for ratio in ratios])))


def every(name: str, rival: str, shapes: Sequence[Network] = NETWORKS) -> Ratio:
    """`faster` over all networks."""
    return mean([faster(name, rival, each) for each in shapes])


def one_sided(shapes: Network) -> Ratio:
    """SparTen on weights without zeros over SparTen."""
    whole = dense(shapes, activations=False)
    return lambda seed: taken("sparten", whole, seed) / taken("sparten", shapes, seed)


def blocks(shapes: Network) -> Ratio:
    """Cambricon-X on single weights over Cambricon-S on blocks of the same density."""
    def ratio(seed: int) -> float:
        rng = np.random.default_rng(seed)
        return taken("cambricon-x", shapes, seed) / cycles("cambricon-s", [blocked(s, rng) for s in shapes])

    return ratio


def pruned_lstm(*, balanced: bool) -> Ratio:
    """ESE on a dense LSTM over ESE on one of which 10 % of the weights are kept."""
    def ratio(seed: int) -> float:
        rng = np.random.default_rng(seed)
        whole, pruned = (cycles("ese", [lstm(kept, rng, balanced=balanced)]) for kept in (1.0, 0.1))
        return whole / pruned

    return ratio


def per_second(name: str, shapes: Network, clock_mhz: int) -> Ratio:
    """Inferences a second."""
    return lambda seed: 1e6 * clock_mhz / taken(name, shapes, seed)


def flexible(seed: int) -> float:
    """Eyeriss on a dense MobileNet over Eyeriss v2 on a sparse one; densities, not published, of 0.5 and 0.6."""
    return taken("eyeriss", mobilenet(1.0, 0.6), seed) / taken("eyeriss-v2", mobilenet(0.5, 0.6), seed)


def gated_recurrent(seed: int) -> float:
    """EIE over MASR at its densities, 0.34 of weights and activations, by time with as many multipliers."""
    rng = np.random.default_rng(seed)
    layer = lstm(0.34, rng, balanced=False)
    active = rng.random(layer.x.shape, np.float32) < 0.34
    layer = replace(layer, x=active.astype(np.float32))
    return cycles("eie", [layer]) / cycles("masr", [layer], units=64)


def energy(name: str, rival: str, shapes: Network) -> Ratio:
    """How many times less energy one takes on chip than another."""
    def ratio(seed: int) -> float:
        layers = draw(shapes, seed)
        return microjoules(rival, layers) / microjoules(name, layers)

    return ratio


def _product(rows: int, columns: int, inner: int) -> Ratio:
    def ratio(seed: int) -> float:
        layer: list[Layer] = [gemm(rows, columns, inner, 0.2, 0.5, np.random.default_rng(seed))]
        return cycles("systolic", layer) / cycles("sigma", layer)

    return ratio


HEADLINES = (
    Headline("scnn", "over its dense twin, AlexNet", 2.37, faster("scnn", "dcnn", ALEXNET)),
    Headline("scnn", "over its dense twin, GoogLeNet", 2.19, faster("scnn", "dcnn", GOOGLENET)),
    Headline("scnn", "over its dense twin, VGG-16", 3.52, faster("scnn", "dcnn", VGG)),
    Headline("scnn", "over its dense twin, GoogLeNet without zeros", 0.79, faster("scnn", "dcnn", dense(GOOGLENET))),
    Headline("scnn", "energy, mean of the three", 2.3, mean([energy("scnn", "dcnn", each)
                                                             for each in NETWORKS])),
    Headline("sparten", "over a dense array, mean of the three", 4.7, every("sparten", "dense")),
    Headline("sparten", "over one-sided sparsity, mean of the three", 1.8,
             mean([one_sided(each) for each in NETWORKS])),
    Headline("sparten", "over SCNN, mean of the three", 3.0, every("sparten", "scnn")),
    Headline("cnvlutin", "over DaDianNao, mean of the three", 1.37, every("cnvlutin", "dadiannao", [
        dense(each, activations=False) for each in NETWORKS])),
    Headline("cambricon-x", "over DianNao, AlexNet", 7.23, faster("cambricon-x", "diannao", (*ALEXNET, *LINEAR))),
    Headline("cambricon-s", "over Cambricon-X, mean of the three", 1.71,
             mean([blocks(each) for each in NETWORKS])),
    Headline("ese", "pruned over dense, balanced", 6.2, pruned_lstm(balanced=True)),
    Headline("ese", "pruned over dense, not balanced", 5.5, pruned_lstm(balanced=False)),
    Headline("eyeriss", "frames a second, AlexNet's convolutions", 34.7, per_second("eyeriss", ALEXNET, 200)),
    Headline("eyeriss-v2", "inferences a second, sparse AlexNet", 278.7,
             per_second("eyeriss-v2", (*ALEXNET, *LINEAR), 200)),
    Headline("eyeriss-v2", "over Eyeriss, MobileNet", 12.6, flexible),
    Headline("zena", "over Eyeriss, AlexNet", 4.0, faster("zena", "eyeriss", ALEXNET)),
    Headline("masr", "over EIE, an LSTM", 1.6, gated_recurrent),
    Headline("sigma", "over a systolic array, mean of 9 products", 5.7, mean([_product(*each) for each in PRODUCTS])),
)
"""In the order of `docs/accelerators.md`. EIE's own are in `docs/eie.md`."""
