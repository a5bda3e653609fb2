"""The layers of the papers' networks with the densities of their weights and activations, as published.

AlexNet, GoogLeNet and VGG-16 have the densities that SCNN's authors measured on Deep Compression's weights: figure 1 of
their paper (Parashar et al., ISCA 2017), whose numbers come with the CNN layers of NVIDIA's Timeloop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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


Network = tuple[Shape, ...]


def dense(shapes: Network, *, weights: bool = True, activations: bool = True) -> Network:
    """The shapes without the zeros of one or both operands."""
    return tuple(replace(shape, weights=1.0 if weights else shape.weights,
                         activations=1.0 if activations else shape.activations) for shape in shapes)


def _alexnet() -> Network:
    weights, active = (0.84, 0.38, 0.35, 0.37, 0.37), (1.0, 0.94, 0.53, 0.39, 0.43)
    shapes = ((96, 3, 11, 227, 0, 4, 1), (256, 48, 5, 27, 2, 1, 2), (384, 256, 3, 13, 1, 1, 1),
              (384, 192, 3, 13, 1, 1, 2), (256, 192, 3, 13, 1, 1, 2))
    return tuple(Shape(f"conv{i + 1}", *shape, w, a)
                 for i, (shape, w, a) in enumerate(zip(shapes, weights, active, strict=True)))


def _vgg() -> Network:
    weights = (0.57, 0.22, 0.34, 0.35, 0.53, 0.24, 0.42, 0.32, 0.27, 0.34, 0.35, 0.29, 0.36)
    active = (1.0, 0.51, 0.90, 0.79, 0.81, 0.64, 0.69, 0.71, 0.50, 0.45, 0.39, 0.33, 0.31)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    sizes = (224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14)
    return tuple(Shape(f"conv{i + 1}", widths[i + 1], widths[i], 3, sizes[i], 1, 1, 1, w, a)
                 for i, (w, a) in enumerate(zip(weights, active, strict=True)))


INCEPTIONS = {
    "3a": ((28, 192), (64, 96, 128, 16, 32, 32), (38, 41, 45, 36, 34, 46), (71, 71, 66, 71, 77, 96)),
    "3b": ((28, 256), (128, 128, 192, 32, 96, 64), (41, 46, 49, 38, 46, 46), (53, 53, 52, 53, 65, 87)),
    "4a": ((14, 480), (192, 96, 208, 16, 48, 64), (45, 45, 48, 42, 46, 48), (55, 55, 62, 55, 76, 87)),
    "4b": ((14, 512), (160, 112, 224, 24, 64, 64), (35, 34, 41, 35, 42, 40), (22, 22, 72, 22, 79, 56)),
    "4c": ((14, 512), (128, 128, 256, 24, 64, 64), (37, 39, 42, 36, 40, 41), (51, 51, 57, 51, 65, 82)),
    "4d": ((14, 512), (112, 144, 288, 32, 64, 64), (38, 41, 43, 39, 43, 40), (43, 43, 44, 43, 64, 75)),
    "4e": ((14, 528), (256, 160, 320, 32, 128, 128), (34, 40, 37, 37, 42, 39), (25, 25, 64, 25, 81, 54)),
    "5a": ((7, 832), (256, 160, 320, 32, 128, 128), (31, 33, 36, 31, 36, 33), (50, 50, 57, 50, 69, 80)),
    "5b": ((7, 832), (384, 192, 384, 48, 128, 128), (32, 33, 37, 33, 35, 31), (31, 31, 30, 31, 46, 57)),
}
"""Of GoogLeNet's modules the plane and channels, the widths of their six convolutions (Szegedy et al. 2015), and the
densities of their weights and of what they read, in per cent."""


def _googlenet() -> Network:
    shapes = []
    for module, ((size, channels), widths, weights, active) in INCEPTIONS.items():
        one, three_in, three, five_in, five, pool = widths
        for (name, outputs, inputs, kernel), w, a in zip((
                ("1x1", one, channels, 1), ("3x3r", three_in, channels, 1), ("3x3", three, three_in, 3),
                ("5x5r", five_in, channels, 1), ("5x5", five, five_in, 5), ("pool", pool, channels, 1),
                ), weights, active, strict=True):
            shapes.append(Shape(f"{module}/{name}", outputs, inputs, kernel, size, kernel // 2, 1, 1, w / 100, a / 100))
    return tuple(shapes)


ALEXNET, GOOGLENET, VGG = _alexnet(), _googlenet(), _vgg()
"""The convolutions of three networks."""



def linear(name: str, outputs: int, inputs: int, weights: float, activations: float = 1.0) -> Shape:
    """A linear layer on one vector."""
    return Shape(name, outputs, inputs, 1, 1, 0, 1, 1, weights, activations)


ALEXNET_LINEAR = (linear("fc6", 4096, 9216, 0.09, 0.351), linear("fc7", 4096, 4096, 0.09, 0.353),
                  linear("fc8", 1000, 4096, 0.25, 0.375))
"""Its linear layers (Han et al., ISCA 2016, table III)."""

LENET = (Shape("conv1", 20, 1, 5, 28, 0, 1, 1, 0.66, 1.0), Shape("conv2", 50, 20, 5, 12, 0, 1, 1, 0.12, 1.0),
         linear("ip1", 500, 800, 0.08), linear("ip2", 10, 500, 0.19))
"""LeNet-5 with the weights of Deep Compression (Han et al., ICLR 2016, table 3)."""

MEASURED_BY_EYERISS = {"AlexNet": (1.0, 0.613, 0.275, 0.207, 0.224), "VGG-16": (
    0.984, 0.523, 0.752, 0.613, 0.603, 0.419, 0.413, 0.357, 0.253, 0.146, 0.206, 0.126, 0.115)}
"""What Eyeriss measured of the same networks' activations (Chen et al., JSSC 2017, tables V and VI): fewer."""


