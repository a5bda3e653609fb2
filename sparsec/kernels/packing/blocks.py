"""Blocks of rows: the values of the dense kernels, a block's columns one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.recipe import Recipe
from sparsec.kernels.packing.values import encode


@dataclass(frozen=True)
class OverlappingBlocks(Recipe):
    """Blocks of `block` rows, `blocks` of them in each of `parts`, their columns cut into chunks of `chunk`.

    Where blocks do not come out even, the last ones overlap their neighbours.
    """

    parts: int
    blocks: int
    block: int
    chunk: int

    def elements(self, rows: int, columns: int) -> int:
        """The elements of all blocks, with the zeros that fill them up."""
        return max(rows, self.parts * self.blocks * self.block) * columns

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`values`, (part, chunk, row block, column, row of the block): in the order in which they are read."""
        first = np.minimum(np.arange(self.parts * self.blocks) * self.block, len(weight) - self.block)
        rows = (first[:, None] + np.arange(self.block)).reshape(self.parts, self.blocks, self.block)
        pieces = [weight[rows, at:at + self.chunk].swapaxes(2, 3).reshape(self.parts, -1)
                  for at in range(0, weight.shape[1], self.chunk)]
        return {"values": np.concatenate(pieces, axis=1).astype(np.float32, copy=False).ravel()}


@dataclass(frozen=True)
class PaddedBlocks(Recipe):
    """Blocks of `width` rows, completed by zeros to `height` rows; the last block may be narrower."""

    height: int
    width: int
    codec: str = "f32"

    def elements(self, rows: int, columns: int) -> int:
        """The elements of all blocks, with the zeros that fill them up."""
        return max(rows, self.height) * columns

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`values`, (row block, columns, rows of the block)."""
        rows = np.pad(weight, ((0, self.height - len(weight)), (0, 0)))
        blocks = [np.ascontiguousarray(rows[at:at + self.width].T).ravel() for at in range(0, self.height, self.width)]
        return {"values": encode(np.concatenate(blocks), self.codec)}


@dataclass(frozen=True)
class GroupBlocks(Recipe):
    """Blocks on the diagonal of a weight, each in `blocks` blocks of `block` rows, of which the last may overlap."""

    groups: int
    blocks: int
    block: int

    def elements(self, rows: int, columns: int) -> int:
        """The elements of all blocks."""
        return max(rows, self.groups * self.blocks * self.block) * columns

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`values`, (group, row block, column of the group, row of the block)."""
        height, width = len(weight) // self.groups, weight.shape[1] // self.groups
        first = np.minimum(np.arange(self.blocks) * self.block, height - self.block)
        rows = first[:, None] + np.arange(self.block)
        pieces = [weight[g * height:(g + 1) * height, g * width:(g + 1) * width][rows].swapaxes(1, 2)
                  for g in range(self.groups)]
        return {"values": np.stack(pieces).astype(np.float32, copy=False).ravel()}
