"""Cutting a matrix into segments: what one set of pointers and the register files can hold (Han et al., section IV).

A segment has at most as many rows and columns as the register files of all PEs hold activations (batches), pointers for
all its columns, and entries that the pointers reach from the segment's base address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparsec.backends.accelerators.eie.architecture import Architecture
from sparsec.errors import SimulationError
from sparsec.formats import eie


@dataclass(frozen=True)
class Segment:
    """Rows and columns [start, stop) of a matrix, as the PEs hold them."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    stored: eie.InterleavedColumns


def split(codes: eie.Codes, bias: bool, arch: Architecture, name: str) -> list[Segment]:  # noqa: FBT001 - data
    """Cut a matrix of codes: batches of rows and, in each, segments of columns in ascending order.

    Args:
        codes: (rows, columns).
        bias: whether the last column is a bias, whose activation needs no register.
        arch: the accelerator.
        name: of the layer, for the error.

    Raises:
        SimulationError: not even one column of a batch fits.

    """
    rows, columns = codes.shape
    inputs = columns - bias
    step = min(arch.batch, max(1, arch.segment_columns - 1))
    starts = range(0, max(inputs, 1), step)
    bounds = [(start, columns if start + step >= inputs else start + step) for start in starts]
    return [segment for top in range(0, rows, arch.batch) for start, stop in bounds
            for segment in _fit(codes, (top, min(top + arch.batch, rows)), (start, stop), arch, name)]


def _fit(codes: eie.Codes, rows: tuple[int, int], columns: tuple[int, int], arch: Architecture, name: str,
         ) -> Iterator[Segment]:
    """The block as one segment, or as the segments of its halves where a PE has too many entries."""
    stored = eie.encode(codes[slice(*rows), slice(*columns)], arch.pes, arch.index_bits)
    most = int(stored.pointers[:, -1].max(initial=0))
    start, stop = columns
    if most <= arch.segment_entries:
        yield Segment(rows, columns, stored)
    elif stop - start > 1:
        middle = (start + stop) // 2
        yield from _fit(codes, rows, (start, middle), arch, name)
        yield from _fit(codes, rows, (middle, stop), arch, name)
    else:
        raise SimulationError(
            f"layer '{name}': column {start} alone has {most} entries in a PE, which holds {arch.segment_entries}; "
            "use more PEs, a larger weight SRAM or wider pointers")


def most_entries(segments: Sequence[Segment]) -> int:
    """Entries of the PE that holds the most."""
    return int(np.sum([segment.stored.pointers[:, -1] for segment in segments], axis=0).max(initial=0))