def with_activations(shapes: Network, densities: Sequence[float]) -> Network:
    """The shapes with other densities of what they read."""
    return tuple(replace(shape, activations=a) for shape, a in zip(shapes, densities, strict=True))


BLOCKS = ((16, 32, 64, 1), (32, 64, 64, 2), (64, 64, 32, 1), (64, 128, 32, 2), (128, 128, 16, 1), (128, 256, 16, 2),
          *[(256, 256, 8, 1)] * 5, (256, 512, 8, 2), (512, 512, 4, 1))
"""Of MobileNet's blocks channels in and out, plane and stride: width 0.5, 128 x 128 (Howard et al. 2017)."""

POINTWISE = ((0.47, 0.47), (0.65, 0.65), (0.52, 0.73), (0.82, 0.86), (0.77, 0.77), (0.64, 0.83), (0.73, 0.73),
             (0.72, 0.72), (0.55, 0.61), (0.60, 0.64), (0.70, 0.61), (0.65, 0.68), (0.30, 0.58))
"""Of the pointwise layers of Eyeriss v2's sparse MobileNet the densities of weights and activations, which come with
Sparseloop (Wu et al., MICRO 2022, figure 12). Where it gives the products alone, as cycles of one element (blocks 1,
2, 5, 7 and 8, and the last layer), both are the root of their share."""


def mobilenet(*, pruned: bool) -> Network:
    """MobileNet's layers, dense or pruned; the first layer and the depthwise ones keep all."""
    shapes = [Shape("conv", 16, 3, 3, 128, 1, 2, 1, 1.0, 1.0)]
    for i, ((inputs, outputs, size, stride), (w, a)) in enumerate(zip(BLOCKS, POINTWISE, strict=True)):
        shapes += [Shape(f"{i + 1}/depthwise", inputs, 1, 3, size, 1, stride, inputs, 1.0, 1.0),
                   Shape(f"{i + 1}/pointwise", outputs, inputs, 1, size // stride, 0, 1, 1, w if pruned else 1.0, a)]
    return (*shapes, Shape("fc", 1000, 512, 1, 1, 0, 1, 1, 0.43 if pruned else 1.0, 0.43))


PRODUCTS = ((128, 2048, 4096), (320, 3072, 4096), (1632, 36548, 1024), (2048, 4096, 32), (16, 1024, 50000),
            (35, 8457, 2560), (31999, 1024, 84), (84, 1024, 4096), (2048, 1, 128), (256, 256, 2048))
"""Rows of the matrix that stays, columns of the one that streams, and their inner size: the products of networks that
translate, recognise speech and recommend in SIGMA's figure 12 (an inner size of 500,000 is cut to a tenth)."""
