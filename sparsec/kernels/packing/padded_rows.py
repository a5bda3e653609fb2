"""Padded rows: the arrays of the scalar CSR kernel, rows of whole iterations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.kernels.packing.recipe import Recipe, balanced


@dataclass(frozen=True)
class PaddedRows(Recipe):
    """The fields of `kernels.cpu.rows.csr_vector.CsrParams` that decide the layout."""

    unroll: int
    threads: int
    column_dtype: str

    def elements(self, rows: int, columns: int) -> int:
        """The weight's, each row in whole iterations."""
        return rows * (columns + self.unroll) + self.threads

    def pack(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """`starts`, `parts`, `columns` and `values`, see `kernels.cpu.rows.csr_vector.recipe`."""
        counts = (weight != 0).sum(axis=1)
        first = np.concatenate([[0], np.cumsum(-(-counts // self.unroll))])
        row, column = np.nonzero(weight)
        place = first[row] * self.unroll + np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
        slots = max(int(first[-1]), 1) * self.unroll  # never empty, so that every buffer has an address
        columns, values = np.zeros(slots, self.column_dtype), np.zeros(slots, np.float32)
        columns[place], values[place] = column, weight[row, column]
        return {"starts": first.astype(np.int32), "parts": balanced(first, self.threads),
                "columns": columns, "values": values}
