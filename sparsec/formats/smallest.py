"""The smallest storage of a weight."""

from __future__ import annotations

import numpy as np

from sparsec.formats import FORMATS
from sparsec.formats.codecs import CODECS, Codec
from sparsec.formats.storage import Encoded, as_matrix, matrix_shape

ROWS = 16
"""Rows that a sample takes together: a multiple of those of every format's blocks."""
LARGE = 1 << 18
"""Elements of a sample; weights of at least twice as many are sampled."""


def smallest(weight: np.ndarray, codec: Codec = CODECS["f32"]) -> Encoded:
    """The weight in the format that takes the fewest bytes.

    Formats are tried in the order of the bits that their non-zeros take at least; one whose least exceeds what another
    takes is not tried.

    Raises:
        FormatError: the codec rejects the weight.

    """
    matrix, shape = as_matrix(weight), matrix_shape(np.shape(weight))
    best = FORMATS["dense"].encode(weight, codec)
    codes, tables = codec.quantize(matrix)
    nonzeros = int(np.count_nonzero(codes))
    least = {name: form.analytic_bits(nonzeros, shape, codec.bits) for name, form in FORMATS.items()}
    for name in sorted(least, key=least.__getitem__):
        if least[name] / 8 < best.nbytes and FORMATS[name].reject(codes) is None:
            tried = FORMATS[name].store(codes, tables, codec, np.shape(weight))
            best = tried if tried.nbytes < best.nbytes else best
    return best


def likely_smallest(weight: np.ndarray, codec: Codec = CODECS["f32"], large: int = LARGE) -> Encoded:
    """The weight in the format that is the smallest for some of its rows: `smallest` in a fraction of the time.

    The sample is of `large` elements in groups of `ROWS` rows, evenly spread. Weights without as many, and those that
    the sample's format rejects, get the smallest format of all.

    Raises:
        FormatError: the codec rejects the weight.

    """
    matrix = as_matrix(weight)
    step = matrix.size // large
    if step < 2 or len(matrix) < 2 * ROWS * step:
        return smallest(weight, codec)
    whole = matrix[:len(matrix) // ROWS * ROWS].reshape(-1, ROWS, matrix.shape[1])
    form = smallest(whole[::step].reshape(-1, matrix.shape[1]), codec).format
    return form.encode(weight, codec) if form.reject(matrix) is None else smallest(weight, codec)
