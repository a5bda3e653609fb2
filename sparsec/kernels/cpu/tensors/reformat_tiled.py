"""Copies of sequences (batch, tokens, features) between the plain and the tiled layout, by transposes in registers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import Tiled, round_up
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.registers import transpose
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, splat, store


@dataclass(frozen=True)
class ReformatTiledParams:
    """A copy kernel: into the tiled layout, or out of it; `dtype` is the plain tensor's element type."""

    layout: Tiled
    into: bool
    dtype: str = "float32"

    @property
    def plain_size(self) -> int:
        """Floats of the plain tensor."""
        return self.layout.batch * self.layout.tokens * self.layout.features


def tile(x: np.ndarray, layout: Tiled) -> np.ndarray:
    """The flat buffer of X (batch, tokens, features), with NaN in the padding."""
    padding = layout.tiles * layout.width - layout.tokens
    padded = np.pad(x, ((0, 0), (0, padding), (0, 0)), constant_values=np.nan)
    tiles = padded.reshape(layout.batch, layout.tiles, layout.width, layout.features).swapaxes(2, 3)
    return np.ascontiguousarray(tiles).ravel()


def untile(y: np.ndarray, layout: Tiled) -> np.ndarray:
    """X (batch, tokens, features) of a flat buffer."""
    tiles = y.reshape(layout.batch, layout.tiles, layout.features, layout.width).swapaxes(2, 3)
    return tiles.reshape(layout.batch, -1, layout.features)[:, :layout.tokens]


def reference(x: np.ndarray, params: ReformatTiledParams) -> np.ndarray:
    """The copy of a flat buffer; padding of the tiled layout is NaN."""
    layout = params.layout
    if params.into:
        return tile(x.reshape(layout.batch, layout.tokens, layout.features), layout)
    return np.ascontiguousarray(untile(x, layout)).ravel()


def build(params: ReformatTiledParams, isa: Isa) -> Kernel:
    """The kernel: x -> y, both flat."""
    plain, tiled = (params.plain_size, params.dtype), (params.layout.size, params.layout.dtype)
    x, y = (plain, tiled) if params.into else (tiled, plain)
    emit = _emit if params.dtype == "float32" else _codes
    return kernel({"x": x, "y": y}, lambda b: emit(b, params, isa))


def _codes(b: Buffers, p: ReformatTiledParams, isa: Isa) -> None:
    """Copy codes; those of int8 lie 128 larger in tiles.

    The unit of work is a vector's lanes of tokens, whose codes are turned four by four as integers of 32 bits; what is
    left of tokens, and rows of few features, are copied one by one.
    """
    layout, lanes = p.layout, isa.lanes
    turned = layout.features >= CODES * lanes and layout.width % lanes == 0
    whole = layout.tokens // lanes if turned else 0
    if whole:
        with shared(layout.batch * whole, isa) as unit:
            _turned(b, p, T.floordiv(unit, whole), T.floormod(unit, whole) * lanes, lanes)
    if rest := layout.tokens - whole * lanes:
        with shared(layout.batch * rest, isa) as token:
            _single(b, p, T.floordiv(token, rest), whole * lanes + T.floormod(token, rest))


CODES = 4
"""Codes in an integer of 32 bits."""


