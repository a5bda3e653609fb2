"""The smallest storage of a weight."""

from __future__ import annotations

import numpy as np

from sparsec.formats import FORMATS
from sparsec.formats.codecs import CODECS, Codec
from sparsec.formats.storage import Encoded, as_matrix, matrix_shape


def smallest(weight: np.ndarray, codec: Codec = CODECS["f32"]) -> Encoded:
    """The weight in the format that takes the fewest bytes.

    Formats are tried in the order of the bits that their non-zeros take at least; one whose least exceeds what another
    takes is not tried.

    Raises:
        FormatError: the codec rejects the weight.

    """
    matrix, shape = as_matrix(weight), matrix_shape(np.shape(weight))
    nonzeros = int(np.count_nonzero(matrix))
    least = {name: form.analytic_bits(nonzeros, shape, codec.bits) for name, form in FORMATS.items()}
    best = FORMATS["dense"].encode(weight, codec)
    codes, tables = codec.quantize(matrix)
    for name in sorted(least, key=least.__getitem__):
        if least[name] / 8 < best.nbytes and FORMATS[name].reject(matrix) is None:
            tried = FORMATS[name].store(codes, tables, codec, np.shape(weight))
            best = tried if tried.nbytes < best.nbytes else best
    return best
