"""Storage formats by name; those with parameters at the sizes that are worth trying."""

from __future__ import annotations

from sparsec.formats.bcsr import Bcsr
from sparsec.formats.bitmap import Bitmap
from sparsec.formats.block_balanced import BlockBalanced
from sparsec.formats.codecs import CODECS
from sparsec.formats.coo import Coo
from sparsec.formats.csc import Csc
from sparsec.formats.csr import Csr
from sparsec.formats.delta import Delta
from sparsec.formats.delta_padded import DeltaPadded
from sparsec.formats.dense import Dense
from sparsec.formats.gaps import Gaps
from sparsec.formats.nm import NM
from sparsec.formats.storage import Encoded, Format
from sparsec.formats.strided import Strided
from sparsec.formats.well import Well

FORMATS: dict[str, Format] = {each.name: each for each in (
    Dense(), Bitmap(), Coo(), Delta(), DeltaPadded(3), DeltaPadded(4), DeltaPadded(5), DeltaPadded(8), Gaps(), Csr(),
    Csc(), Bcsr(2, 1), Bcsr(4, 1), Bcsr(8, 1), Bcsr(1, 4), Bcsr(2, 2), Bcsr(4, 4), Bcsr(16, 16), NM(1, 4), NM(2, 4),
    NM(4, 8), BlockBalanced(), Strided(), Well())}

__all__ = ["CODECS", "FORMATS", "NM", "Bcsr", "Bitmap", "BlockBalanced", "Coo", "Csc", "Csr", "Delta", "DeltaPadded",
           "Dense", "Encoded", "Format", "Gaps", "Strided", "Well"]

