"""softmax(scale Q K^T + mask) V for any number of tokens and keys, read and written where numpy's views lie.

Queries (batch, heads, tokens, depth) share the keys and values (batch, groups, keys, depth) of their group of heads.
For a group, K is transposed once into vectors of keys; blocks of query rows then take their scores, softmax and
weighted values from the caches. Sizes and strides, in elements, are an argument: see `SIZES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.graph.sized import MASK, ROUND, SCALE, WEIGHTS
from sparsec.kernels.emit.activations import exp_normal
from sparsec.kernels.emit.fold import across
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.registers import transpose
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    kernel,
    load,
    prefetch,
    registers,
    splat,
    store,
)

ROWS = 4  # query rows in flight
MORE_ROWS = 8  # the same of many tokens where registers hold their sums: keys and values are read half as often
MORE_REGISTERS = 32  # vector registers that hold them
PAIR = 2  # vectors of keys in flight, which make enough sums to hide the latency of FMA
WIDE = {ROWS: 4, MORE_ROWS: 2}  # vectors of values in flight
AHEAD = 1  # pairs of vectors of keys that are asked for while one is worked on: rows lie apart, and streams are short
LINE = 16  # floats of a line of a cache
KEPT = 1 << 16  # floats of values, and of keys, that an L2 cache keeps until they are used
UNDERFLOW = -87.0  # e^x below is no normal number; it becomes 0

SIZES = ("batch", "groups", "shared", "tokens", "keys", "masked",
         "q_batch", "q_head", "q_token", "k_batch", "k_group", "k_key", "v_batch", "v_group", "v_key",
         "mask_batch", "mask_head", "mask_token", "y_batch", "y_head", "y_token")
"""The elements of the argument `sizes`: heads are groups x shared; masked is 1 where there is a mask, else 0."""


@dataclass(frozen=True)
class SizedAttention:
    """A kernel: features of queries and keys, features of values, and the factor of the scores.

    Where scores or weights are rounded to codes, `steps` are what is done to products in place of the factor: see
    `sparsec.graph.sized`; their numbers are an argument.
    """

    depth: int
    width: int
    scale: float
    steps: tuple[str, ...] = ()


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, p: SizedAttention,
              levels: Sequence[float] = ()) -> np.ndarray:
    """Y (batch, heads, tokens, width), in float64."""
    shared = q.shape[1] // k.shape[1]
    keys, values = (np.repeat(each.astype(np.float64), shared, axis=1) for each in (k, v))
    scores = q.astype(np.float64) @ keys.swapaxes(2, 3)
    for index, step in enumerate(p.steps or (SCALE, *((MASK,) if mask is not None else ()))):
        at = _first(p.steps, index)
        if step == SCALE:
            scores = scores * (levels[at] if p.steps else p.scale)
        elif step == MASK:
            scores = scores + (0.0 if mask is None else mask)
        elif step == ROUND:
            scores = _to_levels(scores, levels[at:])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    if WEIGHTS in p.steps:
        weights = _to_levels(weights, levels[_first(p.steps, len(p.steps) - 1):])
    return np.asarray(weights @ values)


def _to_levels(x: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    units, low, high, scale, *_ = levels
    return np.asarray(np.clip(np.rint(x * units), low, high) * scale)


def scratch(p: SizedAttention, isa: Isa, keys: int) -> int:
    """Floats of the argument `work`."""
    return isa.threads * (p.depth + heights(isa)[0]) * padded(keys, isa)


def heights(isa: Isa) -> tuple[int, ...]:
    """Query rows of a block, of the blocks that rows are divided into, the largest first."""
    return (MORE_ROWS, ROWS) if isa.registers >= MORE_REGISTERS else (ROWS,)


def padded(keys: int, isa: Isa) -> int:
    """Keys in whole pairs of the widest vectors."""
    return round_up(keys, PAIR * isa.lanes)


def build(p: SizedAttention, isa: Isa) -> Kernel:
    """The kernel: (sizes, q, k, v, mask, levels?, work) -> y, all but sizes flat float32 of any length and alignment.

    `levels` are the numbers of the steps, where there are such.
    """
    names = ("q", "k", "v", "mask", *(("levels",) if p.steps else ()), "work", "y")
    floats = dict.fromkeys(names, (None, "float32"))
    return kernel({"sizes": (len(SIZES), "int64"), **floats}, lambda b: _emit(b, p, isa), views=True)


@dataclass(frozen=True)
class Frame:
    """What the parts of the kernel share: its buffers, its sizes by name, the lanes of its vectors, and `heights`.

    Where all is read `once`, values and the keys of the next group come to the L2 cache while others are worked on.
    """

    b: Buffers
    p: SizedAttention
    sizes: dict[str, Any]
    lanes: int
    heights: tuple[int, ...] = (ROWS,)
    once: bool = False

    @property
    def blocks(self) -> Expr:
        """Pairs of vectors that cover the keys."""
        return T.floordiv(self.sizes["keys"] + (PAIR * self.lanes - 1), PAIR * self.lanes)


def _emit(b: Buffers, p: SizedAttention, isa: Isa) -> None:
    sizes = {name: T.Bind(b["sizes"][index]) for index, name in enumerate(SIZES)}
    over_groups(Frame(b, p, sizes, isa.lanes_dividing(p.depth, p.width), heights(isa)), isa)


def over_groups(frame: Frame, isa: Isa) -> None:
    """The statements of the kernel in its frame: threads share the groups of the batch."""
    units = T.Bind(frame.sizes["batch"] * frame.sizes["groups"])
    room = T.Bind(frame.blocks * (PAIR * frame.lanes * (frame.p.depth + frame.heights[0])))
    if isa.threads == 1:
        with T.serial(0, units) as unit:
            _unit(frame, unit, T.int64(0), units)
        return
    with T.parallel(0, isa.threads) as thread:
        number = T.Cast("int64", thread)
        end = T.Bind(T.floordiv((number + 1) * units, isa.threads))
        with T.serial(T.floordiv(number * units, isa.threads), end) as unit:
            _unit(frame, unit, T.Bind(number * room), end)


def _unit(f: Frame, unit: Expr, work: Expr, end: Expr) -> None:
    """All heads of a group: its keys in the order of vectors at `work`, the scores of a block of rows behind them."""
    s = f.sizes

    def group_of(number: Expr) -> tuple[Expr, Expr]:
        return T.Bind(T.floordiv(number, s["groups"])), T.Bind(T.floormod(number, s["groups"]))

    def keys_of(batch: Expr, group: Expr) -> Expr:
        return T.Bind(batch * s["k_batch"] + group * s["k_group"])

    batch, group = group_of(unit)
    _transposed_keys(f, keys_of(batch, group), work)
    later = keys_of(*group_of(T.Bind(T.min(unit + 1, end - 1)))) if f.once else None
    scores = T.Bind(work + f.blocks * (PAIR * f.lanes * f.p.depth))
    rows = T.Bind(s["shared"] * s["tokens"])
    values = T.Bind(batch * s["v_batch"] + group * s["v_group"])

    def starts(row: Expr) -> dict[str, Expr]:
        head, token = group * s["shared"] + T.floordiv(row, s["tokens"]), T.floormod(row, s["tokens"])
        return {name: T.Bind(batch * s[f"{name}_batch"] + head * s[f"{name}_head"] + token * s[f"{name}_token"])
                for name in ("q", "mask", "y")}

    first = T.int64(0)
    for height in f.heights:
        last = height == f.heights[-1]
        count = T.Bind(T.floordiv(rows - first + (height - 1 if last else 0), height))
        with T.serial(0, count) as block:
            at = [starts(T.Bind(T.min(first + block * height + r, rows - 1))) for r in range(height)]
            _scores(f, [each["q"] for each in at], work, scores, values)
            rows_of = [T.Bind(scores + f.blocks * (PAIR * f.lanes * r)) for r in range(height)]
            sums = _softmax(f, rows_of, [each["mask"] for each in at])
            _weighted(f, values, scores, sums, [each["y"] for each in at], later)
        first = T.Bind(first + count * height)


def _transposed_keys(f: Frame, first: Expr, work: Expr) -> None:
    """Keys as [pair of vectors][feature][key of the pair]; those behind the last repeat it."""
    keys, count = f.sizes["keys"], PAIR * f.lanes
    whole = T.Bind(T.floordiv(keys, count))
    with T.serial(0, whole) as block:
        _transposed_block(f, work, block, lambda key: first + (block * count + key) * f.sizes["k_key"])
    with T.serial(0, f.blocks - whole) as rest:
        block = whole + rest
        _transposed_block(f, work, block,
                          lambda key: first + T.min(block * count + key, keys - 1) * f.sizes["k_key"])


def _transposed_block(f: Frame, work: Expr, block: Expr, key_at: Callable[[int], Expr]) -> None:
    lanes = f.lanes
    with T.serial(0, f.p.depth // lanes) as part:
        for half in range(PAIR):
            rows = []
            for lane in range(lanes):
                at = T.Bind(key_at(half * lanes + lane) + part * lanes)
                prefetch(f.b["k"], at + AHEAD * PAIR * lanes * f.sizes["k_key"])
                rows.append(load(f.b["k"], at, lanes))
            for feature, vector in enumerate(transpose(rows, lanes) if lanes > 1 else rows):
                row = (block * f.p.depth + part * lanes + feature) * PAIR + half
                store(f.b["work"], work + row * lanes, vector)


def _scores(f: Frame, queries: list[Expr], keys: Expr, scores: Expr, values: Expr) -> None:
    """The products of a block of rows with all keys, a row behind the other."""
    lanes, depth, count = f.lanes, f.p.depth, PAIR * f.lanes
    asks = f.once and depth % count == 0
    unrolled = depth // count if asks else 1

    def multiply(block: Expr, feature: Expr, sums: Buffer) -> None:
        at = T.Bind(keys + (block * depth + feature) * count)
        vectors = [T.Bind(load(f.b["work"], at + half * lanes, lanes)) for half in range(PAIR)]
        for r, query in enumerate(queries):
            x = T.Bind(splat(f.b["q"][query + feature], lanes))
            for half in range(PAIR):
                add_to(sums, (r * PAIR + half) * lanes, x * vectors[half])

    with T.serial(0, f.blocks) as block:
        sums = registers(len(queries) * PAIR, lanes)
        for register in range(len(queries) * PAIR):
            store(sums, register * lanes, splat(0.0, lanes))
        with T.serial(0, depth // unrolled) as step:
            if asks:
                key = T.min(block * count + step, T.int64(KEPT // f.p.width))
                _ask(f, "v", T.Bind(values + key * f.sizes["v_key"]), f.p.width)
            for u in range(unrolled):
                multiply(block, step * unrolled + u, sums)
        for r in range(len(queries)):
            for half in range(PAIR):
                target = scores + ((r * f.blocks + block) * PAIR + half) * lanes
                store(f.b["work"], target, load(sums, (r * PAIR + half) * lanes, lanes))


def _ask(f: Frame, name: str, at: Expr, count: int) -> None:
    """Ask the L2 cache for the features of a key or value."""
    for first in range(0, count, LINE):
        prefetch(f.b[name], at + first, 2)


def _softmax(f: Frame, rows: list[Expr], masks: list[Expr]) -> list[Expr]:
    """Rows of scores become exponentials, in place and side by side; returns one over the sum of each."""
    lanes, keys, work, count = f.lanes, f.sizes["keys"], f.b["work"], len(rows)
    tops, totals, ends = registers(count, lanes), registers(count, lanes), registers(2 * count, 1)
    for r in range(count):
        store(tops, r * lanes, splat(-float("inf"), lanes))
        store(totals, r * lanes, splat(0.0, lanes))
        T.buffer_store(ends, T.float32(-float("inf")), [r])
        T.buffer_store(ends, T.float32(0), [count + r])
    whole = T.Bind(T.floordiv(keys, lanes))

    def each(body: Callable[[Expr, int], None]) -> None:
        with T.serial(0, whole) as vector:
            body(vector * lanes, lanes)
        with T.serial(0, keys - whole * lanes) as rest:
            body(whole * lanes + rest, 1)

    def scaled(at: Expr, width: int) -> None:
        for row, mask in zip(rows, masks, strict=True):
            x = load(work, row + at, width)
            store(work, row + at, _stepped(f, x, mask + at, width) if f.p.steps else x * splat(f.p.scale, width))
        if not f.p.steps:
            with T.If(f.sizes["masked"] == 1), T.Then():
                for row, mask in zip(rows, masks, strict=True):
                    add_to(work, row + at, load(f.b["mask"], mask + at, width))
        for r, row in enumerate(rows):
            into = (tops, r * lanes) if width == lanes and lanes > 1 else (ends, r)
            store(*into, T.max(load(*into, width), load(work, row + at, width)))

    each(scaled)
    for r in range(count):
        T.buffer_store(ends, T.max(ends[r], across(load(tops, r * lanes, lanes), lanes, T.max)), [r])

    def exponential(at: Expr, width: int) -> None:
        for r, row in enumerate(rows):
            x = T.Bind(load(work, row + at, width) - splat(ends[r], width))
            store(work, row + at, T.Select(x < splat(UNDERFLOW, width), splat(0.0, width), exp_normal(x, width)))
            into = (totals, r * lanes) if width == lanes and lanes > 1 else (ends, count + r)
            store(*into, load(*into, width) + load(work, row + at, width))

    each(exponential)
    factors = [T.Bind(T.float32(1) / (ends[count + r] + across(load(totals, r * lanes, lanes), lanes,
                                                               lambda a, c: a + c))) for r in range(count)]
    if WEIGHTS not in f.p.steps:
        return factors
    first = _first(f.p.steps, len(f.p.steps) - 1)
    whole_by = [T.Bind(factor * f.b["levels"][first]) for factor in factors]

    def rounded(at: Expr, width: int) -> None:
        for row, by in zip(rows, whole_by, strict=True):
            units = T.min(load(work, row + at, width) * splat(by, width), splat(f.b["levels"][first + 2], width))
            store(work, row + at, _whole(units, width))

    each(rounded)
    return [f.b["levels"][first + 3]] * count


NUMBERS = {SCALE: 1, MASK: 0, ROUND: 4, WEIGHTS: 4}
"""By step, how many numbers it takes."""
HALF = 12582912.0
"""1.5 * 2^23: what is added to it is rounded to whole numbers, halves to even, in the low bits of the sum."""
HALF_BITS = int(np.float32(HALF).view(np.int32))


def _first(steps: tuple[str, ...], index: int) -> int:
    """The place of a step's numbers."""
    return sum(NUMBERS[step] for step in steps[:index])


