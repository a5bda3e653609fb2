"""Walking rows of any length by vectors, and folding a vector into one element."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Expr, load, registers, splat, store

Combine = Callable[[Expr, Expr], Expr]


def across(vector: Expr, lanes: int, combine: Combine) -> Expr:
    """All lanes of a vector combined, pairwise."""
    partial = registers(1, lanes)
    while lanes > 1:
        store(partial, 0, vector)
        lanes //= 2
        vector = combine(load(partial, 0, lanes), load(partial, lanes, lanes))
    return vector


def fold_row(length: int, lanes: int, start: float, combine: Combine, element: Callable[[Expr, int], Expr]) -> Expr:
    """`element(index, lanes)` combined over a row of `length` elements; `start` is neutral.

    Whole vectors go to several accumulators, which hides the latency of combining; the tail is scalar.
    """
    whole = length // lanes
    ways = min(4, max(whole, 1))
    sums, tail = registers(ways, lanes), registers(1, 1)
    for way in range(ways):
        store(sums, way * lanes, splat(start, lanes))
    with T.serial(0, whole // ways) as group:
        for way in range(ways):
            vector = element((group * ways + way) * lanes, lanes)
            store(sums, way * lanes, combine(load(sums, way * lanes, lanes), vector))
    for rest in range(whole - whole % ways, whole):
        store(sums, 0, combine(load(sums, 0, lanes), element(rest * lanes, lanes)))
    total = load(sums, 0, lanes)
    for way in range(1, ways):
        total = combine(total, load(sums, way * lanes, lanes))
    store(tail, 0, across(total, lanes, combine))
    with T.serial(0, length - whole * lanes) as rest:
        store(tail, 0, combine(tail[0], element(whole * lanes + rest, 1)))
    return tail[0]


def each(length: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """`body(index, lanes)` for whole vectors of a row, then for its tail one by one."""
    whole = length // lanes
    with T.serial(0, whole) as vector:
        body(vector * lanes, lanes)
    with T.serial(0, length - whole * lanes) as rest:
        body(whole * lanes + rest, 1)
