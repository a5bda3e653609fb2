"""The kernel families for convolutions of plain images."""

from __future__ import annotations

from typing import Any

from sparsec.kernels.cpu.images import stem
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.family import Family

FAMILIES: dict[str, Family[Any, Any, Isa]] = {family.name: family for family in (
    stem.FAMILY,
)}
