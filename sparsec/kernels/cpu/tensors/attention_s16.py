"""The two products of attention on pairs of 16-bit integers, with exact 32-bit sums (AVX512_VNNI).

For results that are rounded to codes of 8 bits: as fast as pairs of bf16, and many times as precise. A query and a key
count in 32767ths of their length, so that by the Cauchy-Schwarz inequality no sum of products leaves 2^30; values in
8191ths of the largest one of their head, weights in 32767ths of the largest there may be, or in 131071ths of the sum of
their chunk of keys where those are larger. See `attention_pairs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.images.padded import load_lanes
from sparsec.kernels.cpu.tensors.attention_pairs import KeyTiles, Pairs
from sparsec.kernels.emit.codes import llvm_codes, rounded
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, add_to, load, registers, splat, store

STEPS = 32767.0
VALUE_STEPS = 8191.0
SUM_STEPS = 131071.0
SHORTEST = 1e-18  # length below which squares leave the normal numbers
LEAST = 1e-30  # values below which their reciprocals do
_LLVM = """
declare <16 x i32> @llvm.x86.avx512.vpdpwssd.512(<16 x i32>, <32 x i16>, <32 x i16>)
define linkonce_odr <16 x i32> @sparsec_dot_s16(<16 x i32> %sum, <16 x i32> %x, <16 x i32> %w)
    alwaysinline nounwind readnone {
  %a = bitcast <16 x i32> %x to <32 x i16>
  %b = bitcast <16 x i32> %w to <32 x i16>
  %r = call <16 x i32> @llvm.x86.avx512.vpdpwssd.512(<16 x i32> %sum, <32 x i16> %a, <32 x i16> %b)
  ret <16 x i32> %r
}
define linkonce_odr <16 x i32> @sparsec_row_s16(<16 x i32> %low, <16 x i32> %high) alwaysinline nounwind readnone {
  %a = trunc <16 x i32> %low to <16 x i16>
  %b = trunc <16 x i32> %high to <16 x i16>
  %ab = shufflevector <16 x i16> %a, <16 x i16> %b, <32 x i32> <""" + ", ".join(f"i32 {i}" for i in range(32)) + """>
  %r = bitcast <32 x i16> %ab to <16 x i32>
  ret <16 x i32> %r
}
"""


@dataclass(frozen=True)
class S16Pairs(Pairs):
    """Pairs of 16-bit integers, and what a step of them stands for, float32.

    Attributes:
        q_units: (width,): of every query.
        k_units: (keys,): of every key.
        v_unit: (1,): of the values.
        weight_units: (width,): of the current chunk's weights, by query, times that of the values.

    """

    q_units: Buffer
    k_units: Buffer
    v_unit: Buffer
    weight_units: Buffer

    @staticmethod
    def llvm(isa: Isa) -> str:
        """The LLVM IR that a kernel needs."""
        return llvm_codes(isa) + _LLVM

    @classmethod
    def scratch(cls, width: int, keys: int) -> dict[str, Buffer]:
        """The units of so many queries and keys."""
        sizes = {"q_units": width, "k_units": keys, "v_unit": 1, "weight_units": width}
        return {name: T.alloc_buffer((size,), "float32") for name, size in sizes.items()}

    def fill_queries(self, b: Buffers, q: Expr, row: int) -> None:
        """Pair the features of the queries at `q`, which are `row` elements apart."""
        self._fill(self.width, (b["q"], q, row), (self.q, 0, self.width), self.q_units)

    def _fill(self, tokens: int, source: tuple[Buffer, Expr, int], target: tuple[Buffer, Expr, int],
              units: Buffer) -> None:
        """Pair the features of tokens by their lengths: `source` and `target` are (buffer, first, row)."""
        lanes, (buffer, first, row), (words, begin, wide) = self.lanes, source, target
        vectors = tokens // lanes
        squares, factors = registers(vectors, lanes), registers(vectors, lanes)
        for v in range(vectors):
            store(squares, v * lanes, splat(0.0, lanes))
        with T.serial(0, self.depth) as feature:
            for v in range(vectors):
                x = T.Bind(load(buffer, first + feature * row + v * lanes, lanes))
                add_to(squares, v * lanes, x * x)
        for v in range(vectors):
            length = T.Bind(T.max(splat(SHORTEST, lanes), T.sqrt(load(squares, v * lanes, lanes))))
            store(units, begin + v * lanes, length * splat(1 / STEPS, lanes))
            store(factors, v * lanes, splat(STEPS, lanes) / length)
        with T.serial(0, self.depth // 2) as pair:
            for v in range(vectors):
                low, high = (rounded(load(buffer, first + (2 * pair + i) * row + v * lanes, lanes)
                                     * load(factors, v * lanes, lanes)) for i in (0, 1))
                store(words, begin + pair * wide + v * lanes, _paired(low, high, lanes))

    def fill_keys(self, b: Buffers, keys: KeyTiles) -> None:
        """Pair the features of K and the keys of V, tile by tile."""
        lanes, row, stride, largest = self.lanes, keys.width, keys.stride, self._largest_value(b, keys)
        T.buffer_store(self.v_unit, largest * T.float32(1 / VALUE_STEPS), [0])
        factor = T.Bind(splat(T.float32(VALUE_STEPS) / largest, lanes))
        with T.serial(0, keys.tiles) as tile:
            k, v = (T.Bind(at) for at in keys.rows(tile))
            self._fill(row, (b["k"], k, stride), (self.k, tile * row, self.keys), self.k_units)
            self.fill_values(tile * row, row, partial(self._value, (b, v, stride), factor), _row)
        self.end_values(keys)

    def _value(self, tile: tuple[Buffers, Expr, int], factor: Expr, feature: Expr, lane: int) -> Expr:
        """Steps of a feature's values from a lane on, of the tile (buffers, first, stride)."""
        b, v, stride = tile
        return rounded(load(b["v"], v + feature * stride + lane, self.lanes) * factor)

    def _largest_value(self, b: Buffers, keys: KeyTiles) -> Expr:
        """The largest magnitude of the head's values; those beyond the last key hold anything."""
        lanes, found = self.lanes, registers(1, self.lanes)
        store(found, 0, splat(LEAST, lanes))

        def look(tile: Expr, count: int) -> None:
            v = T.Bind(keys.rows(tile)[1])
            with T.serial(0, self.depth) as feature:
                for lane in range(0, count, lanes):
                    x = load_lanes(b["v"], v + feature * keys.stride + lane, lanes, 0, count - lane)
                    store(found, 0, T.max(load(found, 0, lanes), T.abs(x)))

        with T.serial(0, keys.whole) as tile:
            look(tile, keys.width)
        if keys.rest:
            look(keys.whole, keys.rest)
        return T.Bind(reduce(T.max, [found[lane] for lane in range(lanes)]))

    def fill_weights(self, powers: Buffer, sums: Buffer, first: Expr, number: Expr) -> None:
        """Pair the powers (keys, width) of some keys from `first` on, in steps of a share of their sums by query."""
        lanes, vectors = self.lanes, self.width // self.lanes
        factors = registers(vectors, lanes)
        for v in range(vectors):
            steps = T.Bind(T.min(splat(STEPS, lanes), splat(SUM_STEPS, lanes) / load(sums, v * lanes, lanes)))
            store(self.weight_units, v * lanes, splat(self.v_unit[0], lanes) / steps)
            store(factors, v * lanes, steps)

        def share(key: Expr, v: int) -> Expr:
            return rounded(load(powers, key * self.width + v * lanes, lanes) * load(factors, v * lanes, lanes))

        with T.serial(0, number // 2) as step:
            pair = T.Bind(first // 2 + step)
            for v in range(vectors):
                store(self.weights, pair * self.width + v * lanes,
                      _paired(share(2 * pair, v), share(2 * pair + 1, v), lanes))
        if isinstance(number, int) and number % 2:
            last = T.Bind(first // 2 + number // 2)
            for v in range(vectors):
                store(self.weights, last * self.width + v * lanes, _paired(share(2 * last, v), None, lanes))

    def add_scores(self, totals: Buffer, key: Expr, count: int) -> None:
        """Add the scores of `count` keys from `key` on to the totals (count x vectors)."""
        sums = self._zeros(count)
        self.multiply_scores(sums, key, count, _dot)
        for r in range(count):
            unit = T.Bind(splat(self.k_units[key + r], self.lanes))
            self._add(totals, sums, r, [load(self.q_units, v * self.lanes, self.lanes) * unit
                                        for v in range(self.width // self.lanes)])

    def add_weighted(self, totals: Buffer, keys: tuple[Expr, Expr], feature: Expr, count: int) -> None:
        """Add `count` features of V, weighted over the keys (first, number), to the totals (count x vectors)."""
        sums = self._zeros(count)
        self.multiply_values(sums, keys, (feature, count), _dot)
        for r in range(count):
            self._add(totals, sums, r, [load(self.weight_units, v * self.lanes, self.lanes)
                                        for v in range(self.width // self.lanes)])

    def _zeros(self, count: int) -> Buffer:
        vectors = count * self.width // self.lanes
        sums = registers(vectors, self.lanes, "int32")
        for vector in range(vectors):
            store(sums, vector * self.lanes, splat(T.int32(0), self.lanes))
        return sums

    def _add(self, totals: Buffer, sums: Buffer, r: int, units: Sequence[Expr]) -> None:
        """Add a row of integer sums, in units by vector, to the totals."""
        for v, unit in enumerate(units):
            at = (r * len(units) + v) * self.lanes
            add_to(totals, at, T.Cast(f"float32x{self.lanes}", load(sums, at, self.lanes)) * unit)


def _dot(total: Expr, pairs: Expr, weights: Expr) -> Expr:
    return T.call_extern("int32x16", "sparsec_dot_s16", total, pairs, weights)


def _row(low: Expr, high: Expr) -> Expr:
    """Two vectors of integers in order: word i holds elements 2i and 2i + 1."""
    return T.call_extern("int32x16", "sparsec_row_s16", low, high)


def _paired(low: Expr, high: Expr | None, lanes: int) -> Expr:
    """Two vectors of integers, as words (low[i], high[i]); the second is zero where there is none."""
    first = T.bitwise_and(low, splat(T.int32(0xFFFF), lanes))
    return first if high is None else T.bitwise_or(first, T.shift_left(high, splat(T.int32(16), lanes)))
