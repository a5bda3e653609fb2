"""Weight sharing: a code is an index into a codebook of k-means centres, see `formats.codebook`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.formats import codebook
from sparsec.formats.bits import Stream, Symbols, pack, unpack
from sparsec.formats.codecs.base import Codec, not_finite


@dataclass(frozen=True)
class Codebook(Codec):
    """Indices of `index_bits` bits, 2 to 8."""

    index_bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.index_bits <= 8:
            raise FormatError(f"codebook: {self.index_bits} bits; 2 to 8 are possible")

    @property
    def name(self) -> str:
        """The name with the bits."""
        return f"codebook{self.index_bits}"

    @property
    def bits(self) -> int:
        """Bits of an index into the codebook."""
        return self.index_bits

    def reject(self, weight: np.ndarray) -> str | None:
        """NaN and infinity are refused: they have no mean."""
        return not_finite(np.asarray(weight).astype(np.float32))

    def quantize(self, weight: np.ndarray) -> tuple[Symbols, dict[str, Stream]]:
        """The indices, and the table "codebook"."""
        values = np.asarray(weight).astype(np.float32)
        book = codebook.cluster(values.ravel(), 1 << self.index_bits)
        return codebook.assign(values, book), {"codebook": pack(book.view(np.uint32), 32)}

    def restore(self, codes: Symbols, tables: Mapping[str, Stream]) -> np.ndarray:
        """The codebook's entries at the codes, float32 (rows, columns)."""
        return unpack(tables["codebook"]).view(np.float32)[codes]
