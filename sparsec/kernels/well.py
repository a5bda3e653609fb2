"""Windowed ELL ("WELL"): sparse weight times a few dense vectors without gathers, on AVX-512 and AVX2.

A group is `lanes` rows, one per lane. A slot of a group names one aligned window of 2 * lanes inputs, held in two
registers, and for every lane the position in the window of one of the row's non-zeros, which a register permute picks.
Slots are packed greedily from the left: the window starts at the vector that holds the leftmost non-zero still to be
stored, and every row whose next non-zero lies in the window spends it. Lanes without one multiply by zero. Slots hold
2 places per non-zero at 5 % density, 1.6 at 10 %, 1.2 at 30 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.errors import FormatError
from sparsec.formats.well import pack_slots
from sparsec.kernels.emit import Buffers, kernel, load, registers, splat, store
from sparsec.kernels.isa import Isa
from sparsec.kernels.matvec import Matvec, arguments, balanced, finish_row, padded_rows, parallel

CODECS = {"f32": "float32", "embedded": "float32", "f16": "float16"}
"""How values are stored, and their type. `embedded` keeps a value's position in the window in the low five bits of its
mantissa (relative error below 2^-19), which saves the byte that the index takes otherwise."""


@dataclass(frozen=True)
class WellParams:
    """A kernel.

    Attributes:
        shape: the product.
        codec: one of `CODECS`.
        sort: rows are grouped by their number of non-zeros, not in their order; costs a permutation of the result.
        unroll: slots per iteration, with an accumulator each; a group's slots are padded to a multiple.
        lanes: rows of a group.
        threads: parts of balanced work.

    """

    shape: Matvec
    codec: str = "f32"
    sort: bool = False
    unroll: int = 2
    lanes: int = 16
    threads: int = 1

    @property
    def groups(self) -> int:
        """Groups of rows."""
        return -(-self.shape.outputs // self.lanes)

    @property
    def base_dtype(self) -> str:
        """Type of a window's start."""
        return "uint16" if self.shape.inputs <= 1 << 16 else "int32"


def reject(isa: Isa) -> str | None:
    """Why there is no such kernel for an instruction set, or None."""
    return None if isa.permute2 or isa.lanes == 8 else "no register permute with variable positions"


def _columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row starts, and the columns and values of the non-zeros in row order."""
    nonzero = weight != 0
    starts = np.concatenate([[0], np.cumsum(nonzero.sum(axis=1))])
    return starts, np.nonzero(nonzero)[1], weight[nonzero]


def sorting_pays(weight: np.ndarray, lanes: int) -> bool:
    """Whether sorted rows save more slots than the permutation of the result costs (about half a slot a row)."""
    natural, by_count = (_slots_in(weight, order, lanes) for order in _orders(weight))
    return natural - by_count > len(weight) // 2


def _orders(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as they are, and by falling count of non-zeros."""
    return np.arange(weight.shape[0]), np.argsort(-(weight != 0).sum(axis=1), kind="stable")


def _grouped(weight: np.ndarray, order: np.ndarray, lanes: int) -> np.ndarray:
    """Rows in order, completed to whole groups by empty ones."""
    return np.pad(weight[order], ((0, -len(order) % lanes), (0, 0)))


def slot_count(weight: np.ndarray, params: WellParams) -> int:
    """Slots that a weight takes."""
    return _slots_in(weight, _orders(weight)[int(params.sort)], params.lanes)


def _slots_in(weight: np.ndarray, order: np.ndarray, lanes: int) -> int:
    starts, columns, _ = _columns(_grouped(weight, order, lanes))
    return int((pack_slots(starts, columns, weight.shape[1], lanes)[0] >= 0).sum())


