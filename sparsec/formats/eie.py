"""EIE's storage (Han et al., ISCA 2016, section III): interleaved compressed sparse columns of entries.

Rows are interleaved over the processing elements (PEs): PE k owns row i where i mod PEs = k. Within a PE, a column is a
list of entries, each a code (an index into the codebook; code 0 is the value zero) and the number of zeros before it
since the previous entry of the column. A run longer than the index can hold is broken by padding: an entry of code 0
and the longest run, which advances 2**index_bits rows. Zeros behind a column's last entry are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.errors import FormatError

Codes = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class InterleavedColumns:
    """A matrix of codes as the PEs hold it.

    Attributes:
        shape: rows and columns of the matrix.
        index_bits: bits of a run.
        codes: (entries,) codes, PE after PE, column after column, row after row.
        runs: (entries,) uint8 zeros before each entry.
        pointers: (pes, columns + 1) int64 first entry of each column, counted from the PE's own first entry.

    """

    shape: tuple[int, int]
    index_bits: int
    codes: Codes
    runs: NDArray[np.uint8]
    pointers: NDArray[np.int64]

    @property
    def pes(self) -> int:
        """Processing elements that the rows are interleaved over."""
        return len(self.pointers)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(columns, pes) entries, padding included."""
        return np.diff(self.pointers, axis=1).T

    @property
    def base(self) -> NDArray[np.int64]:
        """(pes + 1,) where each PE's entries begin in `codes` and `runs`."""
        return np.concatenate(([0], np.cumsum(self.pointers[:, -1])))

    @property
    def padding(self) -> NDArray[np.bool_]:
        """(entries,) whether an entry is padding."""
        return np.equal(self.codes, 0)


def encode(codes: Codes, pes: int = 1, index_bits: int = 4) -> InterleavedColumns:
    """Store a (rows, columns) matrix of codes; `decode` is the exact inverse.

    With one PE and one column this is Deep Compression's run-length code of a flat array.

    Raises:
        FormatError: the index is not of 1 to 8 bits, or there are not 1 to 65,536 PEs.

    """
    if not (1 <= index_bits <= 8 and 1 <= pes <= 1 << 16):
        raise FormatError(f"eie: {pes} PEs and {index_bits}-bit runs; 1 to 65536 PEs and 1 to 8 bits are possible")
    columns = codes.shape[1]
    column, row = np.nonzero(np.ascontiguousarray(codes.T))
    if pes > 1:
        order = np.argsort((row % pes).astype(np.uint16), kind="stable")
        column, row = column[order], row[order]
    pe, local = row % pes, row // pes
    slot = pe * columns + column
    gap = local.copy()
    follows = slot[1:] == slot[:-1]
    gap[1:] -= np.where(follows, local[:-1] + 1, 0)
    padding, run = gap >> index_bits, gap & ((1 << index_bits) - 1)
    last = np.cumsum(padding + 1) - 1  # where each non-zero lies, behind its padding
    total = last[-1] + 1 if len(last) else 0
    values = np.zeros(total, codes.dtype)
    values[last] = codes[row, column]
    runs = np.full(total, (1 << index_bits) - 1, np.uint8)
    runs[last] = run
    counts = np.bincount(slot, padding + 1, minlength=pes * columns).astype(np.int64).reshape(pes, columns)
    pointers = np.zeros((pes, columns + 1), np.int64)
    np.cumsum(counts, axis=1, out=pointers[:, 1:])
    return InterleavedColumns((codes.shape[0], columns), index_bits, values, runs, pointers)


def positions(stored: InterleavedColumns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of every entry, padding included."""
    counts = stored.counts.T.ravel()  # PE after PE, column after column
    slot = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(stored.runs.astype(np.int64) + 1)
    first = np.cumsum(counts) - counts
    before = np.concatenate(([0], ends))[first]
    pe, column = np.divmod(slot, stored.shape[1]) if len(slot) else (slot, slot)
    return (ends - before[slot] - 1) * stored.pes + pe, column


def decode(stored: InterleavedColumns) -> Codes:
    """The (rows, columns) matrix of codes.

    Raises:
        FormatError: an entry lies behind its column's end.

    """
    row, column = positions(stored)
    if row.max(initial=-1) >= stored.shape[0]:
        raise FormatError(f"eie: an entry of row {row.max()} among {stored.shape[0]} rows: the runs are damaged")
    codes = np.zeros(stored.shape, stored.codes.dtype)
    real = ~stored.padding
    codes[row[real], column[real]] = stored.codes[real]
    return codes


def pack(stored: InterleavedColumns, code_bits: int) -> Codes:
    """The entries as words of code and run, the run in the low bits (ESE, Han et al. 2017: 12 + 4 bits).

    Raises:
        FormatError: code and run do not fit 16 bits, or a code does not fit its bits.

    """
    bits = code_bits + stored.index_bits
    if bits > 16 or stored.codes.max(initial=0) >> code_bits:
        raise FormatError(f"eie: code {stored.codes.max(initial=0)} does not fit {code_bits} bits of a 16-bit word")
    words = stored.codes.astype(np.uint16) << np.uint16(stored.index_bits) | stored.runs
    return words.astype(np.uint8 if bits <= 8 else np.uint16)