def _whole(x: Expr, width: int) -> Expr:
    """Numbers of less than 22 bits, rounded; TVM would take the difference of floats for what they were before."""
    wide = "" if width == 1 else f"x{width}"
    bits = T.reinterpret(f"int32{wide}", T.Bind(x + splat(HALF, width)))
    return T.Cast(f"float32{wide}", bits - splat(T.int32(HALF_BITS), width))


def _stepped(f: Frame, x: Expr, mask: Expr, width: int) -> Expr:
    """Scores by products."""
    for index, step in enumerate(f.p.steps):
        at = _first(f.p.steps, index)
        numbers = [splat(f.b["levels"][at + each], width) for each in range(NUMBERS[step])]
        if step == SCALE:
            x = x * numbers[0]
        elif step == MASK:
            x = x + load(f.b["mask"], mask, width)
        elif step == ROUND:
            units = T.Bind(T.max(T.min(x * numbers[0], numbers[2]), numbers[1]))
            x = T.Bind(_whole(units, width) * numbers[3])
    return x


def _weighted(f: Frame, values: Expr, scores: Expr, sums: list[Expr], targets: list[Expr],
              later: Expr | None) -> None:
    """The values by their weights, for a block of rows; asks for the keys from `later` on, if there are any."""
    lanes, vectors, wide = f.lanes, f.p.width // f.lanes, WIDE[len(sums)]
    for first in range(0, vectors, wide):
        count = min(wide, vectors - first)
        totals = registers(len(sums) * count, lanes)
        for register in range(len(sums) * count):
            store(totals, register * lanes, splat(0.0, lanes))
        with T.serial(0, f.sizes["keys"]) as key:
            at = T.Bind(values + key * f.sizes["v_key"] + first * lanes)
            for v in range(count):
                prefetch(f.b["v"], at + AHEAD * PAIR * lanes * f.sizes["v_key"] + v * lanes)
            if later is not None and first == 0:
                _ask(f, "k", T.Bind(later + T.min(key, T.int64(KEPT // f.p.depth)) * f.sizes["k_key"]), f.p.depth)
            row = [T.Bind(load(f.b["v"], at + v * lanes, lanes)) for v in range(count)]
            for r in range(len(sums)):
                weight = T.Bind(splat(f.b["work"][scores + r * (f.blocks * (PAIR * lanes)) + key], lanes))
                for v in range(count):
                    add_to(totals, (r * count + v) * lanes, weight * row[v])
        for r in range(len(sums)):
            for v in range(count):
                store(f.b["y"], targets[r] + (first + v) * lanes,
                      load(totals, (r * count + v) * lanes, lanes) * splat(sums[r], lanes))
