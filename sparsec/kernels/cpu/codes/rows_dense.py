"""Dense weight times a few rows of codes: four inputs of every output in a vector, blocks of four such vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.codes import rows
from sparsec.kernels.cpu.codes.layer import integer_product
from sparsec.kernels.cpu.codes.rows import RowsOfCodes, RowsProduct
from sparsec.kernels.emit.codes import FOUR, dot, splat_codes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, load, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.recipe import Unstored, balanced
from sparsec.target import Target


@dataclass(frozen=True)
class RowsDenseParams:
    """A kernel."""

    shape: RowsOfCodes

    @property
    def fours(self) -> int:
        """Fours of inputs."""
        return -(-self.shape.inputs // FOUR)


def candidates(layer: RowsProduct, _target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The one kernel."""
    params = RowsDenseParams(layer.shape)
    yield Option("dense", "qgemv", f"n={layer.shape.batch}", params, layer.weight.size, work(params, isa))


def recipe(params: RowsDenseParams) -> Unstored:
    """What the kernel reads, see `pack`."""
    return Unstored(partial(pack, params=params))


def pack(weight: np.ndarray, params: RowsDenseParams) -> dict[str, np.ndarray]:
    """The kernel's `parts` (int32) and `values` (int8): block x four x vector x output x input, of a weight of int8."""
    s = params.shape
    padded = np.pad(weight, ((0, s.blocks * s.block - s.outputs), (0, -weight.shape[1] % FOUR)))
    blocks = padded.reshape(s.blocks, s.block, params.fours, FOUR).swapaxes(1, 2)
    return {"parts": balanced(np.arange(s.blocks + 1), s.threads), "values": np.ascontiguousarray(blocks).ravel()}


def work(params: RowsDenseParams, isa: Isa) -> Work:
    """What a run costs."""
    s = params.shape
    vectors = s.blocks * params.fours * FOUR
    return Work(fmas=vectors * s.batch * (1 if isa.vnni else 5), loads=vectors + vectors * s.batch / FOUR,
                groups=s.blocks, memory_bytes=s.outputs * s.inputs + s.batch * (s.inputs + s.outputs), family="qgemv",
                pixels=s.batch)


def build(params: RowsDenseParams, isa: Isa) -> Any:
    """The kernel: (parts, values, *Finish, x, …) -> y."""
    s = params.shape

    def emit(b: Buffers, x: Any, block: Any, sums: Any) -> None:
        totals = registers(s.batch * FOUR, s.lanes, "int32")
        for n, v in np.ndindex(s.batch, FOUR):
            store(totals, (n * FOUR + v) * s.lanes, splat(T.int32(0), s.lanes))
        first = T.Bind(T.Cast("int64", block) * params.fours)
        with T.serial(0, params.fours) as four:
            codes = [T.Bind(splat_codes(x, n * s.stride + four * FOUR, s.lanes)) for n in range(s.batch)]
            for v in range(FOUR):
                weights = T.Bind(load(b["values"], ((first + four) * FOUR + v) * s.block, s.block))
                for n in range(s.batch):
                    at = (n * FOUR + v) * s.lanes
                    store(totals, at, dot(load(totals, at, s.lanes), codes[n], weights))
        for n, v in np.ndindex(s.batch, FOUR):
            at = (n * FOUR + v) * s.lanes
            store(sums, at, load(totals, at, s.lanes))

    count = s.blocks * params.fours * FOUR * s.block
    return rows.build(s, {"values": (count, "int8")}, emit, isa)


FAMILY = Family("qgemv", RowsProduct, ("dense",), "fp32", candidates, recipe, build, integer_product)
