"""The transforms of minimal filtering (`kernels.packing.filtering`) along one side of a tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from sparsec.kernels.emit.tir import Expr
from sparsec.kernels.packing.filtering import POINTS, Filtering

Hold = Callable[[Expr], Expr]
"""Gives a value that is used more than once a name."""


def evaluated(filtering: Filtering, d: Sequence[Expr], hold: Hold) -> list[Expr]:
    """B^T d: inputs to points. A point and its negative share the sums over even and over odd inputs."""
    rows, finite = filtering.inputs, filtering.finite
    found: dict[int, Expr] = {0: _sum(rows[0], d)}
    for number, point in enumerate(finite, 1):
        if number in found:
            continue
        if point and -point in finite:
            other = finite.index(-point) + 1
            pairs = list(zip(rows[number], rows[other], strict=True))
            same, opposite = (hold(_sum([(a + sign * b) / 2 for a, b in pairs], d)) for sign in (1, -1))
            found[number], found[other] = same + opposite, same - opposite
        else:
            found[number] = _sum(rows[number], d)
    return [found[number] for number in range(len(rows))]


def interpolated(outputs: int, m: Sequence[Expr], hold: Hold) -> list[Expr]:
    """A^T m: points to outputs."""
    finite = POINTS[outputs][:len(m) - 1]
    terms: list[list[tuple[Fraction, Expr]]] = [[] for _ in range(outputs)]
    for number, point in enumerate(finite, 1):
        if point and -point in finite:
            if finite.index(-point) + 1 < number:
                continue
            other = m[finite.index(-point) + 1]
            values = hold(m[number] + other), hold(m[number] - other)
        else:
            values = m[number], m[number]
        for power in range(outputs):
            terms[power].append((point**power, values[power % 2]))
    terms[-1].append((Fraction(1), m[0]))
    return [_sum(*zip(*each, strict=True)) for each in terms]


def _sum(factors: Sequence[Fraction], values: Sequence[Expr]) -> Expr:
    """The sum of the products whose factor is not zero; those with one come first."""
    terms = [(factor, value) for factor, value in zip(factors, values, strict=True) if factor]
    (first, value), *rest = sorted(terms, key=lambda each: (each[0] != 1, abs(each[0]) != 1))
    total = value if first == 1 else value * float(first)
    for factor, value in rest:
        scaled = value if abs(factor) == 1 else value * float(abs(factor))
        total = total + scaled if factor > 0 else total - scaled
    return total
