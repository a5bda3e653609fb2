"""Families of warp groups fed by bulk copies: 2:4 and dense weights, for many columns, on sm_90a.

The weight lies in units of 64 rows x 64 inputs, or 128 where they are bytes, those of a tile's stage one after the
other:

    2:4     for each of four warps two fragments of 16 rows x 16 kept inputs, or 32 bytes, then metadata for every lane:
            a word for both fragments, or one for each where inputs are bytes
    dense   rows of 128 bytes in the hardware's 128-byte swizzle, which the instruction reads behind a descriptor
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork
from sparsec.kernels.cuda import fragments, metadata, ptx, specialised, wgmma
from sparsec.kernels.cuda.block import Block
from sparsec.kernels.cuda.family import (
    Architectures,
    Arrays,
    GpuFamily,
    GpuProduct,
    Skeleton,
    assembled,
    by_shape,
    half_product,
    rate,
)
from sparsec.kernels.cuda.fragments import FRAGMENT_BYTES
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, Tile, fields_of
from sparsec.kernels.cuda.specialised import ROW_BYTES, Operand, PersistentParams
from sparsec.kernels.emit.tir import Buffer, Expr

UNIT = 64  # rows
WARPS = 4
STEPS = 2  # fragments of a warp in a stage of 2:4
VALUES_BYTES = WARPS * STEPS * FRAGMENT_BYTES
WORD_BYTES = 32 * 4
DENSE_BYTES = UNIT * ROW_BYTES
CHUNKS = ROW_BYTES // VECTOR_BYTES
LEAST_COLUMNS = 256
"""Of columns: fewer leave multiprocessors idle."""
SPARSE_TILES = (Tile(128, 256, 64, (8, 1), 5), Tile(128, 128, 64, (8, 1), 8))
SPARSE_BYTE_TILES = (Tile(128, 256, 64, (8, 1), 4), Tile(128, 128, 64, (8, 1), 7))
"""Of bytes, whose metadata take more of the memory; depths are those of 2-byte elements."""
DENSE_TILES = (Tile(128, 256, 64, (8, 1), 4), Tile(128, 128, 64, (8, 1), 6))


def reject(layer: GpuProduct, _archs: object) -> str | None:
    """Few columns leave the ring waiting for the weight."""
    return None if layer.columns >= LEAST_COLUMNS else (
        f"persistent blocks are for {LEAST_COLUMNS} columns or more, not {layer.columns}")


def params(_weight: np.ndarray, product: MmaParams) -> PersistentParams:
    """The parameters of a product."""
    return PersistentParams(**fields_of(product), blocks=specialised.dealt(product))


def unit_bytes(itemsize: int, *, sparse: bool) -> int:
    """Bytes of a unit."""
    return VALUES_BYTES + WARPS * _words(itemsize) * WORD_BYTES if sparse else DENSE_BYTES


def _words(itemsize: int) -> int:
    """Words of metadata that a lane has for a stage."""
    return STEPS // itemsize


def _padded(weight: np.ndarray, p: MmaParams) -> np.ndarray:
    """The weight with whole tiles of rows and whole stages."""
    return np.pad(weight, ((0, p.grid[0] * p.tile.rows - p.m), (0, p.k_tiles * p.tile.depth - p.depth)))


def _units(p: MmaParams) -> int:
    return p.grid[0] * p.tile.rows // UNIT * p.k_tiles


def _by_tile(units: np.ndarray, p: MmaParams) -> np.ndarray:
    """Units (blocks of 64 rows, stages, bytes) in the order of tiles and stages, flat."""
    count = p.tile.rows // UNIT
    blocks, stages, nbytes = units.shape
    return np.ascontiguousarray(units.reshape(blocks // count, count, stages, nbytes).swapaxes(1, 2)).ravel()


def _by_rows(flat: np.ndarray, p: MmaParams, nbytes: int) -> np.ndarray:
    """The inverse of `_by_tile`."""
    count = p.tile.rows // UNIT
    units = flat.reshape(p.grid[0], p.k_tiles, count, nbytes).swapaxes(1, 2)
    return np.ascontiguousarray(units).reshape(-1, p.k_tiles, nbytes)


def pack_sparse(weight: np.ndarray, p: MmaParams) -> Arrays:
    """`units` (uint8) of a 2:4 weight (m, depth)."""
    values, positions = metadata.compress(_padded(weight, p))
    rows, stages = len(values), p.k_tiles
    lanes = fragments.pack(values).view(np.uint8).reshape(rows // UNIT, WARPS, stages, -1).swapaxes(1, 2)
    own = _own_words(metadata.pack(positions, p.itemsize), p).swapaxes(1, 2)
    tail = np.ascontiguousarray(own).view(np.uint8).reshape(rows // UNIT, stages, -1)
    units = np.concatenate([lanes.reshape(rows // UNIT, stages, -1), tail], axis=2)
    return {"units": _by_tile(units, p)}


def _own_words(words: np.ndarray, p: MmaParams) -> np.ndarray:
    """Metadata as `metadata.pack` has it -> (units of rows, warps, stages, words of a warp's lanes, lane by lane)."""
    if p.itemsize == 1:
        steps = words.reshape(-1, WARPS, p.k_tiles, STEPS, 32)
        return steps.swapaxes(3, 4).reshape(-1, WARPS, p.k_tiles, 32 * STEPS)
    # Of pairs of 16 rows, lane 4g + 2s + h for the s-th of them -> pair, row block, stage, g, step, h.
    halves = words.reshape(-1, p.k_tiles, STEPS, 8, 2, 2).transpose(0, 4, 1, 3, 2, 5)
    return np.ascontiguousarray(halves).reshape(-1, WARPS, p.k_tiles, 32)


def _joined_words(own: np.ndarray, p: MmaParams) -> np.ndarray:
    """The inverse of `_own_words`."""
    if p.itemsize == 1:
        lanes = own.reshape(-1, WARPS, p.k_tiles, 32, STEPS)
        return np.ascontiguousarray(lanes.swapaxes(3, 4)).reshape(-1, p.k_tiles * STEPS, 32)
    halves = own.reshape(-1, 2, p.k_tiles, 8, STEPS, 2).transpose(0, 2, 4, 3, 1, 5)
    return np.ascontiguousarray(halves).reshape(-1, p.k_tiles * STEPS, 32)


def unpack_sparse(arrays: Arrays, p: MmaParams) -> np.ndarray:
    """The weight (m, depth) of packed arrays."""
    units = _by_rows(arrays["units"], p, unit_bytes(p.itemsize, sparse=True))
    blocks, stages, _ = units.shape
    lanes = units[..., :VALUES_BYTES].reshape(blocks, stages, WARPS, -1).swapaxes(1, 2)
    lanes = np.ascontiguousarray(lanes).view(np.dtype(p.stored)).reshape(blocks * WARPS, stages * STEPS, 32, -1)
    own = np.ascontiguousarray(units[..., VALUES_BYTES:]).view(np.uint32).reshape(blocks, stages, WARPS, -1)
    words = _joined_words(np.ascontiguousarray(own.swapaxes(1, 2)), p)
    return metadata.expand(fragments.unpack(lanes), metadata.unpack(words, p.itemsize))[:p.m, :p.depth]


def pack_dense(weight: np.ndarray, p: MmaParams) -> Arrays:
    """`units` (the weight's dtype) of a weight (m, depth)."""
    padded = _padded(weight, p)
    units = padded.reshape(len(padded) // UNIT, UNIT, p.k_tiles, CHUNKS, -1).swapaxes(1, 2)
    return {"units": _by_tile(_swizzled(units).reshape(len(units), p.k_tiles, -1), p)}


def unpack_dense(arrays: Arrays, p: MmaParams) -> np.ndarray:
    """The weight (m, depth) of packed arrays."""
    units = _by_rows(arrays["units"], p, UNIT * p.tile.depth)
    units = _swizzled(units.reshape(len(units), p.k_tiles, UNIT, CHUNKS, -1))
    return np.ascontiguousarray(units.swapaxes(1, 2)).reshape(len(units) * UNIT, -1)[:p.m, :p.depth]


def _swizzled(units: np.ndarray) -> np.ndarray:
    """Units (..., row, chunk, value) with each row's chunks in the order of the swizzle, which is its own inverse."""
    rows = np.arange(UNIT)[:, np.newaxis]
    return units[..., rows, np.arange(CHUNKS) ^ rows % CHUNKS, :]


def _multiply_sparse(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """A stage: two instructions with the metadata of the lanes that a selector names, or with words of their own."""
    itemsize, count = b.params.itemsize, _words(b.params.itemsize)
    values, words = ptx.registers(4 * STEPS), ptx.registers(count)
    unit = T.Bind(base + b.warp_row // WARPS * unit_bytes(itemsize, sparse=True))
    warp = T.Bind(b.warp_row % WARPS)
    for step in range(STEPS):
        at = unit + (warp * STEPS + step) * FRAGMENT_BYTES + b.lane * VECTOR_BYTES
        ptx.load_words(values, step * 4, 4, b.shared, at)
    ptx.load_words(words, 0, count, b.shared, unit + VALUES_BYTES + (warp * WORD_BYTES + b.lane * 4) * count)
    ptx.emit("wgmma.fence.sync.aligned")
    for step in range(STEPS):
        own = step if count == STEPS else 0
        name, source = wgmma.product(b.params, sparse=True, selector=step - own)
        wgmma.call(name, source, sums.data, values.ptr_to([step * 4]), wgmma.descriptor(b, activations + step * 64),
                   words.ptr_to([own]))
    _end_stage()


def _multiply_dense(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """A stage: four instructions of 32 bytes of inputs, with both operands behind descriptors."""
    unit = T.Bind(base + b.warp_row // WARPS * DENSE_BYTES)
    ptx.emit("wgmma.fence.sync.aligned")
    for step in range(4):
        name, source = wgmma.product_in_shared(b.params)
        wgmma.call(name, source, sums.data, wgmma.descriptor(b, unit + step * 32),
                   wgmma.descriptor(b, activations + step * 32))
    _end_stage()


def _end_stage() -> None:
    ptx.emit("wgmma.commit_group.sync.aligned")
    ptx.emit("wgmma.wait_group.sync.aligned", wgmma.IN_FLIGHT)


def _work(sparse: bool, p: PersistentParams, sizes: Mapping[str, int],  # noqa: FBT001 - what the family knows
          _weight_bytes: int) -> GpuWork:
    """What a run does: a wave of blocks, each with the stages of all its tiles."""
    tile, unit = p.tile, unit_bytes(p.itemsize, sparse=sparse)
    stage = tile.columns * ROW_BYTES + tile.rows // UNIT * unit
    return GpuWork(
        nbytes=sum(sizes.values()), blocks=p.blocks, threads=p.threads,
        shared_bytes=specialised.shared_bytes(p, unit), stages=p.turns * p.k_tiles,
        stages_in_flight=min(p.k_tiles, tile.stages - 1), stage_fmas=tile.rows * tile.columns * tile.depth,
        stage_bytes=stage, stage_copies=0.0, sparse=sparse, warp_groups=True, rate=rate(p))


def _operand(sparse: bool, p: MmaParams) -> Operand:  # noqa: FBT001 - what the family knows
    """How the weight reaches the tensor cores."""
    if sparse:
        unit = unit_bytes(p.itemsize, sparse=True)
        return Operand({"units": (_units(p) * unit, "uint8")}, unit, _multiply_sparse, wgmma.finish)
    return Operand({"units": (_units(p) * UNIT * p.tile.depth, p.stored)}, DENSE_BYTES, _multiply_dense, wgmma.finish)


def persistent(name: str, tiles: tuple[Tile, ...], *, sparse: bool, refuses: Callable[[MmaParams], str | None],
               reject: Callable[[GpuProduct, Architectures], str | None] = reject, precision: str = "",
               dtype: str = "", reference: Callable[[np.ndarray, np.ndarray, MmaParams], np.ndarray] = half_product,
               ) -> GpuFamily[PersistentParams]:
    """A family of persistent blocks.

    Args:
        name: as of `family.assembled`.
        tiles: likewise.
        sparse: it multiplies 2:4 weights; dense ones otherwise.
        refuses: why it does not multiply a product's type, or None.
        reject: why it is no candidate for a layer.
        precision: as of `family.assembled`.
        dtype: likewise.
        reference: likewise.

    """
    operand = partial(_operand, sparse)
    skeleton = Skeleton[PersistentParams](
        lambda p: operand(p).arguments, lambda p: specialised.shared_bytes(p, unit_bytes(p.itemsize, sparse=sparse)),
        lambda p: specialised.build(p, operand(p)), partial(_work, sparse))
    pack, unpack = (pack_sparse, unpack_sparse) if sparse else (pack_dense, unpack_dense)
    return assembled(name, ("nm 2:4",) if sparse else ("dense",), skeleton, pack=pack, unpack=unpack, params=params,
                     refuses=lambda p: specialised.refuses(p) or refuses(p), tiles=tiles, sparse=sparse,
                     architecture=wgmma.ARCHITECTURE, reject=reject, counted_by=lambda product: product,
                     packed_by=lambda p: (by_shape(p), p.tile.rows),
                     precision=precision, dtype=dtype, reference=reference)


def _refuses(p: MmaParams) -> str | None:
    """Why a product is not one of halves, or None."""
    return None if p.dtype in wgmma.ELEMENTS else "bulk copies bring 2-byte activations"


SPARSE = persistent("wgmma.sp bulk", SPARSE_TILES, sparse=True, refuses=_refuses)
DENSE = persistent("wgmma bulk", DENSE_TILES, sparse=False, refuses=_refuses)
