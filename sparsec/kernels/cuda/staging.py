"""Copies into the stages of shared memory, and how the activations leave them as matrix fragments.

Activations lie in a stage as rows of 16-byte chunks: a row is one column of X and its chunks are features. Chunks are
permuted within a row (XOR with the row's number), so that the eight rows that `ldmatrix` reads at once lie in different
banks. Weights come prepacked and lie as they are.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cuda import ptx
from sparsec.kernels.cuda.block import Block, all_of, per_thread
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, Window
from sparsec.kernels.emit.tir import Buffer, Expr

BANK_CHUNKS = 8  # chunks that one pass over the 32 banks delivers


def stage_bytes(p: MmaParams) -> int:
    """Bytes of the activations of one stage."""
    return p.tile.columns * p.tile.depth * p.itemsize


def _address(p: MmaParams, row: Expr, chunk: Expr) -> Expr:
    """The byte of a stage at which a row's chunk lies."""
    return swizzled(row, chunk, p.tile.depth * p.itemsize // VECTOR_BYTES)


def swizzled(row: Expr, chunk: Expr, chunks: int) -> Expr:
    """The byte at which a chunk lies in rows of `chunks`, a power of two."""
    span = min(chunks, BANK_CHUNKS)
    swizzle = row // (BANK_CHUNKS // span) % span
    return (row * chunks + T.bitwise_xor(chunk, swizzle)) * VECTOR_BYTES


def copy(b: Block, base: Expr, k_tile: Expr) -> None:
    """Start copying the stage's activations to byte `base`."""
    p, t = b.params, b.params.tile
    width = p.copy_bytes // p.itemsize
    across = t.depth // width  # copies along a row
    per_vector = VECTOR_BYTES // p.copy_bytes

    def one(number: Expr) -> None:
        row, piece = T.Bind(number // across), T.Bind(number % across)
        chunk = piece // per_vector if per_vector > 1 else piece
        at = base + _address(p, row, chunk) + piece % per_vector * p.copy_bytes
        index, valid = _source(b, k_tile, row, piece * width)
        if p.copy_bytes > 2:
            ptx.copy_async(b.shared, at, b.buffers["x"], index, p.copy_bytes, valid)
        else:
            ptx.copy_element(b.shared, at, b.buffers["x"], index, valid)

    per_thread(b, t.columns * across, one)


def _source(b: Block, k_tile: Expr, row: Expr, along: Expr) -> tuple[Expr, Expr]:
    """Where in X a stage's element lies, and whether it exists (None: always)."""
    p, t = b.params, b.params.tile
    feature, column = k_tile * t.depth + along, b.column + row
    inside = []
    if p.slices is None and p.depth % t.depth:
        inside.append(feature < p.depth)
    if p.n % t.columns:
        inside.append(column < p.n)
    if p.window is None:
        return column * p.k + _gathered(b, feature), all_of(inside)
    index, pixel_inside = _pixel(p.window, _gathered(b, feature), column)
    return index, all_of([*inside, *pixel_inside])


def _gathered(b: Block, feature: Expr) -> Expr:
    """The feature of X that a column of W multiplies; any where there is no such column."""
    p = b.params
    if p.slices is not None:
        return T.Bind(b.buffers["slices"][feature // p.slices.width] * p.slices.width + feature % p.slices.width)
    if not p.gather:
        return feature
    return b.buffers["gather"][T.min(feature, p.depth - 1) if p.depth % p.tile.depth else feature]


def _pixel(w: Window, feature: Expr, column: Expr) -> tuple[Expr, list[Expr]]:
    """Where in the image a window's element lies, and the conditions under which it exists."""
    height, width, channels = w.image
    tap, place = T.Bind(feature // channels), T.Bind(column % (w.output[0] * w.output[1]))
    row = T.Bind(place // w.output[1] * w.strides[0] + tap // w.kernel[1] * w.dilations[0] - w.pads[0])
    across = T.Bind(place % w.output[1] * w.strides[1] + tap % w.kernel[1] * w.dilations[1] - w.pads[1])
    image = column // (w.output[0] * w.output[1])
    index = ((image * height + row) * width + across) * channels + feature % channels
    return index, [row >= 0, row < height, across >= 0, across < width]


def load(b: Block, to: Buffer, base: Expr, step: int, column_block: int) -> None:
    """The fragment of a step and a block of 8 columns of the warp: four registers, K rising."""
    p, t = b.params, b.params.tile
    block = b.warp_column * t.column_blocks + column_block
    at = _address(p, block * 8 + b.lane % 8, step * (p.step * p.itemsize // VECTOR_BYTES) + b.lane // 8)
    ptx.load_matrices(to, b.shared, base + at, transposed=False)


def load_element(b: Block, to: Buffer, index: int, base: Expr, feature: Expr, column_block: int) -> None:
    """A feature of the stage, 2 bytes, for column lane / 4 of a block of 8 of the warp, into register `index`."""
    p, width = b.params, VECTOR_BYTES // b.params.itemsize
    column = (b.warp_column * p.tile.column_blocks + column_block) * 8 + b.lane // 4
    at = _address(p, column, feature // width) + feature % width * p.itemsize
    ptx.emit("ld.shared.b16", to[index], b.shared + T.Cast("uint32", base + at))


def copy_steps(b: Block, name: str, nbytes: int, blocks: int, base: Expr, k_tile: Expr) -> None:
    """Start copying the stage's part of a weight's array (rows, steps, `nbytes`) to byte `base`.

    A row of the array serves `blocks` blocks of 16 rows of the weight. Beyond the array values become zeros, and what
    has to be valid, metadata, comes from its beginning.
    """
    p, t = b.params, b.params.tile
    array, itemsize = b.buffers[name], 4 if name == "metadata" else p.itemsize
    row_chunks, stage_chunks = p.steps * nbytes // VECTOR_BYTES, p.tile_steps * nbytes // VECTOR_BYTES

    def one(number: Expr) -> None:
        row = T.Bind(b.row // (16 * blocks) + number // stage_chunks)
        chunk = T.Bind(k_tile * stage_chunks + number % stage_chunks)
        inside = []
        if p.row_blocks * 16 % t.rows:
            inside.append(row < p.row_blocks // blocks)
        if p.steps % p.tile_steps:
            inside.append(chunk < row_chunks)
        index, valid = (row * row_chunks + chunk) * (VECTOR_BYTES // itemsize), all_of(inside)
        if name == "metadata" and valid is not None:
            index, valid = T.if_then_else(valid, index, 0), None
        ptx.copy_async(b.shared, base + number * VECTOR_BYTES, array, index, VECTOR_BYTES, valid)

    per_thread(b, t.rows // (16 * blocks) * stage_chunks, one)
