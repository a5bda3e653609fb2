"""Blocks of rows: the values of the dense kernels, a block's columns one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.recipe import Recipe


@dataclass(frozen=True)
class OverlappingBlocks(Recipe):
    """`blocks` blocks of `block` rows; where they do not come out even, the last ones overlap their neighbours."""

    blocks: int
    block: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`values`, (row block, columns, block)."""
        first = np.minimum(np.arange(self.blocks) * self.block, len(weight) - self.block)
        rows = first[:, None] + np.arange(self.block)
        return {"values": np.ascontiguousarray(weight[rows].transpose(0, 2, 1), dtype=np.float32).ravel()}


@dataclass(frozen=True)
class PaddedBlocks(Recipe):
    """Blocks of `width` rows, completed by zeros to `height` rows; the last block may be narrower."""

    height: int
    width: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`values`, (row block, columns, rows of the block)."""
        rows = np.pad(weight, ((0, self.height - len(weight)), (0, 0)))
        blocks = [np.ascontiguousarray(rows[at:at + self.width].T).ravel() for at in range(0, self.height, self.width)]
        return {"values": np.concatenate(blocks).astype(np.float32, copy=False)}
