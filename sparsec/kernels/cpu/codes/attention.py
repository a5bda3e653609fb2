"""Attention on codes of tokens in tiles: every product is one of bytes, and nothing leaves the vector lanes.

As `tensors.attention`, a vector of queries is held on the lanes: scores are computed transposed, [key, query], and the
softmax runs down the keys. Signed factors are codes less 128; what that and the zero points change is added to sums:
    sum (a - x) (b - z) = sum a (b - 128) + (128 - z) sum a - x sum (b - z).
Keys beyond the sequence's end, which hold anything, count for nothing; queries beyond it are computed and ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.codes import SIGNED
from sparsec.graph.layout import Tiled
from sparsec.kernels.emit.activations import exp_below_one
from sparsec.kernels.emit.codes import (
    FOUR,
    dot,
    fenced,
    interleaved,
    llvm_codes,
    narrowed,
    raised,
    rounded,
    splat_codes,
    splat_four,
    whole,
)
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, add_to, kernel, load, registers, splat, store

FAR = 65536.0  # beyond which weights in units of their scale saturate
_ONES = 0x01010101  # four bytes
_GROUP = 16  # codes that interleaving keeps together
_Q_ZERO, _K_ZERO, _V_ZERO, _M_ZERO, _T_ZERO, _P_ZERO, _Y_ZERO, _LOW, _HIGH = range(9)
_SCORES, _S_LOW, _S_HIGH, _KEPT, _MASK, _T_LOW, _T_HIGH, _T_SCALE, _WEIGHTS, _RESULT = range(10)


@dataclass(frozen=True)
class AttentionParams:
    """A kernel; what codes stand for are arguments, see `pack`.

    Attributes:
        heads, depth: heads, and features of each, a multiple of four.
        batch, tokens, keys: sequences, queries of each, and keys of each.
        width: tokens of a tile, in every buffer: whole vectors of codes.
        mask: sequences that the mask tells apart, 1 or `batch`, by keys alone; None without one.
        mask_dtype: element type of the mask, which lies row-major.
        shifted: the zero point of the weights is not the least code.

    """

    heads: int
    depth: int
    batch: int
    tokens: int
    keys: int
    width: int
    mask: int | None = None
    mask_dtype: str = "uint8"
    shifted: bool = False

    @property
    def output(self) -> Tiled:
        """Layout of Y and of the queries."""
        return Tiled(self.batch, self.tokens, self.heads * self.depth, self.width, "uint8")

    @property
    def inputs(self) -> Tiled:
        """Layout of keys and values."""
        return Tiled(self.batch, self.keys, self.heads * self.depth, self.width, "uint8")

    @property
    def fours(self) -> int:
        """Fours of features of a head."""
        return self.depth // FOUR


@dataclass(frozen=True)
class Meaning:
    """Scale and zero point of a tensor of codes, the latter as codes lie in memory, with their bounds."""

    scale: float
    zero_point: int
    low: int = 0
    high: int = 255


def pack(of: dict[str, Meaning]) -> list[np.ndarray]:
    """The kernel's `codes` and `factors` from what the tensors q, k, v, m, s, t, p and y mean."""
    f = np.float32
    codes = [*(of[name].zero_point for name in "qkvmtpy"), of["y"].low, of["y"].high]

    def ends(name: str) -> tuple[float, float]:
        return of[name].low - of[name].zero_point, of[name].high - of[name].zero_point

    def ratio(scale: np.float32, to: str) -> np.float32:
        return f(scale / f(of[to].scale))

    scale = {name: f(each.scale) for name, each in of.items()}
    factors = [ratio(scale["q"] * scale["k"], "s"), *ends("s"), ratio(scale["s"], "t"), ratio(scale["m"], "t"),
               *ends("t"), scale["t"], scale["p"], ratio(scale["p"] * scale["v"], "y")]
    return [np.array(codes, np.int32), np.array(factors, f)]


