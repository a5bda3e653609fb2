"""Tap columns: the arrays of the sparse convolution that sums the taps of every column of a window by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.recipe import Recipe
from sparsec.kernels.packing.row_groups import deal

SAMPLE = 64  # rows that steps are estimated from


@dataclass(frozen=True)
class TapColumns(Recipe):
    """What `kernels.cpu.products.spmm_shifted` computes from its parameters.

    Attributes:
        parts: equal shares of work.
        chunk_columns, chunks: columns of a K-chunk, and K-chunks.
        channel_step: floats from a channel to the next where the kernel reads.
        origin: where the first channel begins.
        tap_offsets: floats from there to the image row that each tap reads.
        tap_sums: the sums, counted from 0, that each tap belongs to.
        columns: pixels that each of the sums reads further right than the first.
        slots: the sums of the places of a step, ascending.
        open: by sums, 1 where non-zeros of other taps may take their places.
        zeros: where the kernel reads zeros.

    """

    parts: int
    chunk_columns: int
    chunks: int
    channel_step: int
    origin: int
    tap_offsets: tuple[int, ...]
    tap_sums: tuple[int, ...]
    columns: tuple[int, ...]
    slots: tuple[int, ...]
    open: tuple[int, ...]
    zeros: int

    @property
    def bits(self) -> int:
        """Of an index: those of a step share a word."""
        return 64 // len(self.slots)

    @property
    def places(self) -> np.ndarray:
        """Places of a step that each of the sums has."""
        return np.bincount(self.slots, minlength=len(self.columns))

    def elements(self, rows: int, columns: int) -> int:
        """Those of all steps, were every row dense and every non-zero alone in its step."""
        return len(self.slots) * rows * (columns + self.chunks)

    def steps(self, counts: np.ndarray) -> np.ndarray:
        """Steps (rows, chunks) for so many non-zeros (rows, chunks, sums): the fewest in which all find a place."""
        steps = -(-counts.sum(axis=2) // len(self.slots))
        opened = np.asarray(self.open, bool)
        while True:
            room = steps[:, :, None] * self.places - counts
            lacking = np.maximum(-room, 0).sum(axis=2) > np.maximum(room, 0)[:, :, opened].sum(axis=2)
            if not lacking.any():
                return np.asarray(steps)
            steps = steps + lacking

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `rows`, `indices` and `values`, see `kernels.cpu.products.spmm_shifted.recipe`."""
        p, sums, width = self, len(self.columns), len(self.slots)
        row, column = np.nonzero(weight)
        chunk, local = np.divmod(column, p.chunk_columns)
        channel, tap = np.divmod(local, len(p.tap_offsets))
        own = np.asarray(p.tap_sums)[tap]
        cell = (row * p.chunks + chunk) * sums + own
        counts = np.bincount(cell, minlength=len(weight) * p.chunks * sums).reshape(len(weight), p.chunks, sums)
        steps = self.steps(counts)
        if not len(row):  # an all-zero weight keeps one step of zeros, so that no array is empty
            steps[0, 0] = 1

        per_part = -(-len(weight) // p.parts)
        dealt = deal(counts.sum(axis=(1, 2)), p.parts, per_part)[:, None, :].repeat(p.chunks, axis=1)
        length = np.where(dealt >= 0, steps[dealt, np.arange(p.chunks)[None, :, None]], 0)
        rank = np.argsort(-np.where(dealt >= 0, length, -1), axis=2, kind="stable")
        rows, length = (np.take_along_axis(each, rank, axis=2) for each in (dealt, length))
        starts = np.concatenate([[0], length.ravel().cumsum()])
        first = np.zeros((len(weight), p.chunks), np.int64)  # step of a row in a chunk
        present = rows >= 0
        first[rows[present], np.broadcast_to(np.arange(p.chunks)[None, :, None], rows.shape)[present]] = (
            starts[:-1].reshape(rows.shape)[present])

        place, taken = self._placed(row * p.chunks + chunk, own, counts.reshape(-1, sums), steps.ravel())
        step = first[row, chunk] + place // p.places[taken]
        slot = np.searchsorted(p.slots, taken) + place % p.places[taken]
        offset = p.origin + channel * p.channel_step + np.asarray(p.tap_offsets)[tap]
        offset = offset + np.asarray(p.columns)[own] - np.asarray(p.columns)[taken]
        indices = np.full((starts[-1], width), p.zeros, np.uint64)
        values = np.zeros((starts[-1] + 1, width), np.float32)  # a load brings four, of the last step, too
        indices[step, slot] = offset
        values[step, slot] = weight[row, column]
        shifts = np.arange(width, dtype=np.uint64) * np.uint64(p.bits)
        return {
            "starts": starts.astype(np.int32),
            "rows": rows.astype(np.int32).ravel(),
            "indices": np.bitwise_or.reduce(indices << shifts, axis=1),
            "values": np.append(values.ravel(), np.zeros(-values.size % 4, np.float32)),
        }

    def _placed(self, line: np.ndarray, own: np.ndarray, counts: np.ndarray, steps: np.ndarray
                ) -> tuple[np.ndarray, np.ndarray]:
        """The place of every non-zero, numbered in a line of (row, chunk), and the sums that it is among.

        What finds no place among its own sums goes where there is room, in the order of the sums.
        """
        order = np.argsort(line * len(self.columns) + own, kind="stable")
        begins = np.concatenate([[0], counts.ravel().cumsum()])[:-1].reshape(counts.shape)
        place = np.empty(len(line), np.int64)
        place[order] = np.arange(len(line))
        place -= begins[line, own]
        limit = steps[:, None] * self.places
        taken = own.copy()
        over = np.flatnonzero(place >= limit[line, own])
        surplus = np.maximum(counts - limit, 0)
        number = place[over] - limit[line[over], own[over]] + (surplus.cumsum(axis=1) - surplus)[line[over], own[over]]
        room = np.where(np.asarray(self.open, bool), np.maximum(limit - counts, 0), 0)
        ends = room.cumsum(axis=1)[line[over]]
        taken[over] = (number[:, None] >= ends).sum(axis=1)
        before = ends[np.arange(len(over)), taken[over]] - room[line[over], taken[over]]
        place[over] = np.minimum(counts, limit)[line[over], taken[over]] + number - before
        return place, taken


def expected_steps(weight: np.ndarray, recipe: TapColumns) -> tuple[float, float]:
    """Steps of all rows and chunks, and non-zeros that take other taps' places, estimated from some of the rows."""
    sample = weight[np.linspace(0, len(weight) - 1, min(SAMPLE, len(weight))).astype(int)]
    taps = len(recipe.tap_offsets)
    padded = np.zeros((len(sample), recipe.chunks * recipe.chunk_columns), bool)
    padded[:, :sample.shape[1]] = sample != 0
    by_tap = padded.reshape(len(sample), recipe.chunks, recipe.chunk_columns // taps, taps).sum(axis=2)
    counts = by_tap @ np.eye(len(recipe.columns), dtype=np.int64)[list(recipe.tap_sums)]
    steps = recipe.steps(counts)
    strays = np.maximum(counts - steps[:, :, None] * recipe.places, 0).sum()
    return float(steps.sum() * len(weight) / len(sample)), float(strays * len(weight) / len(sample))
