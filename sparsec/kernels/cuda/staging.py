"""Activations on their way to the tensor cores: copied into a stage of shared memory, read as matrix fragments.

A stage holds rows of 16-byte chunks: in layout kn a row is one feature and its chunks are columns of X, in layout nk
a row is one column of X and its chunks are features. Chunks are permuted within a row (XOR with the row's number), so
that the eight rows that `ldmatrix` reads at once lie in different banks.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.cuda.block import Block, per_thread
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams

BANK_CHUNKS = 8  # chunks that one pass over the 32 banks delivers


def stage_bytes(p: MmaParams) -> int:
    """Bytes of the activations of one stage."""
    return p.tile.columns * p.tile.depth * p.itemsize


def _row_chunks(p: MmaParams) -> int:
    return (p.tile.columns if p.layout == "kn" else p.tile.depth) * p.itemsize // VECTOR_BYTES


def _address(p: MmaParams, row: Any, chunk: Any) -> Any:
    """The byte of a stage at which a row's chunk lies."""
    chunks = _row_chunks(p)
    span = min(chunks, BANK_CHUNKS)
    swizzle = row // (BANK_CHUNKS // span) % span
    return (row * chunks + T.bitwise_xor(chunk, swizzle)) * VECTOR_BYTES


def copy(b: Block, base: Any, k_tile: Any) -> None:
    """Start copying the stage's activations to byte `base`."""
    p, t = b.params, b.params.tile
    width = p.copy_bytes // p.itemsize
    across = (t.columns if p.layout == "kn" else t.depth) // width  # copies along a row
    per_vector = VECTOR_BYTES // p.copy_bytes

    def one(number: Any) -> None:
        row, piece = T.Bind(number // across), T.Bind(number % across)
        chunk = piece // per_vector if per_vector > 1 else piece
        at = base + _address(p, row, chunk) + piece % per_vector * p.copy_bytes
        index, valid = _source(b, k_tile, row, piece * width)
        if p.copy_bytes > 2:
            ptx.copy_async(b.shared, at, b.buffers["x"], index, p.copy_bytes, valid)
        else:
            ptx.copy_element(b.shared, at, b.buffers["x"], index, valid)

    per_thread(b, (t.depth if p.layout == "kn" else t.columns) * across, one)


def _source(b: Block, k_tile: Any, row: Any, along: Any) -> tuple[Any, Any]:
    """Where in X a stage's element lies, and whether it exists (None: always)."""
    p, t = b.params, b.params.tile
    inner, column = (row, along) if p.layout == "kn" else (along, row)
    feature, column = k_tile * t.depth + inner, b.column + column
    inside = []
    if p.depth % t.depth:
        inside.append(feature < p.depth)
    if p.n % t.columns:
        inside.append(column < p.n)
    valid = T.Bind(T.And(*inside) if len(inside) > 1 else inside[0]) if inside else None
    if p.gather:
        feature = b.buffers["gather"][T.min(feature, p.depth - 1) if p.depth % t.depth else feature]
    if p.layout == "nk":
        return column * p.k + feature, valid
    return (b.matrix * p.k + feature) * p.n + column, valid


def load(b: Block, to: Any, base: Any, step: int, column_block: int) -> None:
    """The fragment of a step and a block of 8 columns of the warp: four registers, K rising."""
    p, t = b.params, b.params.tile
    block = b.warp_column * t.column_blocks + column_block
    if p.layout == "kn":
        at = _address(p, step * p.step + b.lane, block)
    else:
        at = _address(p, block * 8 + b.lane % 8, step * (p.step * p.itemsize // VECTOR_BYTES) + b.lane // 8)
    ptx.load_matrices(to, b.shared, base + at, transposed=p.layout == "kn")
