"""Matched rows: the arrays of the product kernel for pairs of rows of few non-zeros that share what loads they can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparsec.kernels.packing.columns import numbered, read_offsets
from sparsec.kernels.packing.recipe import Recipe
from sparsec.kernels.packing.row_groups import deal

WINDOW = 128  # rows among which each finds its partner; even
SAMPLED = 128  # rows that expectations are taken from


@dataclass(frozen=True)
class MatchedRows(Recipe):
    """What `kernels.cpu.products.spmm_matched` computes from its parameters.

    Artifacts store the arrays: they take fewer bytes than CSR, and finding partners takes longer than reading them.

    Attributes:
        pairs: pairs of rows in one part.
        parts: equal shares of work.
        chunk_columns, chunks: columns of a K-chunk, and K-chunks.
        channel_step, tap_offsets: floats from a channel to the next where the kernel reads, and to each tap of one.
        index_unit: floats that an index counts.

    """

    pairs: int
    parts: int
    chunk_columns: int
    chunks: int
    channel_step: int
    tap_offsets: tuple[int, ...]
    index_unit: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `heads`, `indices` and `values`, see `kernels.cpu.products.spmm_matched.recipe`."""
        p = self
        dealt = deal(np.count_nonzero(weight, axis=1), p.parts, 2 * p.pairs)
        padded = np.concatenate([weight, np.zeros((1, weight.shape[1]), weight.dtype)])  # row -1 stands for none
        found = [self._chunk(padded[:, chunk * p.chunk_columns:(chunk + 1) * p.chunk_columns], rows)
                 for rows in dealt for chunk in range(p.chunks)]
        sizes = [len(each.indices) // 2 for each in found]
        heads = np.concatenate([each.heads.ravel() for each in found])
        return {
            "starts": np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32),
            "heads": np.concatenate([heads, np.zeros(4)]).astype(np.int32),  # the last one's next
            "indices": np.concatenate([each.indices for each in found]),
            "values": np.concatenate([each.values for each in found]),
        }

    def _chunk(self, columns: np.ndarray, rows: np.ndarray) -> _Chunk:
        """A chunk of the columns, whose last row is zero, for the rows of a part."""
        present = columns != 0
        both = _partners(present, rows)
        first, second = (present[both[:, side]] for side in (0, 1))
        longest, common = _lengths(first, second)
        steps = shared_steps(longest, common)
        order = np.lexsort((-longest, -steps))
        both, first, second, longest, steps = (each[order] for each in (both, first, second, longest, steps))
        alone = longest - 2 * steps
        indices, values = self._filled(columns, both, first, second, steps, alone)
        return _Chunk(np.column_stack([steps, alone, both]), indices, values)

    def _filled(self, columns: np.ndarray, both: np.ndarray, first: np.ndarray, second: np.ndarray,
                sharing: np.ndarray, alone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices and values of the pairs (n, 2) with so many steps that share, and then so many alone.

        `first` and `second` (n, columns) tell the non-zeros of the pairs' rows. An entry has room for two of each: a
        step that shares is the two entries (shared column, the first row's own, the second's, none) and (the weights
        of the shared one, of the own ones); a step alone is one entry.
        """
        entries = 2 * sharing + alone
        begin = 2 * np.concatenate([[0], entries.cumsum()[:-1]])
        offsets = read_offsets(
            np.arange(columns.shape[1]), self.channel_step, self.tap_offsets, self.index_unit).astype(np.uint16)
        both_read = first & second
        own_first = np.stack([first.argmax(axis=1), second.argmax(axis=1)], axis=1)
        filler = np.where(both_read.any(axis=1)[:, None], both_read.argmax(axis=1)[:, None], own_first)
        indices = np.repeat(offsets[filler], entries, axis=0).ravel()
        values = np.zeros(len(indices), np.float32)
        pair, column, slot = numbered(first & second)
        fits = slot < sharing[pair]
        pair, column, slot = pair[fits], column[fits], slot[fits]
        at = begin[pair] + 4 * slot
        indices[at] = offsets[column]
        for side in (0, 1):
            values[at + side] = columns[both[pair, side], column]
        for side, rest in enumerate((first.copy(), second.copy())):
            rest[pair, column] = False
            own, own_column, own_slot = numbered(rest)
            beside, step = own_slot < sharing[own], begin[own] + 4 * own_slot
            later = begin[own] + 2 * (sharing[own] + own_slot)
            indices[np.where(beside, step + 1, later) + side] = offsets[own_column]
            values[np.where(beside, step + 2, later) + side] = columns[both[own, side], own_column]
        return indices, values


class _Chunk(NamedTuple):
    """A part in a chunk: steps that share, steps alone and rows of its pairs (pair, 4), indices and values."""

    heads: np.ndarray
    indices: np.ndarray
    values: np.ndarray


class Expected(NamedTuple):
    """Steps that a pair takes in a chunk on average: those with a shared column, and those without."""

    sharing: float
    alone: float


def expected_steps(weight: np.ndarray, chunk_columns: int) -> Expected:
    """Steps of a pair in a chunk, from some rows and a few chunks."""
    sample = weight[np.linspace(0, len(weight) - 1, min(SAMPLED, len(weight) // 2 * 2)).astype(int)]
    chunks = max(1, weight.shape[1] // chunk_columns)
    found = []
    for chunk in sorted({0, chunks // 2, chunks - 1}):
        present = sample[:, chunk * chunk_columns:(chunk + 1) * chunk_columns] != 0
        first, second = (present[each] for each in _partners(present, np.arange(len(sample))).T)
        longest, common = _lengths(first, second)
        sharing = shared_steps(longest, common)
        found.append((sharing.mean(), (longest - 2 * sharing).mean()))
    return Expected(*np.mean(found, axis=0).tolist())


def shared_steps(longest: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Steps with a shared column of pairs of rows; each has one of either row's own as well, or a place for it."""
    return np.asarray(np.minimum(common, longest // 2))


def _lengths(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-zeros of the longer row of every pair, and columns in which both have one."""
    return np.maximum(first.sum(axis=1), second.sum(axis=1)), (first & second).sum(axis=1)


def _partners(present: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """An even number of rows, -1 among them, in pairs with few steps and many common columns, (pairs, 2).

    `present` tells the non-zeros (rows, columns); its last row stands for -1. Rows of about equal counts find their
    partners among each other: those first that have most in common.
    """
    ranked = rows[np.argsort(-present[rows].sum(axis=1), kind="stable")]
    return np.concatenate([_matched(present, ranked[at:at + WINDOW]) for at in range(0, len(ranked), WINDOW)])


def _matched(present: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of a window in pairs: greedy, by common columns less what their counts differ by."""
    bits = present[rows].astype(np.float32)
    common = (bits @ bits.T).astype(np.int32)
    count = common.diagonal()
    one, other = np.triu_indices(len(rows), 1)
    gain = common[one, other] - np.abs(count[one] - count[other])
    order = np.argsort(-gain, kind="stable")[:np.count_nonzero(gain >= 0)]
    free = np.ones(len(rows), bool)
    pairs: list[tuple[int, int]] = []
    for a, b in zip(one[order].tolist(), other[order].tolist(), strict=True):
        if free[a] and free[b]:
            free[a] = free[b] = False
            pairs.append((a, b))
    rest = np.flatnonzero(free)  # by falling count, so that neighbours are about as long
    return np.asarray(rows[np.concatenate([np.asarray(pairs, int).reshape(-1, 2), rest.reshape(-1, 2)])])
