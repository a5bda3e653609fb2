"""Exchanges between vector registers."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Expr


def transpose(rows: list[Expr], lanes: int) -> list[Expr]:
    """A lanes x lanes transpose: log2(lanes) rounds swap the off-diagonal blocks of every size."""
    rows = [T.Bind(row) for row in rows]
    size = 1
    while size < lanes:
        upper = [i + lanes - size if i & size else i for i in range(lanes)]
        lower = [i + lanes if i & size else i + size for i in range(lanes)]
        swapped = list(rows)
        for i in range(lanes):
            if not i & size:
                pair = [rows[i], rows[i + size]]
                swapped[i], swapped[i + size] = T.Bind(T.Shuffle(pair, upper)), T.Bind(T.Shuffle(pair, lower))
        rows, size = swapped, size * 2
    return rows
