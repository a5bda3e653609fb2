"""Windowed ELL in 8-bit integers: four non-zeros of 16 rows a slot, on AVX512_VBMI and VNNI.

As `well.py`, on bytes: a slot names an aligned window of 128 inputs, held in two registers, and every row spends up to
four of its non-zeros, whose inputs a byte permute brings beside each other for a dot product. See `matvec_int8.py` for
the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.rows import matvec_int8
from sparsec.kernels.cpu.rows.layer import RowProduct, too_many_rows
from sparsec.kernels.cpu.rows.matvec import Matvec, arguments, balanced_parts, finish_rows
from sparsec.kernels.emit.intrinsics_int8 import dot_bytes, llvm_int8, permute_bytes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, registers, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.vnni import GROUP, VnniWindows, slots_of
from sparsec.kernels.packing.windows import SAMPLE
from sparsec.target import Target


@dataclass(frozen=True)
class WellInt8Params:
    """A kernel.

    Attributes:
        shape: the product.
        lanes: rows of a group.
        threads: parts of balanced work.

    """

    shape: Matvec
    lanes: int = 16
    threads: int = 1

    @property
    def groups(self) -> int:
        """Groups of rows."""
        return -(-self.shape.outputs // self.lanes)


ZERO = matvec_int8.zero_of(8)


def reject(layer: RowProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer, or None."""
    if not isa.permute_bytes:
        return "the processor has no instruction that permutes the bytes of a register"
    return too_many_rows(layer) or layer.memoised(matvec_int8.reject)


def candidates(layer: RowProduct, _target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The one way to run a layer."""
    shape, slots = layer.shape, layer.memoised(slot_count, isa.lanes)
    p = WellInt8Params(shape, isa.lanes, isa.threads)
    nbytes = slots * (8 * isa.lanes + 4) + 8 * shape.outputs
    work = Work(slots * shape.batch, slots * (2.5 + 2 * shape.batch), p.groups + shape.batch, memory_bytes=nbytes,
                kernel="well/int8", pixels=shape.batch, density=layer.density, permutes=2 * slots * shape.batch)
    fill = layer.nonzeros / max(1, slots * GROUP * isa.lanes)
    yield Option("well", "well/int8", f"fill={fill:.2f}", p, nbytes, work, "int8")


def slot_count(weight: np.ndarray, lanes: int) -> int:
    """Slots that a weight takes; of one beyond `SAMPLE` by groups of rows from all parts of it."""
    groups = -(-len(weight) // lanes)
    step = min(groups, -(-weight.size // SAMPLE)) or 1
    firsts = range(0, len(weight), lanes * step)
    sampled = np.concatenate([weight[first:first + lanes] for first in firsts]) if step > 1 else weight
    return round(int((slots_of(sampled, lanes)[3] >= 0).sum()) * groups / max(1, len(firsts)))


def recipe(params: WellInt8Params) -> VnniWindows:
    """What the kernel reads.

    `begins` (int32), `scales` (float32): by row, see `matvec_int8.py`;
    `starts` (int32): first slot of every group, and the end of the last;
    `parts` (int32): first group of every thread, and the end of the last;
    `bases` (int32): window starts by slot; `indices` (uint8), `values` (int8): slots x lanes x 4.
    """
    return VnniWindows(params.lanes, ZERO, params.threads)


def reference(weight: np.ndarray, columns: np.ndarray, _params: WellInt8Params) -> np.ndarray:
    """The product (outputs, n) of a weight and columns of activations (inputs, n), in the kernel's integers."""
    return matvec_int8.reference(weight, columns, ZERO)


def build(params: WellInt8Params, isa: Isa) -> Kernel:
    """The kernel: (begins, scales, starts, parts, bases, indices, values, bias, x, [residual]) -> y."""
    p, height = params, params.groups * params.lanes
    weight: dict[str, tuple[int | None, str]] = {
        "begins": (height, "int32"), "scales": (height, "float32"), "starts": (p.groups + 1, "int32"),
        "parts": (p.threads + 1, "int32"), "bases": (None, "int32"), "indices": (None, "uint8"),
        "values": (None, "int8")}
    return kernel(arguments(p.shape, **weight), lambda b: _emit(b, p), llvm_int8(isa))


def _emit(b: Buffers, p: WellInt8Params) -> None:
    lanes, height = p.lanes, p.groups * p.lanes
    activations = matvec_int8.quantized_rows(b, p.shape, ZERO, 2 * GROUP * lanes, lanes)
    sums = b["y"] if height == p.shape.outputs else T.alloc_buffer((p.shape.batch * height,), "float32")

    balanced_parts(b, p.threads, lambda group: _group(b, p, group, activations, sums))
    finish_rows(b, p.shape, sums, height, lanes)


def _group(b: Buffers, p: WellInt8Params, group: Expr, activations: tuple[Expr, int, Expr], sums: Buffer) -> None:
    """The products of one group, into `sums` (batch, groups * lanes)."""
    (rows, stride, scales), lanes, batch, width = activations, p.lanes, p.shape.batch, GROUP * p.lanes
    totals = registers(batch, lanes, "int32")
    for n in range(batch):
        store(totals, n * lanes, load(b["begins"], group * lanes, lanes))
    first = T.Bind(b["starts"][group])
    with T.serial(0, b["starts"][group + 1] - first) as step:
        slot = T.Bind(T.Cast("int64", first + step))
        base = T.Bind(T.Cast("int64", b["bases"][slot]))
        index = T.Bind(load(b["indices"], slot * width, width))
        weights = T.Bind(load(b["values"], slot * width, width))
        for n in range(batch):
            low, high = (load(rows, n * stride + base + half * width, width) for half in range(2))
            picked = permute_bytes(low, index, high)
            store(totals, n * lanes, dot_bytes(load(totals, n * lanes, lanes), picked, weights))
    for n in range(batch):
        total = load(totals, n * lanes, lanes)
        store(sums, n * p.groups * lanes + group * lanes,
              matvec_int8.finished(b, group * lanes, total, scales[n], lanes))


FAMILY = Family("well/int8", RowProduct, ("well",), "int8", candidates, recipe, build, reference, reject)
