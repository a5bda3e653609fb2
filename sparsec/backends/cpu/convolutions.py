"""The kernels for dense convolutions of images of any size, and what each is predicted to take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sparsec.backends.base import PricedConvolution
from sparsec.cost.option import Work
from sparsec.graph.sized import DENSE, WINOGRAD
from sparsec.kernels.cpu.tensors import sized_convolution, sized_winograd
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.packing.panels import panels
from sparsec.kernels.packing.winograd import panels as winograd_panels

BUILDERS = {DENSE: sized_convolution.build, WINOGRAD: sized_winograd.build}
"""By operator the function that builds its kernel."""


def offers(shape: Sequence[int], pixels: int, isa: Isa, seconds: Callable[[Work], float], *,
           strided: bool) -> list[PricedConvolution]:
    """The kernels for a weight (outputs, channels, sides …), each in the width that is predicted to be the fastest."""
    outputs, channels, *sides = shape
    length = channels * math.prod(sides)
    dense = [(seconds(sized_convolution.work(outputs, length, pixels, vectors, isa)), vectors)
             for vectors in sized_convolution.widths(outputs, length, isa)]
    winograd = [(seconds(sized_winograd.work(outputs, channels, pixels, vectors, isa)), vectors)
                for vectors in sized_winograd.widths(outputs, channels, isa)] if sides == [3, 3] and not strided else []
    found = []
    for kind, kernel, pack, priced in ((DENSE, "gemm/windows", _matrix, dense),
                                       (WINOGRAD, "gemm/winograd", winograd_panels, winograd)):
        if priced:
            time_s, vectors = min(priced)
            found.append(PricedConvolution(kind, kernel, vectors, time_s,
                                           partial(pack, lanes=isa.lanes, vectors=vectors)))
    return found


def _matrix(weight: np.ndarray, lanes: int, vectors: int) -> np.ndarray:
    """A weight (outputs, channels, sides …) as a product of windows, pixel by pixel, reads it."""
    matrix = weight.transpose(*range(2, weight.ndim), 1, 0).reshape(-1, len(weight))
    return panels(matrix, lanes, vectors)
