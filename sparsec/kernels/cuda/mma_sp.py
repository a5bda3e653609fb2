"""2:4 weights on the sparse tensor cores: `mma.sp::ordered_metadata` on prepacked fragments.

`values` are fragments of the compressed weight (`fragments.py`), `metadata` their words (`metadata.py`), both padded
with zeros to whole steps of K and pairs of row blocks, so that they serve every tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import fragments, metadata, pipeline, ptx
from sparsec.kernels.cuda.block import Block, per_thread
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams

_FLOATS = "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{0}.{0}.f32"
INSTRUCTIONS = {
    "float16": _FLOATS.format("f16"),
    "bfloat16": _FLOATS.format("bf16"),
    "int8": "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32",
}
FRAGMENT_BYTES = 512
WORDS_BYTES = 128  # metadata of one instruction


def pack(weight: np.ndarray, params: MmaParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype: `values` and `metadata` (uint32).

    Raises:
        FormatError: the weight is not 2:4.

    """
    values, positions = metadata.compress(weight)
    rows, steps = params.row_blocks * 16, params.steps
    missing = (rows - len(weight), (steps * params.step - weight.shape[1]) // 2)
    values = np.pad(values, ((0, missing[0]), (0, missing[1])))
    padded = np.tile(np.array([0, 1], np.uint8), (rows, steps * params.step // 4))
    padded[:len(weight), :positions.shape[1]] = positions
    return {"values": fragments.pack(values).ravel(), "metadata": metadata.pack(padded, params.itemsize).ravel()}


def unpack(arrays: dict[str, np.ndarray], params: MmaParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    values = arrays["values"].reshape(params.row_blocks, params.steps, 32, -1)
    words = arrays["metadata"].reshape(-1, params.steps, 32)
    weight = metadata.expand(fragments.unpack(values), metadata.unpack(words, params.itemsize))
    return weight[:params.m, :params.depth]


def arguments(p: MmaParams) -> pipeline.Arguments:
    """The kernel's buffers in order, inputs first."""
    return pipeline.arguments(p, _weight_arguments(p))


def shared_bytes(p: MmaParams) -> int:
    """Bytes of shared memory that a block takes."""
    return pipeline.shared_bytes(p, _stage_bytes(p))


def build(params: MmaParams) -> Any:
    """The kernel: (values, metadata, [gather], [scale], bias, x, [residual]) -> ([partial], y)."""
    weight = pipeline.Weight(_weight_arguments(params), _stage_bytes(params), _copy, _fetch)
    return pipeline.build(params, weight)


def _weight_arguments(p: MmaParams) -> pipeline.Arguments:
    return {"values": (p.row_blocks * p.steps * FRAGMENT_BYTES // p.itemsize, p.dtype),
            "metadata": (_word_rows(p) * p.steps * 32, "uint32")}


def _word_rows(p: MmaParams) -> int:
    """Rows of metadata words: one per pair of row blocks with 2-byte values, else one per row block."""
    return p.row_blocks // p.itemsize


def _stage_bytes(p: MmaParams) -> int:
    blocks = p.tile.rows // 16
    return p.tile_steps * (blocks * FRAGMENT_BYTES + blocks // p.itemsize * WORDS_BYTES)


def _values_bytes(p: MmaParams) -> int:
    """Bytes of the values in a stage; the metadata follow them."""
    return p.tile_steps * p.tile.rows // 16 * FRAGMENT_BYTES


def _copy(b: Block, base: Any, k_tile: Any) -> None:
    p = b.params
    copy_blocks(b, "values", FRAGMENT_BYTES, p.row_blocks, 1, base, k_tile)
    copy_blocks(b, "metadata", WORDS_BYTES, _word_rows(p), p.itemsize, base + _values_bytes(p), k_tile)


def copy_blocks(b: Block, name: str, nbytes: int, rows: int, blocks: int, base: Any, k_tile: Any) -> None:
    """Start copying the stage's part of an array (rows, steps, nbytes) to byte `base`.

    A row serves `blocks` blocks of 16 rows of the weight. Beyond the array, values become zero, which is also their
    product, and metadata any valid word.
    """
    p, t = b.params, b.params.tile
    chunks = nbytes // VECTOR_BYTES
    stage_row = p.tile_steps * chunks

    def one(number: Any) -> None:
        row = T.Bind(b.row // (16 * blocks) + number // stage_row)
        chunk = T.Bind(k_tile * stage_row + number % stage_row)
        inside = []
        if rows * blocks * 16 % t.rows:
            inside.append(row < rows)
        if p.steps % p.tile_steps:
            inside.append(chunk < p.steps * chunks)
        valid = T.Bind(T.And(*inside) if len(inside) > 1 else inside[0]) if inside else None
        index = (row * (p.steps * chunks) + chunk) * (VECTOR_BYTES // 4 if name == "metadata" else 16 // p.itemsize)
        if name == "metadata" and valid is not None:
            index, valid = T.if_then_else(valid, index, 0), None
        ptx.copy_async(b.shared, base + number * VECTOR_BYTES, b.buffers[name], index, VECTOR_BYTES, valid)

    per_thread(b, t.rows // (16 * blocks) * stage_row, one)


def _fetch(b: Block, base: Any, step: int, sums: Any) -> Callable[[int, int, Any], None]:
    p, t = b.params, b.params.tile
    values = ptx.registers(t.row_blocks * 4)
    words = ptx.registers(t.row_blocks // p.itemsize)
    first = T.Bind(b.warp_row * t.row_blocks)
    for block in range(t.row_blocks):
        fragment = (first + block) * p.tile_steps + step
        ptx.load_words(values, block * 4, 4, b.shared, base + fragment * FRAGMENT_BYTES + b.lane * VECTOR_BYTES)
    for row in range(t.row_blocks // p.itemsize):
        word = (T.truncdiv(first, p.itemsize) + row) * p.tile_steps + step
        ptx.load_words(words, row, 1, b.shared, base + _values_bytes(p) + word * WORDS_BYTES + b.lane * 4)

    def product(row_block: int, column_block: int, activations: Any) -> None:
        left = [values[row_block * 4 + i] for i in range(4)]
        right = [activations[i] for i in range(4)]
        sparsity = (words[row_block // p.itemsize], row_block % p.itemsize)
        ptx.multiply(INSTRUCTIONS[p.dtype], sums, (row_block * t.column_blocks + column_block) * 4, left, right,
                     sparsity)

    return product
