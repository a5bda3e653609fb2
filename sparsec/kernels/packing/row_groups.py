"""Row groups: the arrays of the sparse product kernels, K-chunked CSR of R x 1 blocks whose rows run in groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.columns import read_offsets
from sparsec.kernels.packing.recipe import Recipe


@dataclass(frozen=True)
class RowGroups(Recipe):
    """What `kernels.cpu.products.row_blocks` computes from its parameters.

    Attributes:
        blocks, block: row blocks, and the rows of one.
        group, groups: row blocks in flight, and groups of one part of a section.
        unroll: non-zero blocks of a row per iteration.
        parts: equal shares of work.
        chunk_columns, chunks: columns of a K-chunk, and K-chunks.
        channel_step, tap_offsets: floats from a channel to the next where the kernel reads, and to each tap of one.
        index_unit: floats that an index counts.
        word: type of the loads that bring indices.
        sections: equal blocks on the diagonal of the weight beside which all is zero; no chunk lies in two.

    """

    blocks: int
    block: int
    group: int
    groups: int
    unroll: int
    parts: int
    chunk_columns: int
    chunks: int
    channel_step: int
    tap_offsets: tuple[int, ...]
    index_unit: int
    word: str
    sections: int = 1

    def elements(self, rows: int, columns: int) -> int:
        """Those of all groups, were every row dense and every chunk in whole iterations."""
        shares = self.parts * self.groups * self.group
        return max(rows, shares * self.block) * (columns + self.chunks * self.unroll)

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `rows`, `indices` and `values`, see `kernels.cpu.products.row_blocks.recipe`."""
        p, tapped = self, self.chunk_columns
        member = weight.reshape(p.blocks, p.block, -1)
        present = (member != 0).any(axis=1)
        if not present.any():  # an all-zero weight keeps one explicit zero, so that no index is special
            present[0, 0] = True
        block, column = (each.astype(np.int32) for each in np.nonzero(present))
        stored = member.swapaxes(1, 2)[present].astype(np.float32, copy=False)
        counts = np.bincount(block * p.chunks + column // tapped, minlength=p.blocks * p.chunks)
        counts = counts.reshape(p.blocks, p.chunks)
        first_of = np.concatenate([[0], np.cumsum(counts.ravel())]).astype(np.int32)

        dealt = np.concatenate([self._dealt(section, counts) for section in range(p.sections)], axis=1)
        count = np.where(dealt >= 0, counts[dealt, np.arange(p.chunks)[None, :, None]], -1)
        rank = np.argsort(-count, axis=2, kind="stable")
        blocks = np.take_along_axis(dealt, rank, axis=2).reshape(-1, p.group)  # (part, chunk, group) x member
        count = np.maximum(np.take_along_axis(count, rank, axis=2).reshape(-1, p.group), 0)
        iterations = -(-count.max(axis=1) // p.unroll)
        starts = np.concatenate([[0], np.cumsum(iterations)])

        owner = np.repeat(np.arange(len(iterations)), iterations)
        step = np.arange(len(owner)) - starts[owner]
        position = (step[:, None] * p.unroll + np.arange(p.unroll)).astype(np.int32)[:, :, None]
        origin = first_of[blocks * p.chunks + (np.arange(len(blocks)) // p.groups % p.chunks)[:, None]]
        count = count.astype(np.int32)[owner][:, None, :]
        # Past a row's end its last position repeats with value zero: the load stays inside the chunk.
        source = origin[owner][:, None, :] + np.minimum(position, np.maximum(count - 1, 0))
        np.minimum(source, len(column) - 1, out=source)
        offset = read_offsets(column % tapped, p.channel_step, p.tap_offsets, p.index_unit)[source]
        offset[np.broadcast_to(count == 0, offset.shape)] = p.tap_offsets[0] // p.index_unit
        values = stored[source]
        values[position >= count] = 0
        return {
            "starts": starts.astype(np.int32),
            "rows": np.where(blocks >= 0, blocks * p.block, -1).astype(np.int32).ravel(),
            "indices": offset.astype(np.int32 if p.word == "int32" else np.uint16).ravel().view(p.word),
            "values": values.ravel(),
        }

    def _dealt(self, section: int, counts: np.ndarray) -> np.ndarray:
        """The row blocks of a section, (parts, its chunks, blocks), by counts (blocks, chunks); -1 fills parts."""
        own = self.blocks // self.sections
        dealt = deal(counts[section * own:(section + 1) * own].sum(axis=1), self.parts, self.groups * self.group)
        dealt = np.where(dealt >= 0, dealt + section * own, -1)
        return dealt[:, None, :].repeat(self.chunks // self.sections, axis=1)


def deal(counts: np.ndarray, parts: int, per_part: int) -> np.ndarray:
    """Row blocks of every part, (parts, per_part): by falling count, dealt back and forth; -1 fills short parts."""
    order = np.argsort(-counts, kind="stable")
    order = np.concatenate([order, np.full(parts * per_part - len(order), -1)])
    hands = order.reshape(per_part, parts)
    hands[1::2] = hands[1::2, ::-1]
    return np.ascontiguousarray(hands.T)
