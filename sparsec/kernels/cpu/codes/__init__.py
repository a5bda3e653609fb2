"""The kernel families for products of codes: quantised convolutions and linear layers."""

from __future__ import annotations

from typing import Any

from sparsec.kernels.cpu.codes import dense, sparse
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.family import Family

FAMILIES: dict[str, Family[Any, Any, Isa]] = {family.name: family for family in (
    dense.FAMILY,
    sparse.FAMILY,
)}
