"""The kernel families for linear layers over tiles of tokens and for convolutions."""

from __future__ import annotations

from sparsec.kernels.cpu.layer import CpuFamily
from sparsec.kernels.cpu.products import (
    dense,
    dense_amx,
    dense_bf16,
    dense_groups,
    dense_outputs,
    spmm,
    spmm_bf16,
    spmm_compact,
    spmm_int8,
    spmm_matched,
    spmm_pairs,
    spmm_shifted,
    winograd,
)

FAMILIES: dict[str, CpuFamily] = {family.name: family for family in (
    dense.FAMILY,
    dense_outputs.FAMILY,
    dense_groups.FAMILY,
    winograd.FAMILY,
    spmm.FAMILY,
    spmm_pairs.FAMILY,
    spmm_matched.FAMILY,
    spmm_compact.FAMILY,
    spmm_shifted.FAMILY,
    spmm_bf16.FAMILY,
    dense_bf16.FAMILY,
    dense_amx.FAMILY,
    spmm_int8.FAMILY,
)}
