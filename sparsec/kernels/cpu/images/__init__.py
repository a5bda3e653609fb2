"""The kernel families for convolutions of plain images."""

from __future__ import annotations

from sparsec.kernels.cpu.images import stem, stem_filtering
from sparsec.kernels.cpu.layer import CpuFamily

FAMILIES: dict[str, CpuFamily] = {family.name: family for family in (
    stem.FAMILY, stem_filtering.FAMILY,
)}
