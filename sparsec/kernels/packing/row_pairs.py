"""Row pairs: the arrays of the product kernel whose rows run in pairs and share the loads of what both multiply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.columns import numbered, read_offsets
from sparsec.kernels.packing.recipe import Recipe
from sparsec.kernels.packing.row_groups import deal

WINDOW = 64  # rows among which each finds its partner; even
SLAB = 1 << 23  # pairs of rows of a window that are compared at once
NEVER = 1 << 20  # more steps than any pair takes


@dataclass(frozen=True)
class RowPairs(Recipe):
    """What `kernels.cpu.products.spmm_pairs` computes from its parameters.

    Artifacts store the arrays: they take fewer bytes than CSR, and finding partners takes longer than reading them.

    Attributes:
        pairs, groups: pairs of rows in flight, and groups of so many in one part.
        shared: columns of a step that both rows of a pair multiply.
        single: columns of a step that one row multiplies, for each.
        parts: equal shares of work.
        chunk_columns, chunks: columns of a K-chunk, and K-chunks.
        channel_step, tap_offsets: floats from a channel to the next where the kernel reads, and to each tap of one.
        index_unit: floats that an index counts.

    """

    pairs: int
    groups: int
    shared: int
    single: int
    parts: int
    chunk_columns: int
    chunks: int
    channel_step: int
    tap_offsets: tuple[int, ...]
    index_unit: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `rows`, `indices` and `values`, see `kernels.cpu.products.spmm_pairs.recipe`."""
        p = self
        # Behind the last row stands one of zeros, for those that a part lacks.
        dealt = deal(np.count_nonzero(weight, axis=1), p.parts, 2 * p.pairs * p.groups)
        windows = -(-dealt.shape[1] // WINDOW)
        filled = np.full((p.parts, windows * WINDOW), -2)
        filled[:, :dealt.shape[1]] = dealt
        rows = filled.reshape(-1, WINDOW)
        padded = np.concatenate([weight, np.zeros((1, weight.shape[1]), weight.dtype)]).astype(np.float32, copy=False)
        found = [self._chunk(padded, rows, chunk) for chunk in range(p.chunks)]
        steps = np.stack([each.steps for each in found], axis=1)  # (part, chunk, group)
        shares = np.concatenate([np.zeros((1, p.chunks), int), steps.sum(axis=2).cumsum(axis=0)])  # from part to part

        def by_part(arrays: list[np.ndarray]) -> np.ndarray:
            return np.concatenate([arrays[chunk][shares[part, chunk]:shares[part + 1, chunk]].ravel()
                                   for part in range(p.parts) for chunk in range(p.chunks)])

        return {
            "starts": np.concatenate([[0], steps.ravel().cumsum()]).astype(np.int32),
            "rows": np.stack([each.rows for each in found], axis=1).astype(np.int32).ravel(),
            "indices": by_part([each.indices for each in found]),
            "values": by_part([each.values for each in found]),
        }

    def _chunk(self, weight: np.ndarray, rows: np.ndarray, chunk: int) -> _Chunk:
        """A chunk of the weight, which ends with a row of zeros; see `_partners` for `rows`."""
        p = self
        columns = weight[:, chunk * p.chunk_columns:(chunk + 1) * p.chunk_columns]
        present = columns != 0
        both = _partners(present, rows, p.shared, p.single)
        first, second = (present[both[:, side]] for side in (0, 1))
        steps = _steps(first.sum(axis=1), second.sum(axis=1), (first & second).sum(axis=1), p.shared, p.single)
        steps = steps.reshape(p.parts, -1)
        rank = np.argsort(-steps, axis=1, kind="stable")
        ordered = (rank + np.arange(p.parts)[:, None] * rank.shape[1]).ravel()
        steps = np.maximum(np.take_along_axis(steps, rank, axis=1).reshape(p.parts, p.groups, p.pairs).max(axis=2), 1)
        filled = self._filled(columns, both[ordered], first[ordered], second[ordered], steps.ravel())
        return _Chunk(both[ordered].reshape(p.parts, p.groups, p.pairs, 2), steps, *filled)

    def _filled(self, columns: np.ndarray, both: np.ndarray, first: np.ndarray, second: np.ndarray,
                steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`indices` and `values`, a line a step, of the pairs (n, 2) of rows, in groups of so many steps.

        `first` and `second` (n, columns) tell the non-zeros of the pairs' rows.
        """
        p = self
        begin = np.repeat(np.concatenate([[0], steps.cumsum()[:-1]]), p.pairs)
        limit = np.repeat(steps, p.pairs)
        member = np.tile(np.arange(p.pairs), len(steps))
        width, height = p.shared + 2 * p.single, 2 * (p.shared + p.single)
        total = int(steps.sum()) * p.pairs
        offsets = read_offsets(
            np.arange(columns.shape[1]), self.channel_step, self.tap_offsets, self.index_unit).astype(np.uint16)
        indices = np.full((total, width), p.tap_offsets[0] // p.index_unit, np.uint16)
        values = np.zeros((total, height), np.float32)

        def put(pair: np.ndarray, column: np.ndarray, slot: np.ndarray, side: int | None) -> None:
            """Enter columns of pairs by the number of their place, single ones of a row or, for None, shared ones."""
            places, start = (p.shared, 0) if side is None else (p.single, p.shared)
            step = (begin[pair] + slot // places) * p.pairs + member[pair]
            at = start + slot % places if side is None else start + 2 * (slot % places) + side
            indices[step, at] = offsets[column]
            for row in (0, 1) if side is None else (side,):
                values[step, 2 * (start + slot % places) + row] = columns[both[pair, row], column]

        own = first.copy(), second.copy()
        pair, column, slot = numbered(first & second)
        fits = slot < (limit * p.shared)[pair]
        pair, column = pair[fits], column[fits]
        put(pair, column, slot[fits], None)
        taken = np.bincount(pair, minlength=len(both))
        for side, rest in enumerate(own):
            rest[pair, column] = False
            row_pair, row_column, slot = numbered(rest)
            room = (limit * p.single)[row_pair]
            fits = slot < room
            put(row_pair[fits], row_column[fits], slot[fits], side)
            # What finds no place of its own takes a shared one, where the other row has a zero.
            over = row_pair[~fits]
            put(over, row_column[~fits], taken[over] + (slot - room)[~fits], None)
            taken = taken + np.bincount(over, minlength=len(both))
        return indices.reshape(-1, p.pairs * width), values.reshape(-1, p.pairs * height)


@dataclass(frozen=True)
class _Chunk:
    """Rows (part, group, pair, 2) and steps (part, group) of a chunk, its indices and values a line a step."""

    rows: np.ndarray
    steps: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def expected_steps(weight: np.ndarray, chunk_columns: int, shared: int, single: int) -> float:
    """Steps that a pair of rows takes in a chunk, from one window of rows and a few chunks."""
    sample = weight[np.linspace(0, len(weight) - 1, min(WINDOW, len(weight) // 2 * 2)).astype(int)]
    chunks = max(1, weight.shape[1] // chunk_columns)
    rows = np.full((1, WINDOW), -2)
    rows[0, :len(sample)] = np.argsort(-np.count_nonzero(sample, axis=1), kind="stable")
    found = []
    for chunk in sorted({0, chunks // 2, chunks - 1}):
        present = sample[:, chunk * chunk_columns:(chunk + 1) * chunk_columns] != 0
        first, second = (present[each] for each in _partners(present, rows, shared, single).T)
        found.append(_steps(first.sum(axis=1), second.sum(axis=1), (first & second).sum(axis=1), shared, single).mean())
    return float(np.mean(found))


def _steps(first: np.ndarray, second: np.ndarray, common: np.ndarray, shared: int, single: int) -> np.ndarray:
    """The steps of pairs of rows with so many non-zeros, of which so many lie in columns that both have.

    A shared place holds a column of both rows or of one, a single place one of its own row.
    """
    longest = -(-np.maximum(first, second) // (shared + single))
    return np.asarray(np.maximum(longest, -(-(first + second - common) // (shared + 2 * single)))).astype(np.int32)


def _partners(present: np.ndarray, rows: np.ndarray, shared: int, single: int) -> np.ndarray:
    """The rows of every window (n, WINDOW), where -2 stands for none, in pairs that take few steps, (pairs, 2).

    `present` tells the non-zeros (rows, columns). One row after the other takes its best partner, that with the fewest
    good ones first.
    """
    slab = max(1, SLAB // WINDOW ** 2)
    return np.concatenate([_matched(present, rows[at:at + slab], shared, single) for at in range(0, len(rows), slab)])


def _matched(present: np.ndarray, rows: np.ndarray, shared: int, single: int) -> np.ndarray:
    bits = present[rows].astype(np.float32)  # (windows, WINDOW, columns)
    common = (bits @ bits.swapaxes(1, 2)).astype(np.int32)
    count = common.diagonal(axis1=1, axis2=2)
    first, second = count[:, :, None], count[:, None, :]
    need = _steps(first, second, common, shared, single)
    good = need <= -(-np.maximum(first, second) // (shared + single))
    missing = rows == -2
    if missing.any():
        unequal = missing[:, :, None] != missing[:, None, :]
        need[unequal] = NEVER
        good &= ~unequal
    diagonal = np.arange(WINDOW)
    need[:, diagonal, diagonal] = NEVER
    good[:, diagonal, diagonal] = False
    degree = good.sum(axis=2, dtype=np.int32)
    free, every = np.ones(rows.shape, bool), np.arange(len(rows))
    pairs = np.empty((len(rows), WINDOW // 2, 2), np.int64)
    for index in range(WINDOW // 2):
        one = np.where(free, degree, NEVER).argmin(axis=1)
        free[every, one] = False
        other = np.where(free, need[every, one] * (WINDOW + 1) + degree, NEVER * (WINDOW + 2)).argmin(axis=1)
        free[every, other] = False
        degree = degree - good[every, one] - good[every, other]
        pairs[:, index] = np.stack([one, other], axis=1)
    found = rows[every[:, None, None], np.sort(pairs, axis=2)].reshape(-1, 2)
    return np.asarray(found[(found != -2).all(axis=1)])
