"""CSR times a few dense vectors, one scalar multiply-add per non-zero: the fallback where registers cannot be permuted.

Rows are padded with zeros to whole iterations of `unroll` non-zeros, each with its own accumulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec, arguments, balanced_parts, finish_rows
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, registers
from sparsec.kernels.family import Family, float_product
from sparsec.kernels.packing.padded_rows import PaddedRows
from sparsec.target import Target


@dataclass(frozen=True)
class CsrParams:
    """A kernel.

    Attributes:
        shape: the product.
        unroll: non-zeros per iteration.
        lanes: floats of a vector, for the epilogue.
        threads: parts of balanced work.

    """

    shape: Matvec
    unroll: int = 4
    lanes: int = 4
    threads: int = 1

    @property
    def column_dtype(self) -> str:
        """Type of a column index."""
        return "uint16" if self.shape.inputs <= 1 << 16 else "int32"


def candidates(layer: RowProduct, _target: Target, isa: Isa, _precision: str) -> Iterator[Option]:
    """The one way to run a layer."""
    shape, nonzeros = layer.shape, layer.nonzeros
    params = CsrParams(shape, lanes=isa.lanes, threads=isa.threads)
    slots = nonzeros + shape.outputs * (params.unroll - 1) / 2
    nbytes = 6 * nonzeros + 4 * shape.outputs
    work = Work(slots * shape.batch, slots * (1 + 2 * shape.batch), shape.outputs / 2, memory_bytes=nbytes,
                kernel="csr/scalar", pixels=shape.batch, density=layer.density)
    yield Option("csr", "csr/scalar", f"U={params.unroll}", params, nbytes, work, "f32")


def recipe(params: CsrParams) -> PaddedRows:
    """What the kernel reads.

    `starts` (int32): first iteration of every row, and the end of the last;
    `parts` (int32): first row of every thread, and the end of the last;
    `columns`, `values` (float32): iterations x unroll.
    """
    return PaddedRows(params.unroll, params.threads, params.column_dtype)


def build(params: CsrParams, _isa: Isa) -> Kernel:
    """The kernel: (starts, parts, columns, values, bias, x, [residual]) -> y."""
    shape = params.shape
    weight: dict[str, tuple[int | None, str]] = {
        "starts": (shape.outputs + 1, "int32"), "parts": (params.threads + 1, "int32"),
        "columns": (None, params.column_dtype), "values": (None, "float32")}
    return kernel(arguments(shape, **weight), lambda b: _emit(b, params))


def _emit(b: Buffers, p: CsrParams) -> None:
    shape = p.shape
    height = -(-shape.outputs // p.lanes) * p.lanes
    sums = b["y"] if height == shape.outputs else T.alloc_buffer((shape.batch * height,), "float32")

    balanced_parts(b, p.threads, lambda row: _row(b, p, row, sums, height))
    finish_rows(b, shape, sums, height, p.lanes)


def _row(b: Buffers, p: CsrParams, row: Expr, sums: Buffer, height: int) -> None:
    """The products of one row, into `sums` (batch, height)."""
    first = T.Bind(T.Cast("int64", b["starts"][row]))
    with T.serial(0, p.shape.batch) as n:
        totals = registers(p.unroll, 1)
        for u in range(p.unroll):
            T.buffer_store(totals, T.float32(0), [u])
        with T.serial(0, b["starts"][row + 1] - b["starts"][row]) as iteration:
            for u in range(p.unroll):
                place = (first + iteration) * p.unroll + u
                column = T.Cast("int64", b["columns"][place])
                T.buffer_store(totals, totals[u] + b["values"][place] * b["x"][n * p.shape.inputs + column], [u])
        total = totals[0]
        for u in range(1, p.unroll):
            total = total + totals[u]
        T.buffer_store(sums, total, [n * height + row])


FAMILY = Family("csr", RowProduct, ("csr",), "fp32", candidates, recipe, build, float_product)
