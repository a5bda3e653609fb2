"""The papers' headline comparisons, on their layers' shapes with random masks of the published densities.

Densities of weights: Deep Compression (Han et al., ICLR 2016, tables 4 and 5). Densities of activations: Eyeriss
(Chen et al., JSSC 2017, tables V and VI). GoogLeNet's densities are 0.35 and 0.6 throughout, read off SCNN's figure 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.layer import Layer, Operator


@dataclass(frozen=True)
class Shape:
    """A layer: outputs, channels of a group, kernel, size of its plane, padding, stride, groups and densities."""

    name: str
    outputs: int
    channels: int
    kernel: int
    size: int
    pad: int
    stride: int
    groups: int
    weights: float
    activations: float

    def draw(self, rng: np.random.Generator) -> Layer:
        """The layer with random masks; all non-zeros are equal."""
        weight = rng.random((self.outputs, self.channels, self.kernel, self.kernel), np.float32) < self.weights
        x = rng.random((1, self.channels * self.groups, self.size, self.size), np.float32) < self.activations
        operator = Operator.FC if self.size == 1 else Operator.CONV
        return Layer(self.name, operator, weight.astype(np.float32), x.astype(np.float32), (self.pad,) * 4,
                     (self.stride, self.stride), (1, 1), self.groups)


def _alexnet() -> tuple[Shape, ...]:
    weights, active = (0.84, 0.38, 0.35, 0.37, 0.37), (1.0, 0.613, 0.275, 0.207, 0.224)
    shapes = ((96, 3, 11, 227, 0, 4, 1), (256, 48, 5, 27, 2, 1, 2), (384, 256, 3, 13, 1, 1, 1),
              (384, 192, 3, 13, 1, 1, 2), (256, 192, 3, 13, 1, 1, 2))
    return tuple(Shape(f"conv{i + 1}", *shape, w, a)
                 for i, (shape, w, a) in enumerate(zip(shapes, weights, active, strict=True)))


def _vgg() -> tuple[Shape, ...]:
    weights = (0.58, 0.22, 0.34, 0.36, 0.53, 0.24, 0.42, 0.32, 0.27, 0.34, 0.35, 0.29, 0.36)
    active = (0.984, 0.523, 0.752, 0.613, 0.603, 0.419, 0.413, 0.357, 0.253, 0.146, 0.206, 0.126, 0.115)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    sizes = (224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14)
    return tuple(Shape(f"conv{i + 1}", widths[i + 1], widths[i], 3, sizes[i], 1, 1, 1, w, a)
                 for i, (w, a) in enumerate(zip(weights, active, strict=True)))


INCEPTIONS = ((28, 192, 64, 96, 128, 16, 32, 32), (28, 256, 128, 128, 192, 32, 96, 64),
              (14, 480, 192, 96, 208, 16, 48, 64), (14, 512, 160, 112, 224, 24, 64, 64),
              (14, 512, 128, 128, 256, 24, 64, 64), (14, 512, 112, 144, 288, 32, 64, 64),
              (14, 528, 256, 160, 320, 32, 128, 128), (7, 832, 256, 160, 320, 32, 128, 128),
              (7, 832, 384, 192, 384, 48, 128, 128))
"""Of GoogLeNet's modules the plane, the channels, and the widths of their six convolutions (Szegedy et al. 2015)."""


def _googlenet() -> tuple[Shape, ...]:
    shapes = []
    for i, (size, channels, one, three_in, three, five_in, five, pool) in enumerate(INCEPTIONS):
        for name, outputs, inputs, kernel in (("1x1", one, channels, 1), ("3x3r", three_in, channels, 1),
                                              ("3x3", three, three_in, 3), ("5x5r", five_in, channels, 1),
                                              ("5x5", five, five_in, 5), ("pool", pool, channels, 1)):
            shapes.append(Shape(f"{i + 1}/{name}", outputs, inputs, kernel, size, kernel // 2, 1, 1, 0.35, 0.6))
    return tuple(shapes)


NETWORKS: dict[str, tuple[Shape, ...]] = {"AlexNet": _alexnet(), "GoogLeNet": _googlenet(), "VGG-16": _vgg()}
"""The convolutions of the papers' networks."""


def dense(shapes: Sequence[Shape], *, weights: bool = True, activations: bool = True) -> tuple[Shape, ...]:
    """The shapes without the zeros of one or both operands."""
    return tuple(Shape(*(s.name, s.outputs, s.channels, s.kernel, s.size, s.pad, s.stride, s.groups),
                       1.0 if weights else s.weights, 1.0 if activations else s.activations) for s in shapes)


def cycles(name: str, layers: Sequence[Layer], **given: int) -> int:
    """Cycles of an accelerator on layers."""
    accelerator = ACCELERATORS[name]
    config = accelerator.configure(given)
    return sum(accelerator.measure(layer, config).cycles for layer in layers)


def microjoules(name: str, layers: Sequence[Layer]) -> float:
    """Energy of an accelerator on layers, without DRAM's."""
    accelerator = ACCELERATORS[name]
    config = accelerator.configure({})
    return 1e-6 * sum(pj for layer in layers for part, pj in accelerator.energy(
        accelerator.measure(layer, config), accelerator.footprint(layer, config), config).items() if part != "DRAM")


def draw(shapes: Sequence[Shape], seed: int) -> list[Layer]:
    """Layers with their masks."""
    rng = np.random.default_rng(seed)
    return [shape.draw(rng) for shape in shapes]


def faster(name: str, rival: str, shapes: Sequence[Shape]) -> Callable[[int], float]:
    """How many times faster one is than another, in cycles, by seed."""
    def ratio(seed: int) -> float:
        layers = draw(shapes, seed)
        return cycles(rival, layers) / cycles(name, layers)
    return ratio


def geometric(networks: Mapping[str, Sequence[Shape]], ratio: Callable[[Sequence[Layer]], float],
              ) -> Callable[[int], float]:
    """The geometric mean of a ratio over networks, by seed."""
    return lambda seed: float(np.exp(np.mean([np.log(ratio(draw(shapes, seed))) for shapes in networks.values()])))


def gemm(rows: int, columns: int, inner: int, weights: float, activations: float) -> Layer:
    """A product of matrices as a linear layer."""
    rng = np.random.default_rng(rows + columns + inner)
    w = rng.random((rows, inner, 1, 1), np.float32) < weights
    x = rng.random((1, inner, 1, columns), np.float32) < activations
    return Layer(f"{rows} x {inner} x {columns}", Operator.FC, w.astype(np.float32), x.astype(np.float32))
