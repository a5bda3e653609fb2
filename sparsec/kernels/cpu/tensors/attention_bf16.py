"""The two products of attention on bf16 pairs, with float32 sums (AVX512_BF16); see `attention.py`.

Scores pair neighbouring features of Q and K; the weighted sums of V pair neighbouring keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled
from sparsec.kernels.emit import intrinsics
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, load, splat, store


@dataclass(frozen=True)
class Pairs:
    """What one head multiplies, an int32 word a pair.

    Attributes:
        depth: features of the head, an even number.
        width: queries of a block.
        keys: keys of whole tiles.
        lanes: words of a vector.
        q: (depth / 2, width): pairs of features of the block's queries.
        k: (depth / 2, keys): pairs of features of the keys.
        v: (depth, keys / 2): pairs of keys.
        weights: (keys / 2, width): the softmax of pairs of keys.

    """

    depth: int
    width: int
    keys: int
    lanes: int
    q: Expr
    k: Expr
    v: Expr
    weights: Buffer


def allocate(depth: int, width: int, keys: Tiled, lanes: int) -> Pairs:
    """Scratch for a head; `keys` is the layout of K."""
    count = keys.tiles * keys.width
    sizes = depth // 2 * width, depth // 2 * count, depth * count // 2, count // 2 * width
    return Pairs(depth, width, count, lanes, *(T.alloc_buffer((size,), "int32") for size in sizes))


def fill_queries(b: Buffers, pairs: Pairs, q: Expr, row: int) -> None:
    """Pair the features of the queries at `q`, which are `row` elements apart."""
    with T.serial(0, pairs.depth // 2) as pair:
        for at in range(0, pairs.width, pairs.lanes):
            low, high = (load(b["q"], q + (2 * pair + i) * row + at, pairs.lanes) for i in (0, 1))
            store(pairs.q, pair * pairs.width + at, intrinsics.pairs_bf16(low, high))


def fill_keys(b: Buffers, pairs: Pairs, k: Expr, v: Expr, place: Expr, row: int) -> None:
    """Pair the features of a tile of K at `k` and the keys of a tile of V at `v`, the keys from `place` on."""
    lanes = pairs.lanes
    with T.serial(0, pairs.depth // 2) as pair:
        for at in range(0, row, lanes):
            low, high = (load(b["k"], k + (2 * pair + i) * row + at, lanes) for i in (0, 1))
            store(pairs.k, pair * pairs.keys + place + at, intrinsics.pairs_bf16(low, high))
    with T.serial(0, pairs.depth) as feature:
        for at in range(0, row, 2 * lanes):
            low, high = (load(b["v"], v + feature * row + min(each, row - lanes), lanes) for each in (at, at + lanes))
            words = intrinsics.row_bf16(low, high)
            whole = at + lanes < row
            store(pairs.v, (feature * pairs.keys + place + at) // 2,
                  words if whole else T.Shuffle([words], list(range(lanes // 2))))


def end_values(pairs: Pairs, keys: int) -> None:
    """Clear the partner of the last of an odd number of keys of V."""
    with T.serial(0, pairs.depth) as feature:
        at = T.Bind((feature * pairs.keys + keys) // 2)
        T.buffer_store(pairs.v, T.bitwise_and(pairs.v[at], T.int32(0xFFFF)), [at])


def fill_weights(pairs: Pairs, powers: Buffer, first: Expr, number: int) -> None:
    """Pair the powers (keys, width) of some keys from `first` on."""
    with T.serial(0, number // 2) as step:
        pair = T.Bind(first // 2 + step)
        for at in range(0, pairs.width, pairs.lanes):
            low, high = (load(powers, (2 * pair + i) * pairs.width + at, pairs.lanes) for i in (0, 1))
            store(pairs.weights, pair * pairs.width + at, intrinsics.pairs_bf16(low, high))
    if number % 2:
        last = T.Bind(first // 2 + number // 2)
        for at in range(0, pairs.width, pairs.lanes):
            low = load(powers, 2 * last * pairs.width + at, pairs.lanes)
            store(pairs.weights, last * pairs.width + at, intrinsics.pairs_bf16(low, splat(0.0, pairs.lanes)))


def add_scores(pairs: Pairs, totals: Expr, key: Expr, count: int) -> None:
    """Add the scores of `count` keys from `key` on to the totals (count x vectors)."""
    with T.serial(0, pairs.depth // 2) as pair:
        _add(pairs, totals, pairs.q, pair, [pairs.k[pair * pairs.keys + key + r] for r in range(count)])


def add_weighted(pairs: Pairs, totals: Expr, keys: tuple[Expr, int], feature: Expr, count: int) -> None:
    """Add `count` features of V, weighted over the keys (first, number), to the totals (count x vectors)."""
    first, number = keys
    with T.serial(0, -(-number // 2)) as step:
        pair = T.Bind(first // 2 + step)
        _add(pairs, totals, pairs.weights, pair, [pairs.v[(feature + r) * (pairs.keys // 2) + pair]
                                                  for r in range(count)])


def _add(pairs: Pairs, totals: Buffer, operand: Buffer, row: Expr, words: list[Expr]) -> None:
    """Add the products of an operand's row of pairs with each of some words."""
    vectors, lanes = pairs.width // pairs.lanes, pairs.lanes
    inputs = [T.Bind(load(operand, row * pairs.width + v * lanes, lanes)) for v in range(vectors)]
    for r, word in enumerate(words):
        factor = T.Bind(splat(word, lanes))
        for v in range(vectors):
            at = (r * vectors + v) * lanes
            store(totals, at, intrinsics.dot_pairs(load(totals, at, lanes), inputs[v], factor))
