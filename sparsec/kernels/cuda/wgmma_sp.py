"""2:4 weights by warp groups: the packing of `mma_sp.py`, the sparse instruction of `wgmma.py`."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import mma_sp, pipeline, ptx, wgmma
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.fragments import FRAGMENT_BYTES
from sparsec.kernels.cuda.mma_sp import WORDS_BYTES, arguments, pack, unpack
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams
from sparsec.kernels.cuda.wgmma import reject

__all__ = ["arguments", "build", "pack", "reject", "shared_bytes", "unpack"]


def shared_bytes(p: MmaParams) -> int:
    """Bytes of shared memory that a block takes."""
    return pipeline.shared_bytes(p, _weight(p).stage_bytes)


def build(params: MmaParams) -> Any:
    """The kernel, with the arguments of `mma_sp.build`.

    Raises:
        FormatError: warp groups do not compute the product.

    """
    return wgmma.build(params, _weight(params))


def _weight(p: MmaParams) -> pipeline.Weight:
    return wgmma.weight(mma_sp.weight(p), _multiply)


def _multiply(b: Block, base: Any, activations: Any, sums: Any) -> None:
    p = b.params
    values, words = ptx.registers(p.tile_steps * 4), ptx.registers(p.tile_steps)
    # All warps of a group name the same selector, 0; those with an odd block of rows read its lanes from selector 1's.
    lane = T.Bind(b.lane // 4 * 4 + b.lane % 2 + b.warp_row % 2 * 2)
    for step in range(p.tile_steps):
        fragment, word = b.warp_row * p.tile_steps + step, b.warp_row // 2 * p.tile_steps + step
        ptx.load_words(values, step * 4, 4, b.shared, base + fragment * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)
        ptx.load_words(words, step, 1, b.shared, base + mma_sp.values_bytes(p) + word * WORDS_BYTES + lane * 4)
    wgmma.multiply(b, sums, values, activations, words)
