"""One layer for the accelerator: shared weights, fixed-point formats and the bias as a column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.backends.accelerators.fixed_point import FixedPoint, fitting, multiply
from sparsec.errors import FormatError, SimulationError, UsageError
from sparsec.formats import codebook as sharing
from sparsec.formats.eie import Codes

HEADROOM = 2.0  # activations may be twice as large as those seen when the formats were chosen
CODEBOOKS = {"cluster": sharing.cluster, "keep": sharing.keep}
"""How a layer gets its codebook: from k-means, or from the few values that its weights already have."""


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        name: the ONNX node's.
        kind: what the report calls it.
        codes: (outputs, inputs), with one more column where there is a bias.
        codebook: the shared weights; the first is zero.
        bias: the activation of the bias column, a power of two: 1, as in the paper, where no bias is larger than the
            largest weight; 0 where there is no bias.
        source: format of the activations.
        weight: format of the shared weights.
        destination: format of the accumulators.
        relu: whether negative results are written back as zero.
        groups: groups of outputs that share no inputs: only one block in `groups` of the matrix holds weights.

    """

    name: str
    kind: str
    codes: Codes
    codebook: NDArray[np.float32]
    bias: float
    source: FixedPoint
    weight: FixedPoint
    destination: FixedPoint
    relu: bool
    groups: int = 1

    @property
    def has_bias(self) -> bool:
        """Whether the last column is a bias."""
        return self.bias > 0


@dataclass(frozen=True)
class Ranges:
    """The largest magnitudes of a layer's activations and of its results before the activation function."""

    source: float
    destination: float


def quantize(name: str, kind: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, ranges: Ranges,
             arch: Architecture, *, codebook: str, relu: bool, groups: int = 1) -> Layer:
    """Give a layer its codebook, codes and formats.

    Raises:
        SimulationError: weights that are not finite, or more distinct ones than a codebook that is to be kept can hold.
        UsageError: `codebook` is none of `CODEBOOKS`.

    """
    if codebook not in CODEBOOKS:
        raise UsageError(f"unknown codebook '{codebook}'; choose from {', '.join(CODEBOOKS)}")
    if bias is not None and not np.isfinite(bias).all():
        raise SimulationError(f"layer '{name}': its bias has NaN or infinite values; remove them")
    try:
        shared = weight if weight.any() or bias is None else bias
        book = CODEBOOKS[codebook](shared, 1 << arch.codebook_bits)
    except FormatError as error:
        raise SimulationError(f"layer '{name}': {error}; use --codebook cluster or more --codebook-bits") from error
    codes = sharing.assign(weight, book)
    scale = 0.0
    if bias is not None and bias.any():
        scale = float(2.0 ** max(0, np.ceil(np.log2(np.abs(bias).max() / np.abs(book).max()))))
        nearest = np.abs(bias[:, None] / scale - book).argmin(axis=1)
        codes = np.column_stack((codes, nearest.astype(codes.dtype)))
    source = fitting(max(HEADROOM * ranges.source, scale), arch.value_bits)
    weights = fitting(float(np.abs(book).max()), arch.value_bits)
    results = fitting(HEADROOM * ranges.destination, arch.value_bits)
    finest = min(results.fraction, source.fraction + weights.fraction)
    return Layer(name, kind, codes, book, scale, source, weights, FixedPoint(arch.value_bits, finest), relu, groups)


def with_bias(layer: Layer, vectors: NDArray[np.int32]) -> NDArray[np.int32]:
    """The (vectors, inputs) activations and that of the bias column."""
    if not layer.has_bias:
        return vectors
    activation = layer.source.quantize(np.full((len(vectors), 1), layer.bias, np.float32))
    return np.hstack((vectors, activation.astype(vectors.dtype)))


def product(layer: Layer, vectors: NDArray[np.int32]) -> tuple[NDArray[np.float32], int]:
    """The results (outputs, vectors) in fixed point as the accelerator computes them, and the additions that saturated.

    Args:
        layer: the layer.
        vectors: (vectors, columns) activations in the layer's format, `with_bias`.

    """
    shift = layer.source.fraction + layer.weight.fraction - layer.destination.fraction
    codes, codebook = scipy.sparse.csc_array(layer.codes), layer.weight.quantize(layer.codebook)
    y, saturated = multiply(codes, codebook, vectors.T, shift, layer.destination.limit)
    return layer.destination.dequantize(np.maximum(y, 0) if layer.relu else y), saturated


def float_product(layer: Layer, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The results (outputs, vectors) of (vectors, inputs) with the shared weights in float32, for comparison."""
    weights = layer.codebook[layer.codes]
    inputs = vectors.shape[1]
    bias = layer.bias * weights[:, inputs:].sum(axis=1, keepdims=True)
    y: NDArray[np.float32] = weights[:, :inputs] @ vectors.T + bias
    return np.maximum(y, 0) if layer.relu else y
