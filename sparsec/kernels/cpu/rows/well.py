"""Windowed ELL ("WELL"): sparse weight times a few dense vectors without gathers, on AVX-512 and AVX2.

A group is `lanes` rows, one per lane. A slot of a group names one aligned window of 2 * lanes inputs, held in two
registers, and for every lane the position in the window of one of the row's non-zeros, which a register permute picks.
Slots are packed greedily from the left: the window starts at the vector that holds the leftmost non-zero still to be
stored, and every row whose next non-zero lies in the window spends it. Lanes without one multiply by zero. Slots hold
2 places per non-zero at 5 % density, 1.6 at 10 %, 1.2 at 30 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.rows.layer import BYTES, RowProduct, codecs, stored_product, too_many_rows
from sparsec.kernels.cpu.rows.matvec import Matvec, arguments, balanced_parts, finish_row, padded_rows
from sparsec.kernels.emit.intrinsics import permuted_pair
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.values import CODECS
from sparsec.kernels.packing.windows import Windows, orders, slots_in
from sparsec.target import Target


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


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.permutes:
        return "the processor has no instruction that permutes a register by variable positions"
    return too_many_rows(layer)


def candidates(layer: RowProduct, _target: Target, isa: Isa, precision: str) -> Iterator[Option]:
    """The kernel of every codec."""
    shape, (sort, slots) = layer.shape, layer.memoised(slot_count, isa.lanes)
    fill = layer.nonzeros / max(1, slots * isa.lanes)
    for codec in codecs(layer, isa, precision):
        p = WellParams(shape, codec, sort, lanes=isa.lanes, threads=isa.threads)
        nbytes = slots * (isa.lanes * (BYTES[codec] + 1) + 2)
        work = Work(slots * shape.batch, slots * (2.5 + 2 * shape.batch), p.groups, memory_bytes=nbytes,
                    kernel=f"well/{codec}", pixels=shape.batch, density=layer.density,
                    permutes=slots * (1 + shape.batch))  # one widens the positions
        yield Option("well", f"well/{codec}", f"sort={sort} fill={fill:.2f}", p, nbytes, work, codec)


def slot_count(weight: np.ndarray, lanes: int) -> tuple[bool, int]:
    """Whether to sort the rows, and the slots that a weight then takes, by a sample of a large one.

    Sorting pays where it saves more slots than the permutation of the result costs: about half a slot a row.
    """
    natural, by_count = slots_in(weight, orders(weight), lanes)
    sort = natural - by_count > len(weight) // 2
    return sort, by_count if sort else natural


def recipe(params: WellParams) -> Windows:
    """What the kernel reads.

    `starts` (int32): first iteration of every group, and the end of the last;
    `parts` (int32): first group of every thread, and the end of the last;
    `rows` (int32), if sorted: where in the groups every output lies;
    `bases`: window starts by slot; `indices` (uint8), `values`: slots x lanes.
    """
    p = params
    return Windows(p.codec, p.unroll, p.lanes, p.threads, p.base_dtype, sort=p.sort)


def build(params: WellParams, _isa: Isa) -> Kernel:
    """The kernel: (starts, parts, [rows], bases, indices, values, bias, x, [residual]) -> y."""
    p = params
    weight: dict[str, tuple[int | None, str]] = {
        "starts": (p.groups + 1, "int32"), "parts": (p.threads + 1, "int32")}
    if p.sort:
        weight["rows"] = (p.shape.outputs, "int32")
    weight |= {"bases": (None, p.base_dtype), "indices": (None, "uint8"), "values": (None, CODECS[p.codec])}
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p))


def _emit(b: Buffers, p: WellParams) -> None:
    x, stride = padded_rows(b, p.shape, 2 * p.lanes, p.lanes)
    height = p.groups * p.lanes
    in_place = not p.sort and height == p.shape.outputs
    sums = b["y"] if in_place else T.alloc_buffer((p.shape.batch * height,), "float32")

    balanced_parts(b, p.threads, lambda group: _group(b, p, group, x, stride, sums))
    ordered = T.alloc_buffer((height,), "float32") if p.sort else sums
    with T.serial(0, p.shape.batch) as n:
        if p.sort:
            with T.serial(0, p.shape.outputs) as i:
                T.buffer_store(ordered, sums[n * height + b["rows"][i]], [i])
        finish_row(b, p.shape, ordered, 0 if p.sort else n * height, n * p.shape.outputs, p.lanes)


def _group(b: Buffers, p: WellParams, group: Expr, x: Buffer, stride: int, sums: Buffer) -> None:
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
            index = T.Bind(T.Cast(f"int32x{lanes}", load(b["indices"], slot * lanes, lanes)))
            for n in range(batch):
                at = (n * p.unroll + u) * lanes
                window = [load(x, n * stride + base + half * lanes, lanes) for half in range(2)]
                picked = permuted_pair(window[0], window[1], index, lanes)
                store(totals, at, load(totals, at, lanes) + T.Cast(f"float32x{lanes}", values) * picked)
    for n in range(batch):
        total = load(totals, n * p.unroll * lanes, lanes)
        for u in range(1, p.unroll):
            total = total + load(totals, (n * p.unroll + u) * lanes, lanes)
        store(sums, n * p.groups * lanes + group * lanes, total)


FAMILY = Family("well", RowProduct, ("well",), "fp32", candidates, recipe, build, stored_product, reject)
