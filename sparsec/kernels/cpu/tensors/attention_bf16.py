"""The two products of attention on bf16 pairs, with float32 sums (AVX512_BF16); see `attention_pairs.py`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.tensors.attention_pairs import KeyTiles, Pairs
from sparsec.kernels.emit import intrinsics
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, load, splat, store


@dataclass(frozen=True)
class Bf16Pairs(Pairs):
    """Pairs of bf16."""

    @staticmethod
    def llvm(isa: Isa) -> str:
        """The LLVM IR that a kernel needs."""
        return intrinsics.llvm_bf16(isa)

    def fill_queries(self, b: Buffers, q: Expr, row: int) -> None:
        """Pair the features of the queries at `q`, which are `row` elements apart."""
        with T.serial(0, self.depth // 2) as pair:
            for at in range(0, self.width, self.lanes):
                low, high = (load(b["q"], q + (2 * pair + i) * row + at, self.lanes) for i in (0, 1))
                store(self.q, pair * self.width + at, intrinsics.pairs_bf16(low, high))

    def fill_keys(self, b: Buffers, keys: KeyTiles) -> None:
        """Pair the features of K and the keys of V, tile by tile."""
        row, stride = keys.width, keys.stride
        with T.serial(0, keys.tiles) as tile:
            k, v = (T.Bind(at) for at in keys.rows(tile))
            with T.serial(0, self.depth // 2) as pair:
                for at in range(0, row, self.lanes):
                    low, high = (load(b["k"], k + (2 * pair + i) * stride + at, self.lanes) for i in (0, 1))
                    store(self.k, pair * self.keys + tile * row + at, intrinsics.pairs_bf16(low, high))
            self.fill_values(tile * row, row, partial(self._value, b, v, stride), intrinsics.row_bf16)
        self.end_values(keys)

    def _value(self, b: Buffers, v: Expr, stride: int, feature: Expr, lane: int) -> Expr:
        """Values of a feature from a lane on, of the tile that begins at `v`."""
        return load(b["v"], v + feature * stride + lane, self.lanes)

    def fill_weights(self, powers: Buffer, sums: Buffer, first: Expr, number: Expr) -> None:  # noqa: ARG002
        """Pair the powers (keys, width) of some keys from `first` on; floats need not know their sums."""
        with T.serial(0, number // 2) as step:
            pair = T.Bind(first // 2 + step)
            for at in range(0, self.width, self.lanes):
                low, high = (load(powers, (2 * pair + i) * self.width + at, self.lanes) for i in (0, 1))
                store(self.weights, pair * self.width + at, intrinsics.pairs_bf16(low, high))
        if isinstance(number, int) and number % 2:
            last = T.Bind(first // 2 + number // 2)
            for at in range(0, self.width, self.lanes):
                low = load(powers, 2 * last * self.width + at, self.lanes)
                store(self.weights, last * self.width + at, intrinsics.pairs_bf16(low, splat(0.0, self.lanes)))

    def add_scores(self, totals: Buffer, key: Expr, count: int) -> None:
        """Add the scores of `count` keys from `key` on to the totals (count x vectors)."""
        self.multiply_scores(totals, key, count, intrinsics.dot_pairs)

    def add_weighted(self, totals: Buffer, keys: tuple[Expr, Expr], feature: Expr, count: int) -> None:
        """Add `count` features of V, weighted over the keys (first, number), to the totals (count x vectors)."""
        self.multiply_values(totals, keys, (feature, count), intrinsics.dot_pairs)
