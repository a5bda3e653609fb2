"""What products of images of any size share, channels last: weights that are packed by panels of outputs.

What is multiplied lies in scratch as (vector of inputs, row, input of the vector), so that the rows of a register block
are neighbours, whatever the number of inputs. A panel of outputs is multiplied with all rows before the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.cpu.tensors.sized_windows import SIZES
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import (
    Buffer,
    Buffers,
    Expr,
    Kernel,
    add_to,
    kernel,
    load,
    prefetch,
    registers,
    splat,
    store,
)

FLOATS = 1 << 18
"""Room for what is multiplied at once."""
L2_SHARE = 0.5
"""Of the L2 cache that it and what is kept beside it may take."""
AHEAD, LINE = 1024, 16
"""Floats that weights, which come from beyond the caches, are asked for before their use, and those of a line."""
SHORT = 1024
"""Pixels of an image of which all weights are read for each one."""
TALLEST = 16
"""Rows of a register block at most."""


@dataclass(frozen=True)
class Panel:
    """A panel of outputs.

    Attributes:
        weights: vectors of inputs one behind the other, each of (input, output).
        start: where those of the panel begin there.
        lanes: floats of a vector.
        vectors: of outputs.
        chunks: vectors of inputs.

    """

    weights: Buffer
    start: Expr
    lanes: int
    vectors: int
    chunks: Expr

    def sums(self, rows: Buffer, first: Expr, room: Expr | int, height: int) -> Buffer:
        """The products with so many rows, as registers (row, vector of outputs).

        Args:
            rows: (vector of inputs, row, input of the vector).
            first: where the first row begins there.
            room: rows that there is room for.
            height: rows.

        """
        lanes, width = self.lanes, self.vectors * self.lanes
        acc = registers(height * self.vectors, lanes)
        for register in range(height * self.vectors):
            store(acc, register * lanes, splat(0.0, lanes))
        with T.serial(0, self.chunks) as chunk:
            begin, weights = known(first + chunk * room * lanes), known(self.start + chunk * (lanes * width))
            with T.serial(0, lanes) as channel:
                own, at = known(weights + channel * width), known(begin + channel)
                for line in range(0, width, LINE):
                    prefetch(self.weights, own + AHEAD + line)
                values = [T.Bind(load(self.weights, own + v * lanes, lanes)) for v in range(self.vectors)]
                for row in range(height):
                    source = splat(rows[at + row * lanes], lanes)
                    for v in range(self.vectors):
                        add_to(acc, (row * self.vectors + v) * lanes, values[v] * source)
        return acc


def product(emit: Callable[[Buffers, int], None], l2_bytes: int, *, residual: bool) -> Kernel:
    """The kernel: (first, sizes, tables, x, extra, [residual]) -> y, flat float32 of any length but the first three.

    `sizes` and `tables` are those of `sized_windows`; `emit` gets the buffers and the floats of scratch at once.
    """
    more = {"residual": (None, "float32")} if residual else {}
    arrays = {"x": (None, "float32"), "extra": (None, "float32"), **more, "y": (None, "float32")}
    budget = min(FLOATS, int(L2_SHARE * l2_bytes) // 4)
    return kernel({"first": (1, "int64"), "sizes": (len(SIZES), "int64"), "tables": (None, "int64"), **arrays},
                  lambda buffers: emit(buffers, budget), views=True)


def heights(vectors: int, isa: Isa) -> range:
    """Rows of a register block, for so many vectors of outputs: the largest first, and smaller ones for the rest."""
    largest = min((isa.registers - vectors - 1) // vectors, TALLEST) // 2 * 2
    return range(largest, 1, -2 if largest < TALLEST else -4)


def in_blocks(rows: Expr, blocks: Sequence[int], body: Callable[[Expr, int], None], *, overlap: bool) -> None:
    """`body(first, height)` for rows in register blocks: the largest, and one that the rest fits in.

    Where that is too large, it has rows behind the last one, or is to `overlap` the one before it, if there is one.
    """
    whole = known(T.truncdiv(rows, blocks[0]))
    rest = known(rows - whole * blocks[0])
    with T.serial(0, whole) as group:
        body(known(group * blocks[0]), blocks[0])

    def last(height: int) -> None:
        body(known(T.max(T.int64(0), rows - height) if overlap else whole * blocks[0]), height)

    def choose(left: Sequence[int]) -> None:
        if len(left) == 1:
            last(left[0])
            return
        with T.If(rest > left[1]):
            with T.Then():
                last(left[0])
            with T.Else():
                choose(left[1:])

    with T.If(rest > 0), T.Then():
        choose(blocks if len(blocks) == 1 or blocks[0] - 1 > blocks[1] else blocks[1:])


def by_threads(units: Expr, isa: Isa, work: Callable[[Expr, Expr], None]) -> None:
    """`work(low, high)` for equal shares of so many units, one a thread."""
    if isa.threads == 1:
        work(T.int64(0), units)
        return
    with T.parallel(0, isa.threads) as thread:
        work(T.Bind(thread * units // isa.threads), T.Bind((thread + 1) * units // isa.threads))


def known(value: Expr) -> Expr:
    """An integer in a register: what `Bind` holds, TVM writes out in every index that it is part of."""
    register = registers(1, 1, "int64")
    T.buffer_store(register, value, [0])
    return T.Bind(register[0])


def over(count: Expr, by: Expr | int) -> Expr:
    """The quotient, rounded up."""
    return T.truncdiv(count + (by - 1), by)
