"""Any weight on the tensor cores: `mma` on prepacked fragments, so that dense is always a candidate.

`values` are fragments of the weight (`fragments.py`), padded with zeros to whole steps of K, two fragments each, and
pairs of row blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import fragments, pipeline, ptx
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.codes import E4M3
from sparsec.kernels.cuda.family import by_shape, family, product_params
from sparsec.kernels.cuda.fragments import FRAGMENT_BYTES
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams
from sparsec.kernels.cuda.staging import copy_steps
from sparsec.kernels.emit.tir import Buffer, Expr

INSTRUCTIONS = {
    "float16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "bfloat16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "int8": "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
    "uint8": "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32",
    E4M3: "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32",
}
"""By the element type of X, or of both."""
STEP_BYTES = 2 * FRAGMENT_BYTES


def pack(weight: np.ndarray, p: MmaParams) -> dict[str, np.ndarray]:
    """The kernel's flat array for a weight (m, depth) of its dtype: `values`."""
    missing = (p.row_blocks * 16 - weight.shape[0], p.steps * p.step - weight.shape[1])
    return {"values": fragments.pack(np.pad(weight, ((0, missing[0]), (0, missing[1])))).ravel()}


def unpack(arrays: dict[str, np.ndarray], p: MmaParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    values = arrays["values"].reshape(p.row_blocks, 2 * p.steps, 32, -1)
    return fragments.unpack(values)[:p.m, :p.depth]


def weight(p: MmaParams) -> pipeline.Weight:
    """How the weight reaches the tensor cores."""
    return pipeline.Weight({"values": (p.row_blocks * p.steps * STEP_BYTES // p.itemsize, p.stored)},
                           p.tile_steps * p.tile.rows // 16 * STEP_BYTES, _copy, pipeline.by_warps(_fetch))


def _copy(b: Block, base: Expr, k_tile: Expr) -> None:
    copy_steps(b, "values", STEP_BYTES, 1, base, k_tile)


def _fetch(b: Block, base: Expr, step: int, sums: Buffer) -> Callable[[int, int, Buffer], None]:
    p, t = b.params, b.params.tile
    values = ptx.registers(t.row_blocks * 8)
    for block in range(t.row_blocks):
        at = T.Bind(base + ((b.warp_row * t.row_blocks + block) * p.tile_steps + step) * STEP_BYTES)
        for half in range(2):
            ptx.load_words(values, block * 8 + half * 4, 4, b.shared,
                           at + half * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)

    return products(b, values, sums)


def products(b: Block, values: Buffer, sums: Buffer) -> Callable[[int, int, Buffer], None]:
    """What multiplies a step's weights, eight registers of `values` for each row block, with the activations."""
    def product(row_block: int, column_block: int, activations: Expr) -> None:
        for half in range(2):
            left = [values[row_block * 8 + half * 4 + i] for i in range(4)]
            right = [activations[half * 2 + i] for i in range(2)]
            first = (row_block * b.params.tile.column_blocks + column_block) * 4
            ptx.multiply(INSTRUCTIONS[b.params.x or b.params.dtype], sums, first, left, right)

    return product


FAMILY = family("mma", ("dense",), weight=weight, pack=pack, unpack=unpack, params=product_params,
                packed_by=by_shape)
