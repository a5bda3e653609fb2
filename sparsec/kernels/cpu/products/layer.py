"""A linear layer or convolution over tiles of pixels or tokens, as the product kernels take it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.images.depthwise import DepthwiseParams
from sparsec.kernels.cpu.layer import Activations, CpuProduct
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.ranges import Ranges


@dataclass(frozen=True, eq=False)
class Behind:
    """A depthwise convolution that alone reads a product's output: a kernel may compute both.

    Attributes:
        params: window and epilogue.
        weight: as `images.depthwise.pack` has it.
        bias: (channels,).

    """

    params: DepthwiseParams
    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class StencilProduct(CpuProduct):
    """A weight (outputs, channels * taps) with its geometry.

    Attributes:
        stencil: the geometry.
        epilogue: what follows.
        target: layout of the output where it is an image.
        ranges: of the input, where scales of 8-bit integers are static.
        groups: of a grouped convolution, blocks on the diagonal of the weight beside which all is zero.
        behind: the depthwise convolution behind, which a kernel may compute as well.
        joined: a kernel does, so that it takes its arrays and writes its output.

    """

    stencil: Stencil
    epilogue: Epilogue
    target: PaddedFlat | None = None
    ranges: Ranges | None = field(default=None, repr=False)
    groups: int = 1
    behind: Behind | None = None
    joined: bool = False

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The bias, and the mask of the pixels where junk between them has to be cleared; of joined layers both's."""
        if self.joined and self.behind is not None:
            return self.behind.weight, self.behind.bias, self.bias
        if self.target is None or not self.target.clean:
            return (self.bias,)
        return self.bias, pixel_mask(self.target)

    @property
    def inputs(self) -> tuple[Activations, ...]:
        """X, and the residual."""
        x = Activations(self.stencil.x_size)
        return (x, self.output) if self.epilogue.residual else (x,)

    @property
    def output(self) -> Activations:
        """Y."""
        if self.joined and self.behind is not None:
            return Activations(self.behind.params.window.target.size)
        return Activations(self.stencil.y_size)


def pixel_mask(layout: PaddedFlat) -> np.ndarray:
    """The integer mask (-1 keeps, 0 clears) of a layout's pixels among its vectors, int32."""
    position = np.arange(layout.vectors * layout.lanes)
    row, column = position // layout.row_stride, position % layout.row_stride
    keep = (column < layout.width) & (row % layout.pitch < layout.height) & (row < layout.rows)
    return -keep.astype(np.int32)


def nonzero_blocks(weight: np.ndarray, block: int) -> int:
    """Blocks of `block` rows and one column that are not zero."""
    return int(np.count_nonzero((weight.reshape(-1, block, weight.shape[1]) != 0).any(axis=1)))
