"""Dense weight times a few rows of codes: four inputs of every output in a vector, blocks of four such vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.codes import rows
from sparsec.kernels.cpu.codes.layer import CodesProduct, integer_product
from sparsec.kernels.cpu.codes.rows import RowsOfCodes, RowsProduct
from sparsec.kernels.cpu.codes.rows_image import ImageRows, pixels_as_rows, reject
from sparsec.kernels.emit.codes import FOUR, dot, splat_codes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import balanced, unstored
from sparsec.target import Target

SPARE = 4  # registers beside sums and weights


@dataclass(frozen=True)
class RowsDenseParams:
    """A kernel; with an image its pixels are the rows."""

    shape: RowsOfCodes
    image: ImageRows | None = None

    @property
    def fours(self) -> int:
        """Groups of four inputs, the last one padded with zeros."""
        return -(-self.shape.columns // FOUR)


def candidates(layer: RowsProduct, _target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The kernel, on all threads or on one."""
    for shape in rows.on_threads(layer.shape):
        params = RowsDenseParams(shape)
        yield Option("dense", "qgemv", f"n={shape.batch} threads={shape.threads}", params, layer.weight.size,
                     replace(work(params, isa), serial=shape.threads == 1))


def image_candidates(layer: CodesProduct, _target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The option of the only kernel there is: its tiles leave no choice."""
    assert layer.image is not None  # others are rejected
    params = RowsDenseParams(pixels_as_rows(layer, isa), layer.image)
    yield Option("dense", "qgemv/pixels", f"n={params.shape.batch}", params, layer.weight.size,
                 layer.image.with_copies(work(params, isa), params.shape))


def pack(weight: np.ndarray, params: RowsDenseParams) -> dict[str, np.ndarray]:
    """The kernel's `parts` (int32) and `values` (int8): block x four x vector x output x input, of a weight of int8."""
    s = params.shape
    weight = weight if params.image is None else params.image.columns(weight)
    padded = np.pad(weight, ((0, s.blocks * s.block - s.outputs), (0, -weight.shape[1] % FOUR)))
    blocks = padded.reshape(s.blocks, s.block, params.fours, FOUR).swapaxes(1, 2)
    return {"parts": balanced(np.arange(s.blocks + 1), s.threads), "values": np.ascontiguousarray(blocks).ravel()}


def work(params: RowsDenseParams, isa: Isa) -> Work:
    """What a run costs."""
    s = params.shape
    vectors = s.blocks * params.fours * FOUR
    again = -(-s.batch // max(1, (isa.registers - SPARE) // FOUR - 1))
    return Work(fmas=vectors * s.batch * (1 if isa.vnni else 5), loads=vectors * again + vectors * s.batch / FOUR,
                groups=s.blocks, memory_bytes=s.outputs * s.columns + s.batch * (s.inputs + s.outputs), kernel="qgemv",
                pixels=s.batch)


def build(params: RowsDenseParams, isa: Isa) -> Kernel:
    """The kernel: (parts, values, *Finish, x, …) -> y."""
    s = params.shape

    at_once = max(1, (isa.registers - SPARE) // FOUR - 1)

    def emit(b: Buffers, x: Expr, block: Expr, sums: Buffer) -> None:
        for first in range(0, s.batch, at_once):
            _several(b, params, (x, block, sums), range(first, min(s.batch, first + at_once)))

    count = s.blocks * params.fours * FOUR * s.block
    return rows.build(s, {"values": (count, "int8")}, emit, isa, None if params.image is None else params.image.ends(s))


def _several(b: Buffers, params: RowsDenseParams, where: tuple[Expr, Expr, Expr], batch: range) -> None:
    """The sums of a block for as many rows as the registers hold sums of: `where` is (x, block, sums)."""
    s, (x, block, sums), count = params.shape, where, len(batch) * FOUR
    totals = registers(count, s.lanes, "int32")
    for register in range(count):
        store(totals, register * s.lanes, splat(T.int32(0), s.lanes))
    first = T.Bind(T.Cast("int64", block) * params.fours)
    with T.serial(0, params.fours) as four:
        weights = [T.Bind(load(b["values"], ((first + four) * FOUR + v) * s.block, s.block)) for v in range(FOUR)]
        for i, n in enumerate(batch):
            codes = T.Bind(splat_codes(x, n * s.stride + four * FOUR, s.lanes))
            for v in range(FOUR):
                at = (i * FOUR + v) * s.lanes
                store(totals, at, dot(load(totals, at, s.lanes), codes, weights[v]))
    for i, n in enumerate(batch):
        for v in range(FOUR):
            store(sums, (n * FOUR + v) * s.lanes, load(totals, (i * FOUR + v) * s.lanes, s.lanes))


FAMILY = Family("qgemv", RowsProduct, ("dense",), "fp32", candidates, unstored(pack), build, integer_product)
IMAGE_FAMILY = Family("qgemv-pixels", CodesProduct, ("dense",), "fp32", image_candidates, unstored(pack), build,
                      integer_product, reject)
