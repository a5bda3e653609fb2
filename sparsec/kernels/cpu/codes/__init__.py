"""The kernel families for products of codes: quantised convolutions and linear layers."""

from __future__ import annotations

from sparsec.kernels.cpu.codes import dense, dense_amx, dense_outputs, rows_dense, rows_well, sparse
from sparsec.kernels.cpu.layer import CpuFamily

FAMILIES: dict[str, CpuFamily] = {family.name: family for family in (
    dense.FAMILY,
    dense_outputs.FAMILY,
    dense_amx.FAMILY,
    sparse.FAMILY,
    rows_dense.FAMILY,
    rows_well.FAMILY,
    rows_dense.IMAGE_FAMILY,
    rows_well.IMAGE_FAMILY,
)}
