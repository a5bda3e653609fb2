"""Windowed ELL on a few rows of codes: four non-zeros of a vector of outputs a slot, on AVX512_VBMI and VNNI.

The slots are those of `rows.well_int8`: an aligned window of two vectors of inputs, of which a byte permute brings up
to four of every output's beside each other for a dot product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.codes import rows, rows_image
from sparsec.kernels.cpu.codes.layer import CodesProduct, integer_product
from sparsec.kernels.cpu.codes.rows import RowsOfCodes, RowsProduct
from sparsec.kernels.cpu.codes.rows_image import ImageRows
from sparsec.kernels.emit.codes import FOUR, dot
from sparsec.kernels.emit.intrinsics_int8 import permute_bytes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import balanced, unstored
from sparsec.kernels.packing.vnni import slots_of
from sparsec.target import Target

MOST_PIXELS = 24  # whose sums fit the registers


@dataclass(frozen=True)
class RowsWellParams:
    """A kernel; with an image its pixels are the rows."""

    shape: RowsOfCodes
    image: ImageRows | None = None


def reject(_layer: object, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer on an instruction set, or None."""
    if isa.permute_bytes:
        return None
    return "the processor has no instruction that permutes the bytes of a register"


def reject_image(layer: CodesProduct, isa: Isa) -> str | None:
    """Why there is no such kernel for a layer on an instruction set, or None."""
    refused = rows_image.reject(layer, isa) or reject(layer, isa)
    if refused is None and layer.image is not None and len(layer.image.pixels) > MOST_PIXELS:
        return f"the sums of {len(layer.image.pixels)} pixels do not fit the registers"
    return refused


def candidates(layer: RowsProduct, _target: Target, _isa: Isa, _precision: str) -> Iterator[Option]:
    """The kernel, on all threads or on one."""
    for shape in rows.on_threads(layer.shape):
        yield _option(layer.memoised(slot_count, shape.lanes), RowsWellParams(shape), "qwell")


def image_candidates(layer: CodesProduct, _target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The option of the only kernel there is: its tiles leave no choice."""
    image = layer.image
    assert image is not None  # others are rejected
    shape = rows_image.pixels_as_rows(layer, isa)
    option = _option(slot_count(image.columns(layer.weight), isa.lanes), RowsWellParams(shape, image), "qwell/pixels")
    yield replace(option, work=image.with_copies(option.cpu_work, shape))


def _option(slots: int, params: RowsWellParams, kernel: str) -> Option:
    s = params.shape
    return Option("well", kernel, f"n={s.batch} threads={s.threads}", params, slots * (2 * s.block + 4),
                  replace(work(params, slots), serial=s.threads == 1))


def pack(weight: np.ndarray, params: RowsWellParams) -> dict[str, np.ndarray]:
    """The kernel's arrays for a weight (outputs, inputs) of int8.

    Returns:
        `parts` (int32): first block of every thread; `starts` (int32): first slot of every vector of outputs, and the
        end of the last; `bases` (int32) by slot; `indices` (uint8), `values` (int8): slots x lanes x 4.

    """
    s = params.shape
    weight = weight if params.image is None else params.image.columns(weight)
    padded = np.pad(weight, ((0, s.blocks * s.block - s.outputs), (0, 0)))
    starts, columns, values, bases, step_of = slots_of(padded, s.lanes)
    first = np.concatenate([[0], np.cumsum((bases >= 0).sum(axis=1))])
    slots = max(int(first[-1]), 1)  # never empty, so that every buffer has an address
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    group, lane = row // s.lanes, row % s.lanes
    opens = np.append(True, (np.diff(row) != 0) | (np.diff(step_of) != 0))[:len(row)]
    rank = np.arange(len(row)) - np.maximum.accumulate(np.where(opens, np.arange(len(row)), 0))
    place = ((first[group] + step_of) * s.lanes + lane) * FOUR + rank
    indices, stored = np.zeros(slots * s.block, np.uint8), np.zeros(slots * s.block, np.int8)
    indices[place], stored[place] = columns - bases[group, step_of], values
    base = np.zeros(slots, np.int32)
    live, step = np.nonzero(bases >= 0)
    base[first[live] + step] = bases[live, step]
    return {"parts": balanced(first[::FOUR], s.threads), "starts": first.astype(np.int32), "bases": base,
            "indices": indices, "values": stored}


def slot_count(weight: np.ndarray, lanes: int) -> int:
    """Slots that a weight takes."""
    return int((slots_of(weight, lanes)[3] >= 0).sum())


def work(params: RowsWellParams, slots: int) -> Work:
    """What a run costs for a weight of so many slots."""
    s = params.shape
    return Work(fmas=slots * s.batch, loads=slots * (2 + 2 * s.batch), permutes=2 * slots * s.batch,
                groups=FOUR * s.blocks, memory_bytes=slots * (2 * s.block + 4) + s.batch * (s.inputs + s.outputs),
                kernel="qwell", pixels=s.batch)


def build(params: RowsWellParams, isa: Isa) -> Kernel:
    """The kernel: (parts, starts, bases, indices, values, *Finish, x, …) -> y."""
    s = params.shape

    def emit(b: Buffers, x: Expr, block: Expr, sums: Buffer) -> None:
        totals = registers(s.batch, s.lanes, "int32")
        with T.serial(0, FOUR) as part:
            group = T.Bind(block * FOUR + part)
            for n in range(s.batch):
                store(totals, n * s.lanes, splat(T.int32(0), s.lanes))
            first = T.Bind(b["starts"][group])
            with T.serial(0, b["starts"][group + 1] - first) as step:
                _slot(b, s, x, T.Bind(T.Cast("int64", first + step)), totals)
            for n in range(s.batch):
                store(sums, n * s.block + part * s.lanes, load(totals, n * s.lanes, s.lanes))

    weights: dict[str, tuple[int | None, str]] = {
        "starts": (FOUR * s.blocks + 1, "int32"), "bases": (None, "int32"), "indices": (None, "uint8"),
        "values": (None, "int8")}
    return rows.build(s, weights, emit, isa, None if params.image is None else params.image.ends(s))


def _slot(b: Buffers, s: RowsOfCodes, x: Buffer, slot: Expr, totals: Buffer) -> None:
    base = T.Bind(T.Cast("int64", b["bases"][slot]))
    index = T.Bind(load(b["indices"], slot * s.block, s.block))
    weights = T.Bind(load(b["values"], slot * s.block, s.block))
    for n in range(s.batch):
        low, high = (load(x, n * s.stride + base + half * s.block, s.block) for half in range(2))
        store(totals, n * s.lanes, dot(load(totals, n * s.lanes, s.lanes), permute_bytes(low, index, high), weights))


FAMILY = Family("qwell", RowsProduct, ("well",), "fp32", candidates, unstored(pack), build, integer_product,
                reject)
IMAGE_FAMILY = Family("qwell-pixels", CodesProduct, ("well",), "fp32", image_candidates, unstored(pack), build,
                      integer_product, reject_image)
