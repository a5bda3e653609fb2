"""Weights with empty blocks for many tokens: `mma` on what is left of every tile of rows, slice by slice of K.

A slice is 32 bytes of K, 16 half-precision weights, and a fragment's depth: blocks of 16 x 16 or 32 x 32, as users
prune them, leave whole slices of a tile's rows empty. Those that are not are stored as fragments, stage after stage,
and `slices` says which inputs they multiply; the activations are gathered a slice at a time. A tile of many rows has
fewer empty slices and shares its activations among more outputs; the cost model chooses.

`starts` holds every tile's first stage, so that tiles take as long as they have stages.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import GpuWork
from sparsec.errors import FormatError
from sparsec.kernels.cuda import fragments, mma_dense, pipeline, ptx
from sparsec.kernels.cuda.block import Block, per_thread
from sparsec.kernels.cuda.family import Architectures, GpuProduct, family
from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams, Slices, Tile, fields_of
from sparsec.kernels.emit.tir import Expr

FORMAT = "bcsr 16x16"
LEAST_ROWS = 32
FULL = 0.9
"""The share of slices of the fewest rows that hold weights, from which on skipping the others does not pay."""
TILES = (
    Tile(128, 128, 64, (2, 2), 3),
    Tile(64, 256, 64, (1, 4), 3),
    Tile(64, 128, 64, (2, 2), 4),
    Tile(64, 64, 64, (2, 2), 4),
    Tile(32, 256, 64, (1, 8), 3),
    Tile(32, 128, 64, (1, 4), 4),
    Tile(32, 32, 64, (1, 4), 4),
)


@dataclass(frozen=True, kw_only=True)
class BlockParams(MmaParams):
    """A product with a weight of which empty slices are left out.

    Attributes:
        stages: those of all tiles of rows.

    """

    stages: int

    @property
    def slices(self) -> Slices:
        """How stored columns lie in X."""
        return Slices(_width(self))

    @property
    def stage_slices(self) -> int:
        """Slices of a stage."""
        return self.tile.depth // self.slices.width


def _width(p: MmaParams) -> int:
    """Columns of a slice."""
    return fragments.columns(p.itemsize)


def _filled(weight: np.ndarray) -> float:
    """The share of the slices of LEAST_ROWS rows that are not empty."""
    tiles = _present(weight, LEAST_ROWS, fragments.columns(2))
    return float(tiles.mean()) if tiles.size else 1.0


def _present(weight: np.ndarray, rows: int, width: int) -> np.ndarray:
    """Which slices (tiles of rows, slices) hold weights."""
    height, depth = weight.shape
    used = np.pad(weight != 0, ((0, -height % rows), (0, -depth % width)))
    present: np.ndarray = np.any(used.reshape(-1, rows, used.shape[1] // width, width), axis=(1, 3))
    return present


def reject(layer: GpuProduct, _archs: Architectures) -> str | None:
    """Without empty slices there is nothing to skip."""
    filled = layer.memoised(_filled)
    return None if filled <= FULL else (f"{100 * filled:.0f} % of the stretches of {LEAST_ROWS} outputs x 16 inputs "
                                        "hold weights, and skipping the others would not pay")


def refuses(product: MmaParams) -> str | None:
    """Why no kernel computes the product, or None."""
    reasons = {
        f"K = {product.k} is not whole slices of {_width(product)}": product.k % _width(product) != 0,
        "the inputs of slices are gathered already": product.gather is not None,
        "tiles of rows have stages of their own, and do not share K among blocks": product.split_k > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def params(weight: np.ndarray, product: MmaParams) -> BlockParams:
    """The parameters for a weight (m, depth).

    Raises:
        FormatError: no kernel computes the product.

    """
    if reason := refuses(product):
        raise FormatError(f"cannot store the weight by slices for {product}: {reason}")
    counts = _present(weight, product.tile.rows, _width(product)).sum(axis=1)
    return BlockParams(**fields_of(product), stages=int((-(-counts * _width(product) // product.tile.depth)).sum()))


def pack(weight: np.ndarray, p: BlockParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype.

    `values`: (stage, block of 16 rows, fragment); `slices` (int32: stage, slice: its number along K); `starts` (int32:
    the first stage of a tile of rows, and the end).
    """
    rows, width = p.tile.rows, p.slices.width
    values, slices, counts = [], [], []
    for first in range(0, p.m, rows):
        tile = weight[first:first + rows]
        tile = np.pad(tile, ((0, rows - len(tile)), (0, 0))).reshape(rows, -1, width)
        used = np.flatnonzero((tile != 0).any(axis=(0, 2)))
        counts.append(-(-len(used) // p.stage_slices))
        missing = counts[-1] * p.stage_slices - len(used)
        kept = np.pad(tile[:, used], ((0, 0), (0, missing), (0, 0)))
        lanes = fragments.pack(kept.reshape(rows, -1))
        lanes = lanes.reshape(rows // 16, counts[-1], p.stage_slices * 32 * VECTOR_BYTES // p.itemsize).swapaxes(0, 1)
        values.append(lanes.ravel())
        slices.append(np.pad(used, (0, missing)))
    stored, numbers = np.concatenate(values), np.concatenate(slices)
    sizes = {name: length for name, (length, _) in _arguments(p).items()}
    return {"values": np.pad(stored, (0, sizes["values"] - len(stored))),
            "slices": np.pad(numbers, (0, sizes["slices"] - len(numbers))).astype(np.int32),
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)}


def unpack(arrays: dict[str, np.ndarray], p: BlockParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    rows, width, starts = p.tile.rows, p.slices.width, arrays["starts"]
    weight = np.zeros((p.grid[0] * rows, p.depth // width, width), arrays["values"].dtype)
    stages = arrays["values"].reshape(-1, rows // 16, p.stage_slices, 32, VECTOR_BYTES // p.itemsize)
    numbers = arrays["slices"].reshape(-1, p.stage_slices)
    for tile, (first, end) in enumerate(itertools.pairwise(starts)):
        for stage in range(first, end):
            columns = fragments.unpack(stages[stage]).reshape(rows, -1, width)
            for place, number in enumerate(numbers[stage]):
                weight[tile * rows:(tile + 1) * rows, number] += columns[:, place]  # what fills a stage is zeros
    return weight.reshape(len(weight), -1)[:p.m]


def extra_work(p: BlockParams, work: GpuWork) -> GpuWork:
    """The stages that a tile has on average."""
    stages = max(1, math.ceil(p.stages / p.grid[0]))
    return replace(work, stages=stages, stages_in_flight=min(stages, work.stages_in_flight),
                   stage_bytes=(p.tile.rows + p.tile.columns) * p.tile.depth * p.itemsize)


def _arguments(p: BlockParams) -> pipeline.Arguments:
    stages = max(1, p.stages)
    return {"values": (stages * p.tile.rows * p.tile.depth, p.stored), "slices": (stages * p.stage_slices, "int32"),
            "starts": (p.grid[0] + 1, "int32")}


def operand(p: BlockParams) -> pipeline.Weight:
    """How the weight reaches the tensor cores."""
    dense = mma_dense.weight(p)
    return replace(dense, arguments=_arguments(p), copy=_copy, span=_span)


def _span(b: Block) -> tuple[Expr, Expr]:
    """The first stage of the block's rows, and their number."""
    starts, tile = b.buffers["starts"], T.Bind(b.row // b.params.tile.rows)
    first = T.Bind(starts[tile])
    return first, T.Bind(starts[tile + 1] - first)


def _copy(b: Block, base: Expr, stage: Expr) -> None:
    t, itemsize = b.params.tile, b.params.itemsize
    chunks = t.rows * t.depth * itemsize // VECTOR_BYTES
    per_thread(b, chunks, lambda number: ptx.copy_async(
        b.shared, base + number * VECTOR_BYTES, b.buffers["values"],
        (stage * chunks + number) * (VECTOR_BYTES // itemsize), VECTOR_BYTES))


FAMILY = family("mma blocks", (FORMAT,), weight=operand, pack=pack, unpack=unpack, params=params, refuses=refuses,
                extra_work=extra_work, reject=reject, tiles=TILES)
