"""Weights of 3 x 3 convolutions, transformed for Winograd's minimal filtering: the values of its kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.errors import FormatError
from sparsec.kernels.packing.recipe import Recipe

TAPS = 9
POINTS = 16
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
"""From three weights to four points: G of F(2, 3) (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks,
section 4.1)."""


@dataclass(frozen=True)
class WinogradBlocks(Recipe):
    """Blocks of `block` rows of a weight (outputs, channels * 9), whose nine taps become the 16 of G w G^T.

    The last block may overlap its neighbour. Of several `groups` it is the blocks on the weight's diagonal, each apart.
    """

    block: int
    groups: int = 1

    def elements(self, rows: int, columns: int) -> int:
        """The elements of all blocks at their points, which are computed in double precision."""
        return 2 * POINTS * max(self.block, rows + self.groups * self.block) * -(-columns // (TAPS * self.groups))

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`values`, (group, row block, point, channel of the group, row of the block)."""
        height, width = len(weight) // self.groups, weight.shape[1] // self.groups
        if width % TAPS or height < self.block:
            raise FormatError(f"a weight of {weight.shape} is no 3 x 3 convolution in blocks of {self.block} rows")
        pieces = [self._packed(weight[g * height:(g + 1) * height, g * width:(g + 1) * width])
                  for g in range(self.groups)]
        return {"values": pieces[0] if len(pieces) == 1 else np.concatenate(pieces)}

    def _packed(self, weight: np.ndarray) -> np.ndarray:
        """The values of one group."""
        taps = weight.reshape(len(weight), -1, 3, 3).astype(np.float64)
        points = np.einsum("ia,ocab,jb->ijoc", G, taps, G, optimize=True).astype(np.float32)
        points = points.reshape(POINTS, *taps.shape[:2])
        first = np.minimum(np.arange(0, len(weight), self.block), len(weight) - self.block)
        rows = first[:, None] + np.arange(self.block)
        packed: np.ndarray = points[:, rows].transpose(1, 0, 3, 2).ravel()
        return packed


def panels(weight: np.ndarray, lanes: int, vectors: int) -> np.ndarray:
    """A weight (outputs, channels, 3, 3) at its points as (panel, point, channel, output), flat.

    Panels are of so many vectors of outputs; the last one overlaps that before it, and outputs beyond the last of a
    single one are 0. Channels are whole vectors, of which the last one overlaps that before it, with weights of 0 for
    the channels that it repeats.
    """
    outputs, channels = weight.shape[:2]
    panel, depth, inside = lanes * vectors, -(-channels // lanes) * lanes, channels // lanes * lanes
    points = np.einsum("ia,ocab,jb->ijco", G, weight.astype(np.float64), G, optimize=True).astype(np.float32)
    points = points.reshape(POINTS, channels, outputs)
    whole = np.zeros((POINTS, depth, max(panel, outputs)), np.float32)
    whole[:, :inside, :outputs] = points[:, :inside]
    whole[:, depth - (channels - inside):, :outputs] = points[:, inside:]
    first = np.minimum(np.arange(0, outputs, panel), max(0, outputs - panel))
    return np.ascontiguousarray(whole[:, :, first[:, None] + np.arange(panel)].transpose(2, 0, 1, 3)).reshape(-1)
