"""Transposition that brings a short axis behind the last: vectors of neighbouring planes, woven inside registers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.loops import shared
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel, kernel, load, store
from sparsec.kernels.tensors import InterleaveParams


def reference(x: np.ndarray, params: InterleaveParams) -> np.ndarray:
    """Y, of the extents."""
    shape = [params.extents[params.order.index(rank)] for rank in range(len(params.order))]
    return x.reshape(shape).transpose(params.order)


def build(params: InterleaveParams, isa: Isa) -> Kernel:
    """The kernel: (x) -> y, where the last axis of X has at least `isa.lanes` elements."""
    size = math.prod(params.extents)
    return kernel({"x": (size, "float32"), "y": (size, "float32")}, lambda b: _emit(b, params, isa))


def _emit(b: Buffers, p: InterleaveParams, isa: Isa) -> None:
    """Rows of Y, a vector of X's last axis at a time; the last one overlaps its neighbour."""
    lanes, (*outer, width, count) = isa.lanes, p.extents
    with shared(math.prod(outer), isa) as row:
        begin, rest = T.int32(0), row
        for extent, stride in list(zip(outer, p.strides, strict=False))[::-1]:
            begin, rest = begin + T.floormod(rest, extent) * stride, T.floordiv(rest, extent)
        start = T.Bind(begin)
        with T.serial(0, -(-width // lanes)) as tile:
            at = T.Bind(T.min(tile * lanes, width - lanes))
            planes = [T.Bind(load(b["x"], start + plane * p.strides[-1] + at, lanes)) for plane in range(count)]
            for place, vector in enumerate(_woven(planes, lanes)):
                store(b["y"], (row * width + at) * count + place * lanes, vector)


def _woven(vectors: Sequence[Expr], lanes: int) -> list[Expr]:
    """The elements of a power of two of vectors in turns, in as many vectors."""
    if len(vectors) == 1:
        return list(vectors)
    even, odd = _woven(vectors[::2], lanes), _woven(vectors[1::2], lanes)
    halves = [[lane // 2 + lane % 2 * lanes + first for lane in range(lanes)] for first in (0, lanes // 2)]
    return [T.Bind(T.Shuffle(list(pair), half)) for pair in zip(even, odd, strict=True) for half in halves]
