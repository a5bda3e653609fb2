"""The kernel families for tensor cores, by name; of options that are predicted to take the same time the first wins."""

from __future__ import annotations

from typing import Any

from sparsec.kernels.cuda import bitmap, blocks, cublaslt, eight_bits, gaps, mma_dense, mma_sp, rest, wgmma, wgmma_bulk
from sparsec.kernels.cuda.family import GpuFamily

GENERATED: dict[str, GpuFamily[Any]] = {family.name: family for family in (
    mma_sp.FAMILY,
    wgmma.SPARSE,
    wgmma_bulk.SPARSE,
    gaps.FAMILY,
    gaps.CODES,
    bitmap.FAMILY,
    blocks.FAMILY,
    wgmma.BLOCKS,
    rest.FAMILY,
    eight_bits.SPARSE_INT8,
    eight_bits.SPARSE_FP8,
    eight_bits.SPARSE_GROUPS_INT8,
    eight_bits.SPARSE_GROUPS_FP8,
    eight_bits.SPARSE_BULK_INT8,
    eight_bits.SPARSE_BULK_FP8,
    mma_dense.FAMILY,
    wgmma.DENSE,
    wgmma_bulk.DENSE,
    eight_bits.DENSE_INT8,
    eight_bits.DENSE_FP8,
    eight_bits.GROUPS_INT8,
    eight_bits.GROUPS_FP8,
    eight_bits.BULK_INT8,
    eight_bits.BULK_FP8,
)}
"""Those whose kernels sparsec generates."""

FAMILIES = GENERATED | {cublaslt.FAMILY.name: cublaslt.FAMILY}
