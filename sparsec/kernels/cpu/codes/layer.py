"""A quantised convolution or linear layer on codes, as the product kernels on unsigned bytes take it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.codes.finish import Finish, Quantized
from sparsec.kernels.cpu.codes.rows_image import ImageRows
from sparsec.kernels.cpu.codes.walk import masks
from sparsec.kernels.cpu.layer import Activations, CpuProduct
from sparsec.kernels.cpu.products.stencil import Stencil
from sparsec.kernels.emit.codes import SIDES
from sparsec.kernels.emit.isa import Isa


@dataclass(frozen=True, eq=False)
class CodesProduct(CpuProduct):
    """A weight (outputs, channels * taps) of int8, less its zero points, with its geometry.

    Attributes:
        bias: what the integer sums over codes start from (outputs,); `numbers` have it, too.
        stencil: the geometry.
        finish: what follows the sums, and
        numbers: its constants.
        target: layout of the output where it is an image.
        image: the convolution where its images are so small that their pixels may be rows.

    """

    stencil: Stencil
    finish: Finish
    numbers: Quantized = field(repr=False)
    target: PaddedFlat | None = None
    image: ImageRows | None = None

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The numbers that follow the sums, and the masks of the pixels where those between them have to be cleared."""
        clean = masks(self.target) if self.target is not None and self.target.clean else []
        return (*self.numbers.arrays(self.finish), *clean)

    @property
    def inputs(self) -> tuple[Activations, ...]:
        """Codes, their scale and zero point where those are known at run time only, and the residual."""
        sizes = self.finish.inputs(self.stencil.x_size, self.stencil.y_size)
        return tuple(Activations(size or 0, dtype) for size, dtype in sizes.values())

    @property
    def output(self) -> Activations:
        """Y: its elements, junk and padding included, and their type."""
        return Activations(self.stencil.y_size, self.finish.dtype)

    def ends(self, isa: Isa) -> Activations | None:
        """What the kernel keeps of the range of Y."""
        return Activations(isa.threads * SIDES * isa.lanes) if self.finish.coded else None


def integer_product(weight: np.ndarray, codes: np.ndarray, _params: object) -> np.ndarray:
    """The exact sums (outputs, n) of a weight and codes (channels * taps, n)."""
    product: np.ndarray = weight.astype(np.int64) @ codes.astype(np.int64)
    return product
