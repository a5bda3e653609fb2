"""A layer as every simulated accelerator sees it, and the integers that one of them computes with.

Linear layers and recurrent ones are 1x1 convolutions over an image of one row, whose pixels are the tokens or steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sparsec.backends.accelerators.fixed_point import fitting
from sparsec.graph.operators.conv import windows

Pair = tuple[int, int]


class Operator(Enum):
    """What a layer is, by the survey's names (Hoefler et al. 2021, table 1)."""

    FC = "FC"
    CONV = "Conv"
    LSTM = "LSTM"
    RNN = "RNN"


RECURRENT = frozenset({Operator.LSTM, Operator.RNN})


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with the activations of one inference.

    Attributes:
        name: the ONNX node's.
        operator: what it is.
        weight: (outputs, channels of a group, height, width).
        x: (images, channels, height, width) activations.
        pads: zeros above, left, below and right.
        strides, dilations: of the kernel.
        groups: groups of outputs that share no inputs.
        bias: (outputs,), which only designs that store it as a column read.

    """

    name: str
    operator: Operator
    weight: NDArray[np.float32]
    x: NDArray[np.float32]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    groups: int = 1
    bias: NDArray[np.float32] | None = None

    @property
    def dense_macs(self) -> int:
        """Multiply-adds with every zero."""
        return self.weight.size * len(self.x) * int(np.prod(self.out))

    @property
    def out(self) -> Pair:
        """Height and width of the result."""
        top, left, bottom, right = self.pads
        sizes = (self.x.shape[2] + top + bottom, self.x.shape[3] + left + right)
        high, wide = ((size - d * (k - 1) - 1) // s + 1 for size, k, s, d in
                      zip(sizes, self.weight.shape[2:], self.strides, self.dilations, strict=True))
        return high, wide

    def operands(self, weight_bits: int, activation_bits: int) -> Sequence[Operands]:
        """The integers of every group, in order: each operand is scaled by the finest power of two that holds it."""
        bits = weight_bits, activation_bits
        if bits not in self._operands:
            self._operands[bits] = list(self._quantized(*bits))
        return self._operands[bits]

    @cached_property
    def _operands(self) -> dict[Pair, Sequence[Operands]]:
        """By their bits, since every design asks for the same ones several times."""
        return {}

    def _quantized(self, weight_bits: int, activation_bits: int) -> Iterator[Operands]:
        w, x = (fitting(float(np.abs(a).max(initial=0)), bits).quantize(a)
                for a, bits in ((self.weight, weight_bits), (self.x, activation_bits)))
        outputs, channels = len(w) // self.groups, w.shape[1]
        for g in range(self.groups):
            yield Operands(w[g * outputs : (g + 1) * outputs], x[:, g * channels : (g + 1) * channels], self.pads,
                           self.strides, self.dilations)

    def matrix(self) -> NDArray[np.float32]:
        """(outputs, channels x height x width) the weight, groups as blocks of zeros."""
        blocks = np.split(self.weight.reshape(len(self.weight), -1), self.groups)
        return np.asarray(scipy.linalg.block_diag(*blocks), np.float32) if self.groups > 1 else blocks[0]

    def vectors(self) -> NDArray[np.float32]:
        """(positions, channels x height x width) what `matrix` is multiplied by."""
        seen = windows(self.x, self.weight.shape[2:], self.strides, self.pads, self.dilations)
        return np.moveaxis(seen, 1, 3).reshape(-1, self.matrix_width)

    @property
    def matrix_width(self) -> int:
        """Columns of `matrix`."""
        return int(np.prod(self.weight.shape[1:])) * self.groups

    def sample(self, outputs: int, channels: int, size: Pair) -> Layer:
        """A corner of the first group, to be computed step by step."""
        return replace(self, weight=self.weight[:outputs, :channels], groups=1,
                       bias=None if self.bias is None else self.bias[:outputs],
                       x=self.x[:1, : min(channels, self.weight.shape[1]), : size[0], : size[1]])


@dataclass(frozen=True, eq=False)
class Operands:
    """One group of a layer in an accelerator's numbers.

    Attributes:
        weight: (outputs, channels, height, width) integers.
        x: (images, channels, height, width) integers, without the padding.
        pads, strides, dilations: as in `Layer`.

    """

    weight: NDArray[np.int32]
    x: NDArray[np.int32]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)

    @cached_property
    def windows(self) -> NDArray[np.int32]:
        """(images, out height, out width, height, width, channels): what the kernel sees, a view."""
        seen = windows(self.x, self.weight.shape[2:], self.strides, self.pads, self.dilations)
        return np.moveaxis(seen, 1, -1)

    @cached_property
    def vectors(self) -> NDArray[np.int32]:
        """(positions, height x width x channels): the windows as rows, channels innermost."""
        return self.windows.reshape(-1, self.weight[0].size)

    @cached_property
    def filters(self) -> NDArray[np.int32]:
        """(outputs, height x width x channels): the weights in the order of `vectors`."""
        return np.moveaxis(self.weight, 1, -1).reshape(len(self.weight), -1)

    @property
    def pixels(self) -> NDArray[np.int32]:
        """(images x height x width, channels): the activations as they are, without padding."""
        return np.moveaxis(self.x, 1, -1).reshape(-1, self.x.shape[1])

    @cached_property
    def useful(self) -> int:
        """Products of two non-zeros."""
        return int(np.count_nonzero(self.filters, axis=0) @ np.count_nonzero(self.vectors, axis=0))

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Outputs and positions: the shape of the result."""
        return len(self.weight), len(self.x) * int(np.prod(self.windows.shape[1:3]))

    def reference(self) -> NDArray[np.int64]:
        """(outputs, positions) the exact result; it fits float64, in which it is computed."""
        return (self.filters.astype(np.float64) @ self.vectors.T).astype(np.int64)

    def unstrided(self) -> Operands:
        """The same product without strides and dilations: a channel for every phase of a stride, zeros between taps."""
        if self.strides == (1, 1) and self.dilations == (1, 1):
            return self
        (sy, sx), (dy, dx) = self.strides, self.dilations
        outputs, channels, high, wide = self.weight.shape
        w = np.zeros((outputs, channels, dy * (high - 1) + 1, dx * (wide - 1) + 1), np.int32)
        w[:, :, ::dy, ::dx] = self.weight
        top, left, bottom, right = self.pads
        x = np.pad(self.x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        rows, columns = self.windows.shape[1:3]
        w = np.pad(w, ((0, 0), (0, 0), (0, -w.shape[2] % sy), (0, -w.shape[3] % sx)))
        rows, columns = (rows - 1) * sy + w.shape[2], (columns - 1) * sx + w.shape[3]
        x = np.pad(x, ((0, 0), (0, 0), (0, max(0, rows - x.shape[2])), (0, max(0, columns - x.shape[3]))))
        return Operands(_phases(w, sy, sx), _phases(x[:, :, :rows, :columns], sy, sx))


def _phases(x: NDArray[np.int32], sy: int, sx: int) -> NDArray[np.int32]:
    """(images, channels x sy x sx, height / sy, width / sx) of (images, channels, height, width)."""
    images, channels, high, wide = x.shape
    parts = x.reshape(images, channels, high // sy, sy, wide // sx, sx)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(images, channels * sy * sx, high // sy, wide // sx)
