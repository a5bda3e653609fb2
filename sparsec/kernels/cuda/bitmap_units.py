"""A weight as bitmaps and packed values, in the order in which lanes of tensor cores take them.

Sixteen rows x 64 columns are four fragments of `mma`, whose columns are permuted so that the activations of a lane are
16 in a row: weight j = 0 … 3 of lane 4g + t in group q = 0 … 7 is that of row g + 8 (j / 2) and column
16t + 2q + j % 2, and groups 2s and 2s + 1 are the registers of fragment s. The weight's bits follow that order, its
values too, so that a lane finds its own by one population count and a few dot products of bytes, and joins them by byte
permutes.

A header describes 16 x 64 weights: for every eight lanes (an octet) and group a word whose bit 8j + l is weight j of
lane l, then for every octet and group, in a byte, the values of the group up to the octet's end. A unit is the headers
of a tile's blocks of 16 rows at the same 64 columns, their values, and at least one value more, which lanes without a
weight may read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.cuda.params import VECTOR_BYTES, MmaParams

ROWS, COLUMNS = 16, 64  # that a header describes
GROUPS, OCTETS = 8, 4
HEADER_BYTES = 160
COUNTS = 128  # the byte of a header at which its counts begin
CHUNK = 8  # values of 16 bytes


@dataclass(frozen=True, kw_only=True)
class BitmapParams(MmaParams):
    """A product with a stored bitmap; its dtype has 2 bytes.

    Attributes:
        chunks: 16-byte chunks of the weight.
        capacity: those of the largest unit.

    """

    chunks: int
    capacity: int

    @property
    def blocks(self) -> int:
        """Blocks of 16 rows of a tile."""
        return self.tile.rows // ROWS

    @property
    def units(self) -> int:
        """Units along K."""
        return -(-self.depth // COLUMNS)

    @property
    def slot_bytes(self) -> int:
        """Bytes of shared memory for a unit."""
        return self.capacity * VECTOR_BYTES


def _tiles(p: BitmapParams, weight: np.ndarray) -> list[np.ndarray]:
    """The weight by tiles of rows, zeros to whole units included: (units, rows, COLUMNS) each."""
    height, width = weight.shape
    wide = np.pad(weight, ((0, -height % p.tile.rows), (0, p.units * COLUMNS - width)))
    return [tile.reshape(p.tile.rows, p.units, COLUMNS).swapaxes(0, 1)
            for tile in np.split(wide, len(wide) // p.tile.rows)]


def chunks_of(p: BitmapParams, values: np.ndarray) -> np.ndarray:
    """Chunks of units with so many values each."""
    return p.blocks * HEADER_BYTES // VECTOR_BYTES + values // CHUNK + 1


def pack(weight: np.ndarray, p: BitmapParams) -> dict[str, np.ndarray]:
    """The kernel's flat arrays for a weight (m, depth) of its dtype.

    `units` (uint32: tile of rows, unit of K), and `starts` (int32: a unit's first chunk, and the end).
    """
    packed = [_pack_tile(p, tile.view(np.uint16)) for tile in _tiles(p, weight)]
    counts = np.concatenate([count for _, count in packed])
    units = np.concatenate([units for units, _ in packed]).view(np.uint32)
    return {"units": np.pad(units, (0, p.chunks * 4 - len(units))),  # where half precision has made weights zero
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)}


def _pack_tile(p: BitmapParams, tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The units (uint16) of a tile of rows (units, rows, COLUMNS), and the chunks of each."""
    parts = tile.reshape(-1, p.blocks, 2, 8, 4, GROUPS, 2)  # unit, block, j / 2, g, t, q, j % 2
    lanes = parts.transpose(0, 1, 5, 3, 4, 2, 6).reshape(len(tile), p.blocks, GROUPS, OCTETS, 8, 4)
    present = (lanes & 0x7FFF) != 0
    bits = present.astype(np.uint32) << (np.arange(8)[:, np.newaxis] + 8 * np.arange(4)).astype(np.uint32)
    words = np.bitwise_or.reduce(bits, axis=(4, 5)).swapaxes(2, 3)  # unit, block, octet, group
    counts = np.cumsum(np.count_nonzero(present, axis=(4, 5)), axis=3).swapaxes(2, 3).astype(np.uint8)
    headers = np.concatenate([np.ascontiguousarray(each).reshape(*each.shape[:2], -1).view(np.uint16)
                              for each in (words, counts)], axis=2).reshape(len(tile), -1)
    values = np.count_nonzero(present.reshape(len(tile), -1), axis=1)
    chunks = chunks_of(p, values)
    begins = (np.cumsum(chunks) - chunks) * CHUNK
    units = np.zeros(chunks.sum() * CHUNK, np.uint16)
    units[begins[:, np.newaxis] + np.arange(headers.shape[1])] = headers
    units[np.arange(values.sum()) + np.repeat(begins + headers.shape[1] - np.cumsum(values) + values, values)
          ] = lanes[present]
    return units, chunks


def unpack(arrays: dict[str, np.ndarray], p: BitmapParams) -> np.ndarray:
    """The weight (m, depth) of `pack`ed arrays."""
    units, starts = arrays["units"].view(np.uint16), arrays["starts"] * CHUNK
    tiles = []
    for start in starts[:-1]:
        headers = units[start:start + p.blocks * HEADER_BYTES // 2].reshape(p.blocks, -1)
        words = np.ascontiguousarray(headers[:, :COUNTS // 2]).view(np.uint32).reshape(p.blocks, OCTETS, GROUPS)
        shifts = (np.arange(8)[:, np.newaxis] + 8 * np.arange(4)).astype(np.uint32)
        present = (words.swapaxes(1, 2)[..., np.newaxis, np.newaxis] >> shifts & 1).astype(bool)
        lanes = np.zeros(present.shape, np.uint16)
        lanes[present] = units[start + headers.size:][:np.count_nonzero(present)]
        parts = lanes.reshape(p.blocks, GROUPS, 8, 4, 2, 2).transpose(0, 4, 2, 3, 1, 5)
        tiles.append(parts.reshape(p.tile.rows, COLUMNS))
    rows = np.array(tiles).reshape(-1, p.units, p.tile.rows, COLUMNS).swapaxes(1, 2)
    return rows.reshape(-1, p.units * COLUMNS)[:p.m, :p.depth].copy().view(np.dtype(p.dtype))
