"""2:4 weights on the sparse tensor cores: `mma.sp::ordered_metadata` on prepacked fragments.

`values` are fragments of the compressed weight (`fragments.py`), `metadata` their words (`metadata.py`), both padded
with zeros to whole steps of K and pairs of row blocks, so that they serve every tile.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import fragments, metadata, pipeline, ptx
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.codes import E4M3
from sparsec.kernels.cuda.family import by_shape, family, product_params
from sparsec.kernels.cuda.fragments import FRAGMENT_BYTES
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams
from sparsec.kernels.cuda.staging import copy_steps
from sparsec.kernels.emit.tir import Buffer, Expr

_FLOATS = "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{0}.{0}.f32"
_BYTES = "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.{0}.{1}.{2}.{0}"
INSTRUCTIONS = {
    "float16": _FLOATS.format("f16"),
    "bfloat16": _FLOATS.format("bf16"),
    "int8": _BYTES.format("s32", "s8", "s8"),
    "uint8": _BYTES.format("s32", "s8", "u8"),
    E4M3: _BYTES.format("f32", E4M3, E4M3),
}
"""By the element type of X, or of both."""
WORDS_BYTES = 128  # metadata of one instruction
FORMATS = ("nm 2:4", "nm 2:4 permuted", "nm 4:6", "nm 6:8")


def pack(weight: np.ndarray, p: MmaParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype: `values` and `metadata` (uint32).

    Raises:
        FormatError: the weight is not 2:4.

    """
    values, positions = metadata.compress(weight)
    rows, steps = p.row_blocks * 16, p.steps
    missing = (rows - len(weight), (steps * p.step - weight.shape[1]) // 2)
    values = np.pad(values, ((0, missing[0]), (0, missing[1])))
    padded = np.tile(np.array([0, 1], np.uint8), (rows, steps * p.step // 4))
    padded[:len(weight), :positions.shape[1]] = positions
    return {"values": fragments.pack(values).ravel(), "metadata": metadata.pack(padded, p.itemsize).ravel()}


def unpack(arrays: dict[str, np.ndarray], p: MmaParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    values = arrays["values"].reshape(p.row_blocks, p.steps, 32, -1)
    words = arrays["metadata"].reshape(-1, p.steps, 32)
    weight = metadata.expand(fragments.unpack(values), metadata.unpack(words, p.itemsize))
    return weight[:p.m, :p.depth]


def refuses(p: MmaParams) -> str | None:
    """Why no kernel of single warps multiplies a 2:4 weight, or None."""
    return "two blocks of 16 rows share a word of metadata" if p.tile.row_blocks % p.itemsize else None


def weight(p: MmaParams) -> pipeline.Weight:
    """How the weight reaches the tensor cores."""
    words = p.row_blocks // p.itemsize  # rows of metadata: a word serves two row blocks of 2-byte values, or one
    arguments = {"values": (p.row_blocks * p.steps * FRAGMENT_BYTES // p.itemsize, p.stored),
                 "metadata": (words * p.steps * 32, "uint32")}
    stage_words = p.tile_steps * p.tile.rows // 16 // p.itemsize * WORDS_BYTES
    return pipeline.Weight(arguments, values_bytes(p) + stage_words, _copy, pipeline.by_warps(_fetch))


def values_bytes(p: MmaParams) -> int:
    """Bytes of the values in a stage; the metadata follow them."""
    return p.tile_steps * p.tile.rows // 16 * FRAGMENT_BYTES


def _copy(b: Block, base: Expr, k_tile: Expr) -> None:
    p = b.params
    copy_steps(b, "values", FRAGMENT_BYTES, 1, base, k_tile)
    copy_steps(b, "metadata", WORDS_BYTES, p.itemsize, base + values_bytes(p), k_tile)


def _fetch(b: Block, base: Expr, step: int, sums: Buffer) -> Callable[[int, int, Buffer], None]:
    p, t = b.params, b.params.tile
    values = ptx.registers(t.row_blocks * 4)
    words = ptx.registers(t.row_blocks // p.itemsize)
    first = T.Bind(b.warp_row * t.row_blocks)
    for block in range(t.row_blocks):
        fragment = (first + block) * p.tile_steps + step
        ptx.load_words(values, block * 4, 4, b.shared, base + fragment * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)
    for row in range(t.row_blocks // p.itemsize):
        word = (T.truncdiv(first, p.itemsize) + row) * p.tile_steps + step
        ptx.load_words(words, row, 1, b.shared, base + values_bytes(p) + word * WORDS_BYTES + b.lane * 4)

    def product(row_block: int, column_block: int, activations: Expr) -> None:
        left = [values[row_block * 4 + i] for i in range(4)]
        right = [activations[i] for i in range(4)]
        sparsity = (words[row_block // p.itemsize], row_block % p.itemsize)
        ptx.multiply(INSTRUCTIONS[p.x or p.dtype], sums, (row_block * t.column_blocks + column_block) * 4, left, right,
                     sparsity)

    return product


FAMILY = family("mma.sp", FORMATS, weight=weight, pack=pack, unpack=unpack, params=product_params, refuses=refuses,
                sparse=True, packed_by=by_shape)
