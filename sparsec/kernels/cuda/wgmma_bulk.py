"""Families of warp groups fed by bulk copies: 2:4 and dense weights, for many columns, on sm_90a.

The weight lies in units of 64 rows x 64 inputs, those of a tile's stage one after the other:

    2:4     for each of four warps two fragments of 16 rows x 16 kept inputs, then a word of metadata for every lane
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
from sparsec.kernels.cuda.family import Arrays, GpuFamily, GpuProduct, Skeleton, assembled, by_shape
from sparsec.kernels.cuda.fragments import FRAGMENT_BYTES
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, Tile, fields_of
from sparsec.kernels.cuda.specialised import ROW_BYTES, Operand, PersistentParams
from sparsec.kernels.emit.tir import Buffer, Expr

UNIT = 64  # rows and inputs
WARPS = 4
VALUES_BYTES = WARPS * 2 * FRAGMENT_BYTES
SPARSE_BYTES = VALUES_BYTES + WARPS * 32 * 4
DENSE_BYTES = UNIT * ROW_BYTES
CHUNKS = ROW_BYTES // VECTOR_BYTES
LEAST_COLUMNS = 256
"""Of columns: fewer leave multiprocessors idle."""
SPARSE_TILES = (Tile(128, 256, 64, (8, 1), 5), Tile(128, 128, 64, (8, 1), 8))
DENSE_TILES = (Tile(128, 256, 64, (8, 1), 4), Tile(128, 128, 64, (8, 1), 6))


def reject(layer: GpuProduct, _archs: object) -> str | None:
    """Few columns leave the ring waiting for the weight."""
    return None if layer.columns >= LEAST_COLUMNS else (
        f"persistent blocks are for {LEAST_COLUMNS} columns or more, not {layer.columns}")


def params(_weight: np.ndarray, product: MmaParams) -> PersistentParams:
    """The parameters of a product."""
    return PersistentParams(**fields_of(product), blocks=specialised.dealt(product))


def _padded(weight: np.ndarray, p: MmaParams) -> np.ndarray:
    """The weight with whole tiles of rows and whole stages."""
    return np.pad(weight, ((0, p.grid[0] * p.tile.rows - p.m), (0, p.k_tiles * UNIT - p.depth)))


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
    words = metadata.pack(positions, 2)  # of pairs of 16 rows; lane 4g + 2s + h for the s-th of them
    halves = words.reshape(rows // 32, stages, 2, 8, 2, 2).transpose(0, 4, 1, 3, 2, 5)  # pair, row block, stage, …
    own = np.ascontiguousarray(halves).reshape(rows // UNIT, WARPS, stages, 32).swapaxes(1, 2)
    tail = np.ascontiguousarray(own).view(np.uint8).reshape(rows // UNIT, stages, -1)
    units = np.concatenate([lanes.reshape(rows // UNIT, stages, -1), tail], axis=2)
    return {"units": _by_tile(units, p)}


def unpack_sparse(arrays: Arrays, p: MmaParams) -> np.ndarray:
    """The weight (m, depth) of packed arrays."""
    units = _by_rows(arrays["units"], p, SPARSE_BYTES)
    blocks, stages, _ = units.shape
    lanes = units[..., :VALUES_BYTES].reshape(blocks, stages, WARPS, -1).swapaxes(1, 2)
    lanes = np.ascontiguousarray(lanes).view(np.dtype(p.dtype)).reshape(blocks * WARPS, stages * 2, 32, -1)
    own = np.ascontiguousarray(units[..., VALUES_BYTES:]).view(np.uint32).reshape(blocks, stages, WARPS, 32)
    halves = np.ascontiguousarray(own.swapaxes(1, 2)).reshape(blocks * 2, 2, stages, 8, 2, 2)
    words = np.ascontiguousarray(halves.transpose(0, 2, 4, 3, 1, 5)).reshape(blocks * 2, stages * 2, 32)
    return metadata.expand(fragments.unpack(lanes), metadata.unpack(words, 2))[:p.m, :p.depth]


def pack_dense(weight: np.ndarray, p: MmaParams) -> Arrays:
    """`units` (the weight's dtype) of a weight (m, depth)."""
    padded = _padded(weight, p)
    units = padded.reshape(len(padded) // UNIT, UNIT, p.k_tiles, CHUNKS, -1).swapaxes(1, 2)
    return {"units": _by_tile(_swizzled(units).reshape(len(units), p.k_tiles, -1), p)}


def unpack_dense(arrays: Arrays, p: MmaParams) -> np.ndarray:
    """The weight (m, depth) of packed arrays."""
    units = _by_rows(arrays["units"], p, UNIT * UNIT)
    units = _swizzled(units.reshape(len(units), p.k_tiles, UNIT, CHUNKS, -1))
    return np.ascontiguousarray(units.swapaxes(1, 2)).reshape(len(units) * UNIT, -1)[:p.m, :p.depth]


def _swizzled(units: np.ndarray) -> np.ndarray:
    """Units (..., row, chunk, value) with each row's chunks in the order of the swizzle, which is its own inverse."""
    rows = np.arange(UNIT)[:, np.newaxis]
    return units[..., rows, np.arange(CHUNKS) ^ rows % CHUNKS, :]


def _multiply_sparse(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """A stage: two instructions of 32 inputs, whose metadata is one word for every lane."""
    values, word = ptx.registers(8), ptx.registers(1)
    unit = T.Bind(base + b.warp_row // WARPS * SPARSE_BYTES)
    warp = T.Bind(b.warp_row % WARPS)
    for step in range(2):
        at = unit + (warp * 2 + step) * FRAGMENT_BYTES + b.lane * VECTOR_BYTES
        ptx.load_words(values, step * 4, 4, b.shared, at)
    ptx.load_words(word, 0, 1, b.shared, unit + VALUES_BYTES + warp * 128 + b.lane * 4)
    ptx.emit("wgmma.fence.sync.aligned")
    for step in range(2):
        name, source = wgmma.product(b.params, sparse=True, selector=step)
        wgmma.call(name, source, sums.data, values.ptr_to([step * 4]), wgmma.descriptor(b, activations + step * 64),
                   word.ptr_to([0]))
    _end_stage()


def _multiply_dense(b: Block, base: Expr, activations: Expr, sums: Buffer) -> None:
    """A stage: four instructions of 16 inputs, with both operands behind descriptors."""
    unit = T.Bind(base + b.warp_row // WARPS * DENSE_BYTES)
    ptx.emit("wgmma.fence.sync.aligned")
    for step in range(4):
        name, source = _shared_product(b.params)
        wgmma.call(name, source, sums.data, wgmma.descriptor(b, unit + step * 32),
                   wgmma.descriptor(b, activations + step * 32))
    _end_stage()


def _end_stage() -> None:
    ptx.emit("wgmma.commit_group.sync.aligned")
    ptx.emit("wgmma.wait_group.sync.aligned", wgmma.IN_FLIGHT)


def _shared_product(p: MmaParams) -> tuple[str, str]:
    """Name and text of the function that holds the dense instruction with the weight in shared memory."""
    columns, element = p.tile.columns, wgmma.ELEMENTS[p.dtype]
    count = columns // 2
    instruction = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{element}.{element}"
    sums = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    name = f"wgmma_shared_{element}_n{columns}"
    return name, f"""__forceinline__ __device__ void {name}(
    float* d, unsigned long long a, unsigned long long b) {{
  asm volatile("{instruction} {{{sums}}}, %{count}, %{count + 1}, 1, 1, 1, 0, 0;"
    : {outputs} : "l"(a), "l"(b));
}}
"""


def _work(unit_bytes: int, p: PersistentParams, sizes: Mapping[str, int], _weight_bytes: int) -> GpuWork:
    """What a run does: a wave of blocks, each with the stages of all its tiles."""
    tile, sparse = p.tile, unit_bytes == SPARSE_BYTES
    stage = tile.columns * ROW_BYTES + tile.rows // UNIT * unit_bytes
    return GpuWork(
        nbytes=sum(sizes.values()), blocks=p.blocks, threads=p.threads,
        shared_bytes=specialised.shared_bytes(p, unit_bytes), stages=p.turns * p.k_tiles,
        stages_in_flight=min(p.k_tiles, tile.stages - 1), stage_fmas=tile.rows * tile.columns * tile.depth,
        stage_bytes=stage, stage_copies=0.0, sparse=sparse, warp_groups=True)


def _family(name: str, formats: tuple[str, ...], operand: Callable[[MmaParams], Operand], pack: Callable[..., Arrays],
            unpack: Callable[..., np.ndarray], tiles: tuple[Tile, ...], unit_bytes: int) -> GpuFamily[PersistentParams]:
    skeleton = Skeleton[PersistentParams](
        lambda p: operand(p).arguments, lambda p: specialised.shared_bytes(p, unit_bytes),
        lambda p: specialised.build(p, operand(p)), partial(_work, unit_bytes))
    return assembled(name, formats, skeleton, pack=pack, unpack=unpack, params=params, refuses=specialised.refuses,
                     tiles=tiles, sparse=unit_bytes == SPARSE_BYTES, architecture=wgmma.ARCHITECTURE, reject=reject,
                     counted_by=lambda product: product, packed_by=lambda p: (by_shape(p), p.tile.rows))


def _sparse(p: MmaParams) -> Operand:
    return Operand({"units": (_units(p) * SPARSE_BYTES, "uint8")}, SPARSE_BYTES, _multiply_sparse, wgmma.finish)


def _dense(p: MmaParams) -> Operand:
    return Operand({"units": (_units(p) * UNIT * UNIT, p.dtype)}, DENSE_BYTES, _multiply_dense, wgmma.finish)


SPARSE = _family("wgmma.sp bulk", ("nm 2:4",), _sparse, pack_sparse, unpack_sparse, SPARSE_TILES, SPARSE_BYTES)
DENSE = _family("wgmma bulk", ("dense",), _dense, pack_dense, unpack_dense, DENSE_TILES, DENSE_BYTES)
