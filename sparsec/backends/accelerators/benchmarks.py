"""The papers' headline comparisons, on their layers' shapes with random masks of the published densities.

Densities of weights: Deep Compression (Han et al., ICLR 2016, tables 4 and 5). Densities of activations: Eyeriss
(Chen et al., JSSC 2017, tables V and VI). GoogLeNet's are 0.35 and 0.6 throughout, about the means of SCNN's figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    return tuple(replace(shape, weights=1.0 if weights else shape.weights,
                         activations=1.0 if activations else shape.activations) for shape in shapes)


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


def blocked(shape: Shape, rng: np.random.Generator, size: int = 16) -> Layer:
    """A layer pruned in blocks of that many outputs, as Cambricon-S prunes; a rest of outputs is pruned singly."""
    layer = shape.draw(rng)
    whole = shape.outputs // size
    mask = np.repeat(rng.random((whole, *layer.weight.shape[1:]), np.float32) < shape.weights, size, axis=0)
    weight = np.concatenate((mask.astype(np.float32), layer.weight[whole * size :]))
    return replace(layer, weight=weight)


def lstm(density: float, rng: np.random.Generator, *, balanced: bool, elements: int = 32, steps: int = 4) -> Layer:
    """ESE's layer: 1,024 cells on 153 inputs and 512 projected states; balanced, each element keeps equally many."""
    weight = np.zeros((4096, 153 + 512), np.float32)
    for element in range(elements):
        part = weight[element::elements]
        kept = rng.random(part.shape, np.float32) < density
        if balanced:
            kept = rng.permutation(part.size).reshape(part.shape) < round(density * part.size)
        weight[element::elements] = kept
    return Layer("lstm", Operator.LSTM, weight[:, :, None, None], np.ones((1, weight.shape[1], 1, steps), np.float32))


def gemm(rows: int, columns: int, inner: int, weights: float, activations: float, rng: np.random.Generator) -> Layer:
    """A product of matrices as a linear layer."""
    w = rng.random((rows, inner, 1, 1), np.float32) < weights
    x = rng.random((1, inner, 1, columns), np.float32) < activations
    return Layer(f"{rows} x {inner} x {columns}", Operator.FC, w.astype(np.float32), x.astype(np.float32))


LINEAR = (Shape("fc6", 4096, 9216, 1, 1, 0, 1, 1, 0.09, 0.351), Shape("fc7", 4096, 4096, 1, 1, 0, 1, 1, 0.09, 0.353),
          Shape("fc8", 1000, 4096, 1, 1, 0, 1, 1, 0.25, 0.375))
"""AlexNet's linear layers (Han et al., ISCA 2016, table III)."""

BLOCKS = ((16, 32, 64, 1), (32, 64, 64, 2), (64, 64, 32, 1), (64, 128, 32, 2), (128, 128, 16, 1), (128, 256, 16, 2),
          *[(256, 256, 8, 1)] * 5, (256, 512, 8, 2), (512, 512, 4, 1))
"""Of MobileNet's blocks channels in and out, plane and stride: width 0.5, 128 x 128 (Howard et al. 2017)."""


def mobilenet(weights: float, activations: float) -> tuple[Shape, ...]:
    """MobileNet's layers; the first and the depthwise ones keep all weights."""
    shapes = [Shape("conv", 16, 3, 3, 128, 1, 2, 1, 1.0, 1.0)]
    for i, (inputs, outputs, size, stride) in enumerate(BLOCKS):
        shapes += [Shape(f"{i + 1}/depthwise", inputs, 1, 3, size, 1, stride, inputs, 1.0, activations),
                   Shape(f"{i + 1}/pointwise", outputs, inputs, 1, size // stride, 0, 1, 1, weights, activations)]
    return (*shapes, Shape("fc", 1000, 512, 1, 1, 0, 1, 1, weights, activations))


PRODUCTS = ((128, 2048, 4096), (1024, 16, 4096), (320, 3072, 4096), (1632, 1024, 1024), (2048, 32, 4096),
            (35, 2560, 8457), (84, 1024, 4096), (2048, 1, 128), (256, 2048, 256))
"""Rows, columns and inner size of products in recurrent, recommending and translating networks, as in SIGMA's figure 1;
the largest are left out."""
