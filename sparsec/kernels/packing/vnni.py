"""The VNNI layout: the arrays of the kernels for few rows on 8-bit integers, four inputs of every row side by side.

A dot product of bytes (vpdpbusd) multiplies a group of four bytes and adds them to one 32-bit integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.formats.well import pack_slots, whole_groups
from sparsec.kernels.packing.recipe import Recipe, balanced
from sparsec.kernels.packing.windows import columns_of

LARGEST = 127  # magnitude of a stored weight
GROUP = 4  # inputs that a dot product of bytes takes at once


def quantize(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of a weight (outputs, columns) as float32 and the scale of every row, (outputs,)."""
    largest = np.maximum(weight.max(axis=1, initial=0), -weight.min(axis=1, initial=0))
    scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    integers = weight / scales[:, None]
    return np.rint(integers, out=integers), scales


def by_row(weight: np.ndarray, zero: int, rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The integers, and `begins` (int32) and `scales` (float32) of `rows` rows, for activations around `zero`."""
    integers, scales = quantize(weight)
    missing = rows - len(weight)
    begins = -zero * integers.sum(axis=1, dtype=np.float64)
    return integers.astype(np.int8), {"begins": np.pad(begins, (0, missing)).astype(np.int32),
                                      "scales": np.pad(scales, (0, missing))}


@dataclass(frozen=True)
class VnniBlocks(Recipe):
    """The fields of `kernels.cpu.rows.gemv_int8.GemvInt8Params` that decide the layout."""

    vectors: int
    lanes: int
    zero: int
    threads: int
    bitmap: bool

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`begins`, `scales`, `parts`, `starts`, `bits` and `values`, see `kernels.cpu.rows.gemv_int8.recipe`."""
        height = self.vectors * self.lanes
        count = -(-len(weight) // height)
        integers, arrays = by_row(weight, self.zero, count * height)
        padded = np.pad(integers, ((0, count * height - len(weight)), (0, -weight.shape[1] % GROUP)))
        parts = padded.reshape(count, self.vectors, self.lanes, -1, GROUP).transpose(0, 3, 1, 2, 4)
        blocks = np.ascontiguousarray(parts).reshape(count, -1)
        if not self.bitmap:
            return arrays | {"parts": balanced(np.arange(count + 1), self.threads), "values": blocks.ravel()}
        present = blocks != 0
        starts = np.append(0, np.cumsum(present.sum(axis=1)))
        bits = np.packbits(present.reshape(-1, GROUP * self.lanes), axis=1, bitorder="little").view(np.uint64)
        values = np.append(blocks[present], np.zeros(GROUP * self.lanes, np.int8))  # the last load goes beyond
        return arrays | {"parts": balanced(starts, self.threads), "starts": starts.astype(np.int32),
                         "bits": bits.ravel(), "values": values}


@dataclass(frozen=True)
class VnniWindows(Recipe):
    """The fields of `kernels.cpu.rows.well_int8.WellInt8Params` that decide the layout."""

    lanes: int
    zero: int
    threads: int

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """What the kernel reads, see `kernels.cpu.rows.well_int8.recipe`."""
        integers, arrays = by_row(weight, self.zero, len(weight) + -len(weight) % self.lanes)
        starts, columns, values, bases, step_of = slots_of(integers, self.lanes)
        first = np.concatenate([[0], np.cumsum((bases >= 0).sum(axis=1))])
        slots = max(int(first[-1]), 1)  # never empty, so that every buffer has an address
        row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        group, lane = row // self.lanes, row % self.lanes
        opens = np.append(True, (np.diff(row) != 0) | (np.diff(step_of) != 0))[:len(row)]
        rank = np.arange(len(row)) - np.maximum.accumulate(np.where(opens, np.arange(len(row)), 0))
        place = ((first[group] + step_of) * self.lanes + lane) * GROUP + rank
        indices, stored = np.zeros(slots * self.lanes * GROUP, np.uint8), np.zeros(slots * self.lanes * GROUP, np.int8)
        indices[place], stored[place] = columns - bases[group, step_of], values
        base = np.zeros(slots, np.int32)
        live, step = np.nonzero(bases >= 0)
        base[first[live] + step] = bases[live, step]
        return arrays | {"starts": first.astype(np.int32), "parts": balanced(first, self.threads), "bases": base,
                         "indices": indices, "values": stored}


def slots_of(integers: np.ndarray, lanes: int) -> tuple[np.ndarray, ...]:
    """Row starts, columns and values of the non-zeros, window starts and the slots of the non-zeros."""
    starts, columns, values = columns_of(whole_groups(integers, lanes))
    bases, step_of = pack_slots(starts, columns, integers.shape[1], lanes, GROUP * lanes, GROUP)
    return starts, columns, values, bases, step_of
