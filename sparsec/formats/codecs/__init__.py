"""Value codecs by name."""

from __future__ import annotations

from sparsec.formats.codecs.base import Codec
from sparsec.formats.codecs.floats import DTYPES, Float
from sparsec.formats.codecs.int4 import Int4
from sparsec.formats.codecs.int8 import Int8
from sparsec.formats.codecs.seed import Seed
from sparsec.formats.codecs.shared import Codebook

CODECS: dict[str, Codec] = {
    each.name: each for each in (
        *map(Float, DTYPES), Int8(), Int4(), *(Codebook(bits) for bits in range(2, 9)), Seed())}

__all__ = ["CODECS", "Codebook", "Codec", "Float", "Int4", "Int8", "Seed"]
