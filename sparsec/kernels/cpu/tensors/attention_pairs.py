"""The two products of attention on words that hold a pair of numbers each; see `attention.py`.

Scores pair neighbouring features of Q and K; the weighted sums of V pair neighbouring keys. A subclass says what the
numbers are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, load, splat, store

Rows = Callable[[Expr], tuple[Expr, Expr]]
"""Where the head's first feature of a tile of K, and of V, lies."""
Dot = Callable[[Expr, Expr, Expr], Expr]
"""The sum of a vector and the products of pairs, lane by lane: (total, pairs, pairs)."""


@dataclass(frozen=True)
class KeyTiles:
    """Where the keys and values of a head lie.

    Attributes:
        rows: the first feature of a tile.
        whole: whole tiles; a number that the run tells where none is left.
        rest: keys of the tile behind them, which holds anything beyond those.
        width: keys of a tile.
        stride: elements from a feature to the next.

    """

    rows: Rows
    whole: Expr
    rest: int
    width: int
    stride: int

    @property
    def tiles(self) -> Expr:
        """Tiles that hold keys."""
        return self.whole + 1 if self.rest else self.whole


@dataclass(frozen=True)
class Pairs(ABC):
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
    q: Buffer
    k: Buffer
    v: Buffer
    weights: Buffer

    @staticmethod
    @abstractmethod
    def llvm(isa: Isa) -> str:
        """The LLVM IR that a kernel needs."""

    @classmethod
    def allocate(cls, depth: int, width: int, keys: Tiled, lanes: int) -> Self:
        """Scratch for a head; `keys` is the layout of K."""
        count = keys.tiles * keys.width
        sizes = depth // 2 * width, depth // 2 * count, depth * count // 2, count // 2 * width
        words = [T.alloc_buffer((size,), "int32") for size in sizes]
        return cls(depth, width, count, lanes, *words, **cls.scratch(width, count))

    @classmethod
    def scratch(cls, width: int, keys: int) -> dict[str, Buffer]:  # noqa: ARG003 - for subclasses that hold more
        """The other buffers of so many queries and keys, by attribute."""
        return {}

    @abstractmethod
    def fill_queries(self, b: Buffers, q: Expr, row: int) -> None:
        """Pair the features of the queries at `q`, which are `row` elements apart."""

    @abstractmethod
    def fill_keys(self, b: Buffers, keys: KeyTiles) -> None:
        """Pair the features of K and the keys of V, tile by tile."""

    @abstractmethod
    def fill_weights(self, powers: Buffer, sums: Buffer, first: Expr, number: Expr) -> None:
        """Pair the powers (keys, width) of some keys from `first` on, whose sums by query are given.

        A number that the run tells is even.
        """

    @abstractmethod
    def add_scores(self, totals: Buffer, key: Expr, count: int) -> None:
        """Add the scores of `count` keys from `key` on to the totals (count x vectors), float32."""

    @abstractmethod
    def add_weighted(self, totals: Buffer, keys: tuple[Expr, Expr], feature: Expr, count: int) -> None:
        """Add `count` features of V, weighted over the keys (first, number), to the totals (count x vectors)."""

    def fill_values(self, place: Expr, row: int, value: Callable[[Expr, int], Expr],
                    paired: Callable[[Expr, Expr], Expr]) -> None:
        """Pair the neighbours of a tile of V, keys from `place` on, given by feature and first lane."""
        with T.serial(0, self.depth) as feature:
            for at in range(0, row, 2 * self.lanes):
                words = paired(*(value(feature, min(each, row - self.lanes)) for each in (at, at + self.lanes)))
                whole = at + self.lanes < row
                store(self.v, (feature * self.keys + place + at) // 2,
                      words if whole else T.Shuffle([words], list(range(self.lanes // 2))))

    def end_values(self, keys: KeyTiles) -> None:
        """Clear the partner of the last of an odd number of keys of V."""
        if keys.rest % 2:
            with T.serial(0, self.depth) as feature:
                at = T.Bind((feature * self.keys + keys.whole * keys.width + keys.rest) // 2)
                T.buffer_store(self.v, T.bitwise_and(self.v[at], T.int32(0xFFFF)), [at])

    def multiply_scores(self, totals: Buffer, key: Expr, count: int, dot: Dot) -> None:
        """Add the products of the block's queries with `count` keys to the totals."""
        with T.serial(0, self.depth // 2) as pair:
            self._multiply(totals, (self.q, pair), [self.k[pair * self.keys + key + r] for r in range(count)], dot)

    def multiply_values(self, totals: Buffer, keys: tuple[Expr, Expr], features: tuple[Expr, int], dot: Dot) -> None:
        """Add the products of the weights with some features (first, number) of some keys to the totals."""
        (first, number), (feature, count) = keys, features
        with T.serial(0, (number + 1) // 2) as step:
            pair = T.Bind(first // 2 + step)
            self._multiply(totals, (self.weights, pair), [self.v[(feature + r) * (self.keys // 2) + pair]
                                                          for r in range(count)], dot)

    def _multiply(self, totals: Buffer, operand: tuple[Buffer, Expr], words: list[Expr], dot: Dot) -> None:
        """Add the products of a row of pairs (buffer, row) with each of some words."""
        vectors, lanes, (buffer, row) = self.width // self.lanes, self.lanes, operand
        inputs = [T.Bind(load(buffer, row * self.width + v * lanes, lanes)) for v in range(vectors)]
        for r, word in enumerate(words):
            factor = T.Bind(splat(word, lanes))
            for v in range(vectors):
                at = (r * vectors + v) * lanes
                store(totals, at, dot(load(totals, at, lanes), inputs[v], factor))
