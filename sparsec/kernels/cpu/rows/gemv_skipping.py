"""Dense weight times one vector that may hold zeros, as ReLU leaves them: the columns of zeros are not read.

The weight lies column by column, as CSC. Every call lists the non-zeros of the vector, however many there are, and goes
through their columns, a few at once, while those that follow are asked for: prefetching by hardware does not see where
the next ones lie. Without zeros that is one stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.cost.option import Option, Work
from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.rows.layer import BYTES, RowProduct, codecs, stored_product
from sparsec.kernels.cpu.rows.matvec import Matvec, arguments, even_parts, finish_rows
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, prefetch, registers, splat, store
from sparsec.kernels.family import Family
from sparsec.kernels.packing.blocks import PaddedBlocks
from sparsec.kernels.packing.values import CODECS
from sparsec.target import Target

LEAST_CACHES = 2
"""Times the L2 cache, what a weight takes at least: what lies nearer is read in no time."""
COLUMNS = 4
"""Columns that are multiplied at once."""
TALLEST = 4096
"""Rows of a block at most, whose sums stay in the L1 cache."""


@dataclass(frozen=True)
class SkippingParams:
    """A kernel.

    Attributes:
        shape: the product, of one row.
        lanes: floats of a vector.
        threads: threads, which take equal shares of the blocks.
        codec: one of `CODECS`.

    """

    shape: Matvec
    lanes: int
    threads: int = 1
    codec: str = "f32"

    @property
    def blocks(self) -> int:
        """Blocks of rows, equally many for every thread."""
        return self.threads * -(-self.shape.outputs // (self.threads * TALLEST))

    @property
    def width(self) -> int:
        """Rows of a block."""
        return round_up(-(-self.shape.outputs // self.blocks), self.lanes)

    @property
    def height(self) -> int:
        """Rows, completed to whole blocks."""
        return self.blocks * self.width


def applies(layer: RowProduct, target: Target) -> bool:
    """Whether columns of a layer are worth skipping."""
    return (layer.zeros is not None and layer.shape.batch == 1 and layer.weight.nbytes > LEAST_CACHES * target.l2_bytes
            and bool(layer.memoised(_is_finite)))


def _is_finite(weight: np.ndarray) -> bool:
    return bool(np.isfinite(weight).all())


def candidates(layer: RowProduct, target: Target, isa: Isa, precision: str) -> Iterator[Option]:
    """The kernel of every codec, priced by the zeros that are expected."""
    shape = layer.shape
    for codec in codecs(layer, isa, precision) if applies(layer, target) else ():
        p = SkippingParams(shape, isa.lanes, isa.threads, codec)
        read = 1 - (layer.zeros or 0.0)
        count, nbytes = read * shape.inputs * p.height // p.lanes, BYTES[codec] * layer.weight.size
        work = Work(count, count * (1 + 2 / COLUMNS), read * shape.inputs / COLUMNS, memory_bytes=read * nbytes,
                    kernel=f"gemv/{codec}")
        yield Option("dense", f"gemv/{codec}-skipping", f"block={p.width}", p, nbytes, work, codec,
                     replaces=f"gemv/{codec}")


def recipe(params: SkippingParams) -> PaddedBlocks:
    """What the kernel reads: `values`, blocks x inputs x rows of the block."""
    return PaddedBlocks(params.height, params.width, params.codec)


def build(params: SkippingParams, _isa: Isa) -> Kernel:
    """The kernel: (values, bias, x, [residual]) -> y."""
    values = params.height * params.shape.inputs, CODECS[params.codec]
    return kernel(arguments(params.shape, values=values), lambda b: _emit(b, params))


@dataclass(frozen=True)
class _Listed:
    """The non-zeros and their columns, filled up to whole groups by zeros, and how many groups there are."""

    columns: Buffer
    values: Buffer
    groups: Expr


def _emit(b: Buffers, p: SkippingParams) -> None:
    sums = b["y"] if p.height == p.shape.outputs else T.alloc_buffer((p.height,), "float32")
    listed = _listed(b, p)
    even_parts(p.blocks, p.threads, lambda block: _block(b, p, block, listed, sums))
    finish_rows(b, p.shape, sums, p.height, p.lanes)


def _listed(b: Buffers, p: SkippingParams) -> _Listed:
    room = p.shape.inputs + 2 * COLUMNS
    columns, values = T.alloc_buffer((room,), "int32"), T.alloc_buffer((room,), "float32")
    head = registers(1, 1, "int32")
    T.buffer_store(head, T.int32(0), [0])
    with T.serial(0, p.shape.inputs) as k:
        T.buffer_store(columns, k, [head[0]])
        T.buffer_store(values, b["x"][k], [head[0]])
        zero = b["x"][k] == T.float32(0)  # "not equal" would be false of NaN
        T.buffer_store(head, head[0] + T.Select(zero, T.int32(0), T.int32(1)), [0])
    for k in range(2 * COLUMNS):
        T.buffer_store(columns, T.int32(0), [head[0] + k])
        T.buffer_store(values, T.float32(0), [head[0] + k])
    return _Listed(columns, values, T.Bind(T.floordiv(head[0] + (COLUMNS - 1), COLUMNS)))


def _block(b: Buffers, p: SkippingParams, block: Expr, listed: _Listed, sums: Buffer) -> None:
    """The products of a block of rows, into `sums`."""
    lanes = p.lanes
    first = T.Bind(block * p.width)
    start = T.Bind(T.Cast("int64", first) * p.shape.inputs)
    with T.serial(0, p.width // lanes) as v:
        store(sums, first + v * lanes, splat(0.0, lanes))
    with T.serial(0, listed.groups) as group:
        places = [T.Bind(start + T.Cast("int64", listed.columns[group * COLUMNS + c]) * p.width)
                  for c in range(2 * COLUMNS)]
        x = [T.Bind(splat(listed.values[group * COLUMNS + c], lanes)) for c in range(COLUMNS)]
        with T.serial(0, p.width // lanes) as v:
            for following in places[COLUMNS:]:
                prefetch(b["values"], following + v * lanes, 2)
            total = load(sums, first + v * lanes, lanes)
            for place, factor in zip(places, x, strict=False):
                total = total + T.Cast(f"float32x{lanes}", load(b["values"], place + v * lanes, lanes)) * factor
            store(sums, first + v * lanes, total)


FAMILY = Family("gemv/skipping", RowProduct, ("dense",), "fp32", candidates, recipe, build, stored_product)