@dataclass(frozen=True)
class _Head:
    """A head of a vector of queries: the first features of its rows in the buffers, and its scratches."""

    b: Buffers
    p: AttentionParams
    lanes: int
    rows: int
    sequence: Expr
    q: Expr
    feature: Expr

    @property
    def wide(self) -> int:
        """Codes of a vector."""
        return FOUR * self.lanes

    @property
    def key_vectors(self) -> int:
        """Vectors of keys."""
        return -(-self.p.keys // self.wide)

    @property
    def groups(self) -> int:
        """Fours of keys."""
        return -(-self.p.keys // FOUR)

    def row(self, vector: Expr) -> Expr:
        """Where a vector of keys of the head's first feature begins in the buffers of keys and values."""
        layout, at = self.p.inputs, vector * self.wide
        tile, lane = T.floordiv(at, layout.width), T.floormod(at, layout.width)
        return ((self.sequence * layout.tiles + tile) * layout.features + self.feature) * layout.width + lane

    def integer(self, place: int) -> Expr:
        """One of `codes`."""
        return self.b["codes"][place]

    def factor(self, place: int) -> Expr:
        """One of `factors` in every lane."""
        return splat(self.b["factors"][place], self.lanes)


def build(params: AttentionParams, isa: Isa) -> Kernel:
    """The kernel: (codes, factors, q, k, v, [mask]) -> y."""
    p = params
    arguments: dict[str, tuple[int | None, str]] = {
        "codes": (9, "int32"), "factors": (10, "float32"), "q": (p.output.size, "uint8"),
        "k": (p.inputs.size, "uint8"), "v": (p.inputs.size, "uint8")}
    if p.mask is not None:
        arguments["mask"] = (p.mask * p.keys, p.mask_dtype)
    arguments["y"] = (p.output.size, "uint8")
    return kernel(arguments, lambda b: _emit(b, p, isa), llvm_codes(isa))


def _emit(b: Buffers, p: AttentionParams, isa: Isa) -> None:
    wide = FOUR * isa.lanes
    blocks = -(-p.tokens // wide)
    with shared(p.batch * blocks * p.heads, isa) as unit:
        sequence = T.Bind(T.floordiv(unit, blocks * p.heads))
        at = T.Bind(T.floormod(T.floordiv(unit, p.heads), blocks) * wide)
        feature = T.Bind(T.floormod(unit, p.heads) * p.depth)
        tile, lane = T.floordiv(at, p.width), T.floormod(at, p.width)
        q = T.Bind(((sequence * p.output.tiles + tile) * p.output.features + feature) * p.width + lane)
        _attend(_Head(b, p, isa.lanes, FOUR if isa.registers > _GROUP else 2, sequence, q, feature))


def _attend(h: _Head) -> None:
    p, wide, words = h.p, h.wide, h.key_vectors * h.wide
    queries, opening = T.alloc_buffer((p.depth * wide,), "uint8"), T.alloc_buffer((wide,), "int32")
    keys, terms = T.alloc_buffer((p.depth * words,), "uint8"), T.alloc_buffer((words,), "int32")
    scores, maxima = T.alloc_buffer((FOUR * h.groups * wide,), "uint8"), registers(1, wide, "uint8")
    _prepare_queries(h, queries, opening)
    _prepare_keys(h, keys, terms)
    store(maxima, 0, T.Broadcast(T.uint8(0), wide))
    with T.serial(0, h.groups) as group:
        for first in range(0, FOUR, h.rows):
            _scores(h, (queries, opening, keys, terms), (group, first), scores, maxima)
    weights, totals = T.alloc_buffer((FOUR * h.groups * wide,), "uint8"), T.alloc_buffer((wide,), "int32")
    _softmax(h, scores, T.Bind(load(maxima, 0, wide)), weights, totals)
    values, shifts = T.alloc_buffer((p.depth * words,), "uint8"), T.alloc_buffer((p.depth,), "int32")
    _prepare_values(h, values, shifts)
    with T.serial(0, p.depth // h.rows) as block:
        _mix(h, weights, totals, values, shifts, block * h.rows)


def _ones(lanes: int) -> Expr:
    return splat_four(T.int32(_ONES), lanes)


def _flip(wide: int) -> Expr:
    """What turns unsigned bytes into those less 128."""
    return T.Broadcast(T.uint8(SIGNED), wide)


def _prepare_queries(h: _Head, queries: Buffer, opening: Buffer) -> None:
    """Queries, four features interleaved, and what all scores of a query start from."""
    totals = _zeros(FOUR, h.lanes)

    def each(four: Expr, part: int, codes: Expr) -> None:
        store(queries, (four * FOUR + part) * h.wide, codes)
        store(totals, part * h.lanes, dot(load(totals, part * h.lanes, h.lanes), codes, _ones(h.lanes)))

    _interleave(h, "q", h.q, each)
    less = T.Bind(T.Broadcast(SIGNED - h.integer(_K_ZERO), h.lanes))
    for part in range(FOUR):
        store(opening, part * h.lanes, load(totals, part * h.lanes, h.lanes) * less)


def _zeros(vectors: int, lanes: int) -> Buffer:
    """Registers of integers that are zero."""
    found = registers(vectors, lanes, "int32")
    for vector in range(vectors):
        store(found, vector * lanes, T.Broadcast(T.int32(0), lanes))
    return found


def _interleave(h: _Head, name: str, first: Expr, each: Callable[[Expr, int, Expr], None]) -> None:
    """Every four features of a vector of tokens, interleaved: `each(four, part, codes)`."""
    with T.serial(0, h.p.fours) as four:
        rows = [T.Bind(load(h.b[name], first + (four * FOUR + i) * h.p.width, h.wide)) for i in range(FOUR)]
        for part in range(FOUR):
            each(four, part, T.Bind(interleaved(rows, part)))


def _prepare_keys(h: _Head, keys: Buffer, terms: Buffer) -> None:
    """Keys as signed bytes, four features interleaved, and what every key takes from its scores."""
    with T.serial(0, h.key_vectors) as vector:
        totals = _zeros(FOUR, h.lanes)

        def each(four: Expr, part: int, codes: Expr, vector: Expr = vector, totals: Buffer = totals) -> None:
            store(keys, ((vector * h.p.fours + four) * FOUR + part) * h.wide, T.bitwise_xor(codes, _flip(h.wide)))
            store(totals, part * h.lanes, dot(load(totals, part * h.lanes, h.lanes), codes, _ones(h.lanes)))

        _interleave(h, "k", T.Bind(h.row(vector)), each)
        for part in range(FOUR):
            centred = load(totals, part * h.lanes, h.lanes) - T.Broadcast(h.integer(_K_ZERO) * h.p.depth, h.lanes)
            store(terms, vector * h.wide + part * h.lanes, centred * T.Broadcast(h.integer(_Q_ZERO), h.lanes))


def _scores(h: _Head, scratches: tuple[Buffer, ...], place: tuple[Expr, int], scores: Buffer, maxima: Buffer) -> None:
    """The codes of the scores of some keys of a four of keys, from the `first` on; raises the maxima."""
    (queries, opening, keys, terms), (group, first), lanes = scratches, place, h.lanes
    vector, within = T.floordiv(group, lanes), T.floormod(group, lanes)
    part, lane = T.floormod(within, FOUR), T.floordiv(within, FOUR) * FOUR + first  # see `emit.codes`
    acc = registers(h.rows * FOUR, lanes, "int32")
    for r in range(h.rows):
        less = T.Bind(T.Broadcast(terms[vector * h.wide + part * lanes + lane + r], lanes))
        for i in range(FOUR):
            store(acc, (r * FOUR + i) * lanes, load(opening, i * lanes, lanes) - less)
    at = T.Bind((vector * h.p.fours * FOUR + part) * h.wide + lane * FOUR)
    with T.serial(0, h.p.fours) as four:
        x = [T.Bind(load(queries, (four * FOUR + i) * h.wide, h.wide)) for i in range(FOUR)]
        for r in range(h.rows):
            weights = splat_codes(keys, at + four * (FOUR * h.wide) + r * FOUR, lanes)
            for i in range(FOUR):
                store(acc, (r * FOUR + i) * lanes, dot(load(acc, (r * FOUR + i) * lanes, lanes), x[i], weights))
    for r in range(h.rows):
        key = T.Bind(group * FOUR + first + r)
        codes = T.Bind(_scored(h, [load(acc, (r * FOUR + i) * lanes, lanes) for i in range(FOUR)], key))
        store(scores, key * h.wide, codes)
        with T.If(key < h.p.keys), T.Then():
            store(maxima, 0, T.max(load(maxima, 0, h.wide), codes))


def _scored(h: _Head, sums: list[Expr], key: Expr) -> Expr:
    """The codes of a key's scores, with the mask."""
    lanes = h.lanes

    def bounded(x: Expr, low: int, high: int) -> Expr:
        return whole(T.min(T.max(x, h.factor(low)), h.factor(high)))

    own = [bounded(T.Cast(f"float32x{lanes}", each) * h.factor(_SCORES), _S_LOW, _S_HIGH) for each in sums]
    if h.p.mask is not None:
        row = h.sequence * h.p.keys if h.p.mask > 1 else 0
        centred = T.Cast("int32", h.b["mask"][row + T.min(key, h.p.keys - 1)]) - h.integer(_M_ZERO)
        added = T.Bind(fenced(splat(T.Cast("float32", centred), lanes) * h.factor(_MASK)))
        own = [bounded(fenced(each * h.factor(_KEPT)) + added, _T_LOW, _T_HIGH) for each in own]
    return narrowed([rounded(each) for each in own], _zero_point(h, _T_ZERO))


def _zero_point(h: _Head, place: int) -> Expr:
    return T.Broadcast(T.Cast("int16", h.integer(place)), 2 * h.lanes)


def _softmax(h: _Head, scores: Buffer, maxima: Buffer, weights: Buffer, totals: Buffer) -> None:
    """The codes of the weights, four keys interleaved, and by query what they add to sums for 128 is not zero."""
    lanes = h.lanes
    powers, sums = T.alloc_buffer((h.p.keys * h.wide,), "float32"), registers(FOUR, lanes)
    highest = [T.Bind(raised(maxima, part)) for part in range(FOUR)]
    for part in range(FOUR):
        store(sums, part * lanes, splat(0.0, lanes))
    with T.serial(0, h.p.keys) as key:
        codes = T.Bind(load(scores, key * h.wide, h.wide))
        for part in range(FOUR):
            power = T.Bind(exp_below_one((raised(codes, part) - highest[part]) * h.factor(_T_SCALE), lanes))
            store(powers, key * h.wide + part * lanes, power)
            add_to(sums, part * lanes, power)
    factors = [T.Bind(splat(1.0, lanes) / load(sums, part * lanes, lanes) / h.factor(_WEIGHTS)) for part in range(FOUR)]
    acc = _zeros(FOUR, lanes)

    def four(group: Expr, count: int) -> None:
        rows = [T.Bind(_weights(h, powers, group * FOUR + i, factors)) if i < count else
                T.Broadcast(T.uint8(0), h.wide) for i in range(FOUR)]
        for part in range(FOUR):
            codes = T.Bind(interleaved(rows, part))
            store(weights, (group * FOUR + part) * h.wide, codes)
            store(acc, part * lanes, dot(load(acc, part * lanes, lanes), codes, _ones(lanes)))

    with T.serial(0, h.p.keys // FOUR) as group:
        four(group, FOUR)
    if h.p.keys % FOUR:
        four(h.p.keys // FOUR, h.p.keys % FOUR)
    less = T.Bind(T.Broadcast(SIGNED - h.integer(_V_ZERO), lanes))
    for part in range(FOUR):
        store(totals, part * lanes, load(acc, part * lanes, lanes) * less)


def _weights(h: _Head, powers: Buffer, key: Expr, factors: list[Expr]) -> Expr:
    """The codes of a key's weights."""
    lanes = h.lanes
    scaled = [T.min(splat(FAR, lanes), load(powers, key * h.wide + part * lanes, lanes) * factors[part])
              for part in range(FOUR)]
    return narrowed([rounded(each) for each in scaled], _zero_point(h, _P_ZERO))


def _prepare_values(h: _Head, values: Buffer, shifts: Buffer) -> None:
    """Values as signed bytes, a row a feature, and what every feature takes from its sums."""
    words = h.key_vectors * h.wide
    with T.serial(0, h.key_vectors) as vector:
        row = T.Bind(h.row(vector))
        with T.serial(0, h.p.depth) as d:
            codes = load(h.b["v"], row + d * h.p.width, h.wide)
            store(values, d * words + vector * h.wide, T.bitwise_xor(codes, _flip(h.wide)))
    with T.serial(0, h.p.depth) as d:
        T.buffer_store(shifts, T.int32(0), [d])
        if h.p.shifted:
            with T.serial(0, h.p.keys) as key:
                code = T.Cast("int32", T.bitwise_xor(values[d * words + key], T.uint8(SIGNED)))
                T.buffer_store(shifts, shifts[d] + (code - h.integer(_V_ZERO)) * h.integer(_P_ZERO), [d])


def _mix(h: _Head, weights: Buffer, totals: Buffer, values: Buffer, shifts: Buffer, first: Expr) -> None:
    """Some features of Y from the `first` on."""
    lanes, words = h.lanes, h.key_vectors * h.wide
    acc = registers(h.rows * FOUR, lanes, "int32")
    for r in range(h.rows):
        less = T.Bind(T.Broadcast(shifts[first + r], lanes))
        for i in range(FOUR):
            store(acc, (r * FOUR + i) * lanes, load(totals, i * lanes, lanes) - less)
    with T.serial(0, h.groups) as group:
        x = [T.Bind(load(weights, (group * FOUR + i) * h.wide, h.wide)) for i in range(FOUR)]
        for r in range(h.rows):
            factor = splat_codes(values, (first + r) * words + group * FOUR, lanes)
            for i in range(FOUR):
                store(acc, (r * FOUR + i) * lanes, dot(load(acc, (r * FOUR + i) * lanes, lanes), x[i], factor))
    low, high = (T.Broadcast(T.Cast("uint8", h.integer(place)), h.wide) for place in (_LOW, _HIGH))
    for r in range(h.rows):
        scaled = [T.Cast(f"float32x{lanes}", load(acc, (r * FOUR + i) * lanes, lanes)) * h.factor(_RESULT)
                  for i in range(FOUR)]
        units = [T.min(splat(FAR, lanes), T.max(splat(-FAR, lanes), each)) for each in scaled]
        codes = narrowed([rounded(each) for each in units], _zero_point(h, _Y_ZERO))
        store(h.b["y"], h.q + (first + r) * h.p.width, T.min(T.max(codes, low), high))