def _turned(b: Buffers, p: ReformatTiledParams, sequence: Expr, first: Expr, lanes: int) -> None:
    """The codes of a vector's lanes of tokens."""
    features, width, step = p.layout.features, p.layout.width, CODES * lanes
    plain = T.Bind((sequence * p.layout.tokens + first) * features)
    tiled = T.Bind((sequence * p.layout.tiles + T.floordiv(first, width)) * (features * width)
                   + T.floormod(first, width))
    flip = [tvm.tirx.const(-0x7f7f7f80, "int32")] if p.dtype == "int8" else []
    numbers, codes = f"int32x{lanes}", f"uint8x{lanes}"

    def flipped(vector: Expr) -> Expr:
        return T.bitwise_xor(vector, T.Broadcast(flip[0], lanes)) if flip else vector

    def block(feature: Expr) -> None:
        def place(number: int, code: int) -> Expr:
            return tiled + (feature + CODES * number + code) * width

        if p.into:
            rows = [flipped(T.reinterpret(numbers, load(b["x"], plain + t * features + feature, step)))
                    for t in range(lanes)]
            for number, vector in enumerate(transpose(rows, lanes)):
                for code in range(CODES):
                    shifted = T.shift_right(vector, T.Broadcast(T.int32(8 * code), lanes)) if code else vector
                    store(b["y"], place(number, code), T.Cast(codes, shifted))
            return
        wide = [[T.shift_left(T.Cast(numbers, load(b["x"], place(number, code), lanes)),
                              T.Broadcast(T.int32(8 * code), lanes)) for code in range(CODES)]
                for number in range(lanes)]
        rows = [flipped(T.bitwise_or(T.bitwise_or(first, second), T.bitwise_or(third, fourth)))
                for first, second, third, fourth in wide]
        for t, vector in enumerate(transpose(rows, lanes)):
            store(b["y"], plain + t * features + feature, T.reinterpret(f"{p.dtype}x{step}", vector))

    with T.serial(0, features // step) as index:
        block(index * step)
    if features % step:
        block(features - step)  # overlaps the block before


def _single(b: Buffers, p: ReformatTiledParams, sequence: Expr, t: Expr) -> None:
    """The codes of one token."""
    layout = p.layout
    width, features = layout.width, layout.features
    plain = T.Bind((sequence * layout.tokens + t) * features)
    tiled = T.Bind((sequence * layout.tiles + T.floordiv(t, width)) * (features * width) + T.floormod(t, width))
    with T.serial(0, features) as f:
        inside, outside = tiled + f * width, plain + f
        source, target = (outside, inside) if p.into else (inside, outside)
        code = b["x"][source]
        if p.dtype == "int8":
            written = "uint8" if p.into else "int8"
            code = T.bitwise_xor(T.reinterpret(written, code), tvm.tirx.const(128 if p.into else -128, written))
        T.buffer_store(b["y"], code, [target])


def _emit(b: Buffers, p: ReformatTiledParams, isa: Isa) -> None:
    """The unit of work is a vector of tokens; the last one of a sequence may be partial."""
    tokens, lanes = p.layout.tokens, isa.lanes
    whole = tokens // lanes
    if whole:
        with shared(p.layout.batch * whole, isa) as unit:
            _tokens(b, p, T.floordiv(unit, whole), T.floormod(unit, whole) * lanes, lanes, lanes)
    if tokens % lanes:
        with shared(p.layout.batch, isa) as sequence:
            _tokens(b, p, sequence, whole * lanes, tokens % lanes, lanes)
    if p.into:
        _clear(b, p, isa)


def _clear(b: Buffers, p: ReformatTiledParams, isa: Isa) -> None:
    """Zero the lanes behind a sequence's last token: products compute on them, and denormals take 50 times as long.

    The vector of the last token is full already, unless rows are shorter than one.
    """
    layout, lanes = p.layout, isa.lanes
    features, width = layout.features, layout.width
    first = layout.tokens if features < lanes else round_up(layout.tokens, lanes)
    begin = layout.tiles * width - width
    if first < layout.tiles * width:
        with shared(layout.batch, isa) as sequence, T.serial(0, features) as f:
            row = T.Bind(((sequence + 1) * layout.tiles - 1) * (features * width) + f * width)
            for token in range(first - begin, width, lanes):
                store(b["y"], row + token, splat(0.0, min(lanes, width - token)))


def _tokens(b: Buffers, p: ReformatTiledParams, sequence: Expr, first: Expr, count: int, lanes: int) -> None:
    """Copy all features of `count` tokens, at most a vector of them."""
    layout = p.layout
    features, width = layout.features, layout.width
    plain = T.Bind((sequence * layout.tokens + first) * features)
    tiled = T.Bind((sequence * layout.tiles + T.floordiv(first, width)) * (features * width) + T.floormod(first, width))

    def block(feature: Expr) -> None:
        if p.into:
            rows = [load(b["x"], plain + min(t, count - 1) * features + feature, lanes) for t in range(lanes)]
            for f, row in enumerate(transpose(rows, lanes)):
                store(b["y"], tiled + (feature + f) * width, row)
        else:
            rows = [load(b["x"], tiled + (feature + f) * width, lanes) for f in range(lanes)]
            for t, row in enumerate(transpose(rows, lanes)[:count]):
                store(b["y"], plain + t * features + feature, row)

    if features < lanes:
        with T.serial(0, count) as t, T.serial(0, features) as f:
            inside, outside = tiled + f * width + t, plain + t * features + f
            source, target = (outside, inside) if p.into else (inside, outside)
            T.buffer_store(b["y"], b["x"][source], [target])
        return
    with T.serial(0, features // lanes) as i:
        block(i * lanes)
    if features % lanes:
        block(features - lanes)  # overlaps the block before


