"""Any weight by warp groups: the packing of `mma_dense.py`, the instruction of `wgmma.py`."""

from __future__ import annotations

from typing import Any

from sparsec.kernels.cuda import mma_dense, pipeline, ptx, wgmma
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.fragments import FRAGMENT_BYTES
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
    return wgmma.build(params, _weight(params))


def _weight(p: MmaParams) -> pipeline.Weight:
    return wgmma.weight(mma_dense.weight(p), _multiply)


def _multiply(b: Block, base: Any, activations: Any, sums: Any) -> None:
    count = 2 * b.params.tile_steps  # fragments of the warp's rows, one after another
    values = ptx.registers(count * 4)
    for number in range(count):
        fragment = b.warp_row * count + number
        ptx.load_words(values, number * 4, 4, b.shared, base + fragment * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)
    wgmma.multiply(b, sums, values, activations)
