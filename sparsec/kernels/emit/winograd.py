"""The transforms of Winograd's minimal filtering F(2, 3), along one side of a tile.

Those of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, section 4.1; that of weights is in
`kernels.packing.winograd`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsec.kernels.emit.tir import Expr


def combined(d: Sequence[Expr]) -> list[Expr]:
    """B^T d: four inputs to four points."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def reduced(m: Sequence[Expr]) -> list[Expr]:
    """A^T m: four points to two pixels."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
