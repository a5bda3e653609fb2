"""Any weight by warp groups: the packing of `mma_dense.py`, the instruction of `wgmma.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparsec.errors import FormatError
from sparsec.kernels.cuda import mma_dense, pipeline, ptx, wgmma
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.fragments import COLUMN_BYTES, FRAGMENT_BYTES
from sparsec.kernels.cuda.mma_dense import arguments, pack, unpack
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams
from sparsec.kernels.cuda.wgmma import reject

__all__ = ["arguments", "build", "pack", "reject", "shared_bytes", "unpack"]


def shared_bytes(p: MmaParams) -> int:
    """Bytes of shared memory that a block takes."""
    return pipeline.shared_bytes(p, _weight(p).stage_bytes)


def build(params: MmaParams) -> Any:
    """The kernel, with the arguments of `mma_dense.build`.

    Raises:
        FormatError: warp groups do not compute the product.

    """
    if reason := reject(params):
        raise FormatError(f"no kernel of warp groups for {params}: {reason}")
    return pipeline.build(params, _weight(params))


def _weight(p: MmaParams) -> pipeline.Weight:
    warps = mma_dense.weight(p)
    return replace(warps, stage_bytes=wgmma.aligned(warps.stage_bytes), multiply=_multiply, publish=wgmma.publish)


def _multiply(b: Block, base: Any, activations: Any, sums: Any) -> None:
    count = 2 * b.params.tile_steps  # fragments of the warp's rows, one after another
    values = ptx.registers(count * 4)
    for number in range(count):
        fragment = b.warp_row * count + number
        ptx.load_words(values, number * 4, 4, b.shared, base + fragment * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)
    wgmma.begin()
    for number in range(count):
        left = [values[number * 4 + i] for i in range(4)]
        wgmma.multiply(b, sums, left, activations, number * COLUMN_BYTES)
    wgmma.end()