def pack(weight: np.ndarray, params: WellParams) -> dict[str, np.ndarray]:
    """The kernel's arrays for a weight (outputs, inputs), in the order of its arguments.

    Returns:
        `starts` (int32): first iteration of every group, and the end of the last;
        `parts` (int32): first group of every thread, and the end of the last;
        `rows` (int32), if sorted: where in the groups every output lies;
        `bases`: window starts by slot; `indices` (uint8), `values`: slots x lanes; no indices if they are embedded.

    Raises:
        FormatError: the codec cannot hold a value.

    """
    p = params
    order = _orders(weight)[int(p.sort)]
    starts, columns, values = _columns(_grouped(weight, order, p.lanes))
    bases, step_of = pack_slots(starts, columns, p.shape.inputs, p.lanes)
    iterations = -(-(bases >= 0).sum(axis=1) // p.unroll)
    first = np.concatenate([[0], np.cumsum(iterations)])
    slots = max(int(first[-1]), 1) * p.unroll  # never empty, so that every buffer has an address

    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    group, lane = row // p.lanes, row % p.lanes
    place = (first[group] * p.unroll + step_of) * p.lanes + lane
    position = np.zeros(slots * p.lanes, np.uint8)
    position[place] = columns - bases[group, step_of]
    value = np.zeros(slots * p.lanes, np.float32)
    value[place] = values
    base = np.zeros(slots, p.base_dtype)
    live_group, step = np.nonzero(bases >= 0)
    base[first[live_group] * p.unroll + step] = bases[live_group, step]

    arrays = {"starts": first.astype(np.int32), "parts": balanced(first, p.threads)}
    if p.sort:
        arrays["rows"] = np.argsort(order).astype(np.int32)
    arrays["bases"] = base
    if p.codec != "embedded":
        arrays["indices"] = position
    return arrays | {"values": _encode(value, position, p.codec)}


def _encode(value: np.ndarray, position: np.ndarray, codec: str) -> np.ndarray:
    if codec == "f32":
        return value
    if codec == "f16":
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if np.isinf(half[np.isfinite(value)]).any():
            raise FormatError(f"WELL f16: {np.abs(value).max():g} is beyond float16's range; store f32 values")
        return half
    nearest = (value.view(np.uint32).astype(np.int64) - position + 16) & ~31
    embedded: np.ndarray = (nearest + position).astype(np.uint32).view(np.float32)
    if not np.isfinite(embedded).all():
        raise FormatError("WELL with embedded indices cannot hold NaN or infinity; store f32 values")
    return embedded


def build(params: WellParams) -> Any:
    """The kernel: (starts, parts, [rows], bases, [indices], values, bias, x, [residual]) -> y."""
    p = params
    weight: dict[str, tuple[int | None, str]] = {
        "starts": (p.groups + 1, "int32"), "parts": (p.threads + 1, "int32")}
    if p.sort:
        weight["rows"] = (p.shape.outputs, "int32")
    weight["bases"] = (None, p.base_dtype)
    if p.codec != "embedded":
        weight["indices"] = (None, "uint8")
    weight["values"] = (None, CODECS[p.codec])
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p))


def _emit(b: Buffers, p: WellParams) -> None:
    x, stride = padded_rows(b, p.shape, 2 * p.lanes, p.lanes)
    height = p.groups * p.lanes
    in_place = not p.sort and height == p.shape.outputs
    sums = b["y"] if in_place else T.alloc_buffer((p.shape.batch * height,), "float32")

    def part(thread: Any) -> None:
        first = T.Bind(b["parts"][thread])
        with T.serial(0, b["parts"][thread + 1] - first) as group:
            _group(b, p, first + group, x, stride, sums)

    parallel(p.threads, part)
    ordered = T.alloc_buffer((height,), "float32") if p.sort else sums
    with T.serial(0, p.shape.batch) as n:
        if p.sort:
            with T.serial(0, p.shape.outputs) as i:
                T.buffer_store(ordered, sums[n * height + b["rows"][i]], [i])
        finish_row(b, p.shape, ordered, 0 if p.sort else n * height, n * p.shape.outputs, p.lanes)


def _group(b: Buffers, p: WellParams, group: Any, x: Any, stride: int, sums: Any) -> None:
    """The products of one group, into `sums` (batch, groups * lanes)."""
    lanes, batch = p.lanes, p.shape.batch
    totals = registers(batch * p.unroll, lanes)
    for i in range(batch * p.unroll):
        store(totals, i * lanes, splat(0.0, lanes))
    first = T.Bind(T.Cast("int64", b["starts"][group]))
    with T.serial(0, b["starts"][group + 1] - b["starts"][group]) as iteration:
        for u in range(p.unroll):
            slot = (first + iteration) * p.unroll + u
            base = T.Bind(T.Cast("int64", b["bases"][slot]))
            values = T.Bind(load(b["values"], slot * lanes, lanes))
            if p.codec == "embedded":
                index = T.reinterpret(f"int32x{lanes}", values)
            else:
                index = T.Bind(T.Cast(f"int32x{lanes}", load(b["indices"], slot * lanes, lanes)))
            for n in range(batch):
                at = (n * p.unroll + u) * lanes
                window = [load(x, n * stride + base + half * lanes, lanes) for half in range(2)]
                picked = _pick(window[0], window[1], index, lanes)
                store(totals, at, load(totals, at, lanes) + T.Cast(f"float32x{lanes}", values) * picked)
    for n in range(batch):
        total = load(totals, n * p.unroll * lanes, lanes)
        for u in range(1, p.unroll):
            total = total + load(totals, (n * p.unroll + u) * lanes, lanes)
        store(sums, n * p.groups * lanes + group * lanes, total)


def _pick(low: Any, high: Any, index: Any, lanes: int) -> Any:
    """The elements of two registers at the low bits of `index`."""
    if lanes == 16:
        return T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.vpermi2var.ps.512", low, index, high)
    low, high = (T.call_llvm_pure_intrin("float32x8", "llvm.x86.avx2.permps", half, index) for half in (low, high))
    in_high = T.bitwise_and(index, T.Broadcast(T.int32(8), lanes)) != T.Broadcast(T.int32(0), lanes)
    return T.Select(in_high, high, low)
