"""What the kernels for a few rows of codes share: inputs as unsigned bytes, blocks of outputs, and what follows sums.

X (batch, inputs) and Y (batch, outputs) are row-major. Outputs stand in lanes, in blocks of four vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.codes.finish import Finish, Quantized, codes_of, numbers_of
from sparsec.kernels.cpu.images.padded import load_lanes, store_lanes
from sparsec.kernels.cpu.images.reformat_padded import flip
from sparsec.kernels.cpu.layer import Activations, CpuProduct
from sparsec.kernels.cpu.rows.matvec import balanced_parts
from sparsec.kernels.emit.codes import FOUR, fenced, llvm_codes, ordered
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel, kernel, load, splat, store


@dataclass(frozen=True)
class RowsOfCodes:
    """A product of a few rows.

    Attributes:
        batch, inputs, outputs: rows, and the shape of the weight.
        finish: what follows.
        signed: X is int8.
        result: element type of Y: uint8, int8 or float32.
        lanes: 32-bit lanes of a vector.
        threads: parts of balanced work.
        copies: how often the weight's columns count the inputs, one after the other (`graph.codes.byte_parts`).

    """

    batch: int
    inputs: int
    outputs: int
    finish: Finish
    signed: bool
    result: str
    lanes: int
    threads: int = 1
    copies: int = 1

    @property
    def columns(self) -> int:
        """Columns of the weight."""
        return self.copies * self.inputs

    @property
    def block(self) -> int:
        """Outputs of a block: one for each 32-bit lane of its vectors."""
        return FOUR * self.lanes

    @property
    def blocks(self) -> int:
        """Blocks of outputs, the last one padded."""
        return -(-self.outputs // self.block)

    @property
    def stride(self) -> int:
        """Bytes of a row of inputs where the product reads it: a window of two vectors fits wherever one begins."""
        return round_up(self.columns, self.block) + self.block

    @property
    def x(self) -> tuple[int, str]:
        """Size and type of X."""
        return self.batch * self.inputs, "int8" if self.signed else "uint8"

    @property
    def activations(self) -> dict[str, tuple[int | None, str]]:
        """The inputs of a kernel behind its constants."""
        each = self.finish.inputs(self.batch * self.inputs, self.batch * self.outputs)
        residual = {"residual": (self.batch * self.outputs, self.result)} if self.finish.residual else {}
        return {**each, "x": self.x, **residual}


@dataclass(frozen=True, eq=False)
class RowsProduct(CpuProduct):
    """A weight (outputs, inputs) of int8, less its zero points, that multiplies a few rows of codes.

    Attributes:
        bias: what the integer sums over codes start from (outputs,); `numbers` have it, too.
        shape: the product.
        numbers: the constants of what follows.

    """

    shape: RowsOfCodes
    numbers: Quantized = field(repr=False)

    @property
    def constants(self) -> tuple[np.ndarray, ...]:
        """The numbers that follow the sums."""
        return tuple(self.numbers.arrays(self.shape.finish))

    @property
    def inputs(self) -> tuple[Activations, ...]:
        """Codes, their scale and zero point where those are known at run time only, and the residual."""
        return tuple(Activations(size or 0, dtype) for size, dtype in self.shape.activations.values())

    @property
    def output(self) -> Activations:
        """Y: its elements, junk and padding included, and their type."""
        return Activations(self.shape.batch * self.shape.outputs, self.shape.result)


def on_threads(shape: RowsOfCodes) -> list[RowsOfCodes]:
    """The product on all threads, and on one, where waking the others takes longer."""
    return [shape] if shape.threads == 1 else [shape, replace(shape, threads=1)]


@dataclass(frozen=True)
class Ends:
    """Where a kernel's activations come from and go to.

    Attributes:
        inputs: what a kernel takes behind its weight and the numbers that follow.
        output: size and type of Y.
        copied: emits a copy of X as rows of unsigned bytes, and what else comes first.
        put: emits the results of a row: (buffers, block, row, vectors of scaled sums, outputs of the block).

    """

    inputs: dict[str, tuple[int | None, str]]
    output: tuple[int, str]
    copied: Callable[[Buffers], Expr]
    put: Callable[[Buffers, Expr, Expr, list[Expr], int], None]


Emit = Callable[[Buffers, Expr, Expr, Buffer], None]
"""Emits a block's sums, from zero on: (buffers, rows of inputs, block, where they go: (batch, outputs of a block))."""


def plain(shape: RowsOfCodes) -> Ends:
    """Row-major X, residual and Y."""
    s = shape
    return Ends(s.activations, (s.batch * s.outputs, s.result), lambda b: _copied(b, s),
                lambda b, block, n, scaled, end: _put(b, s, (block, n), scaled, end))


def build(shape: RowsOfCodes, weights: dict[str, tuple[int | None, str]], emit: Emit, isa: Isa,
          ends: Ends | None = None) -> Kernel:
    """The kernel: (parts, the weight's arrays, *Finish, inputs of `ends`) -> y."""
    s, ends = shape, ends or plain(shape)
    arguments = {"parts": (s.threads + 1, "int32"), **weights, **s.finish.arguments(s.outputs), **ends.inputs,
                 "y": ends.output}

    def body(b: Buffers) -> None:
        rows = ends.copied(b)

        def block(index: Expr) -> None:
            sums = T.alloc_buffer((s.batch * s.block,), "int32")
            emit(b, rows, index, sums)
            _finish(b, s, index, sums, ends)

        balanced_parts(b, s.threads, block)

    return kernel(arguments, body, llvm_codes(isa))


def _copied(b: Buffers, s: RowsOfCodes) -> Expr:
    """X as unsigned bytes, a row every `stride`; weights are zero for what lies behind a row's inputs."""
    rows = T.alloc_buffer((s.batch * s.stride,), "uint8")
    with T.serial(0, s.batch) as n:
        for copy in range(s.copies):
            _copy(b, s, rows, n, n * s.stride + copy * s.inputs)
    return rows


def _copy(b: Buffers, s: RowsOfCodes, rows: Buffer, n: Expr, target: Expr) -> None:
    """A row of X; whole vectors are written, of which the last may reach behind the inputs."""
    wide = s.block

    def copy(at: Expr, end: int) -> None:
        codes = load_lanes(b["x"], n * s.inputs + at, wide, 0, end)
        store(rows, target + at, unsigned(codes, wide) if s.signed else codes)

    with T.serial(0, s.inputs // wide) as vector:
        copy(vector * wide, wide)
    if s.inputs % wide:
        copy(s.inputs - s.inputs % wide, s.inputs % wide)


def unsigned(codes: Expr, count: int) -> Expr:
    """Codes of int8 as they lie elsewhere, 128 larger."""
    return T.bitwise_xor(T.reinterpret(f"uint8x{count}", codes), flip("uint8", count))


def _finish(b: Buffers, s: RowsOfCodes, block: Expr, sums: Buffer, ends: Ends) -> None:
    """The results of a block, the last of which may be short."""
    rest = s.outputs % s.block
    for end in (s.block, rest) if rest else (s.block,):
        last = block == s.blocks - 1
        chosen = T.If(last if end == rest else T.Not(last)) if rest else nullcontext()
        with chosen, T.Then() if rest else nullcontext():
            _results(b, s, block, sums, ends, end)


def _results(b: Buffers, s: RowsOfCodes, block: Expr, sums: Buffer, ends: Ends, end: int) -> None:
    f, lanes, first = s.finish, s.lanes, block * s.block

    def constant(name: str, part: int) -> Expr:
        return T.Bind(load_lanes(b[name], first + part * lanes, lanes, 0, end - part * lanes))

    factors, begins = ([constant(name, part) for part in range(FOUR)] for name in ("scales", "begins"))
    if f.dynamic:
        zero = T.Broadcast(T.Cast("int32", b["x_zero_point"][0]), lanes)
        begins = [T.Bind(each - zero * constant("totals", part)) for part, each in enumerate(begins)]
        factors = [T.Bind(each * splat(b["x_scale"][0], lanes)) for each in factors]

    with T.serial(0, s.batch) as n:
        totals = [load(sums, n * s.block + part * lanes, lanes) + begins[part] for part in range(FOUR)]
        scaled = [T.Bind(fenced(T.Cast(f"float32x{lanes}", total) * factor))
                  for total, factor in zip(totals, factors, strict=True)]
        ends.put(b, block, n, scaled, end)


def _put(b: Buffers, s: RowsOfCodes, place: tuple[Expr, Expr], scaled: list[Expr], end: int) -> None:
    """A row's results of a block (block, row)."""
    f, lanes, (block, n) = s.finish, s.lanes, place
    at = T.Bind(n * s.outputs + block * s.block)
    if f.real:
        beside = [load_lanes(b["residual"], at + part * lanes, lanes, 0, end - part * lanes)
                  for part in range(FOUR)] if f.residual else []
        addends = [load_lanes(b["addends"], block * s.block + part * lanes, lanes, 0, end - part * lanes)
                   for part in range(FOUR)]
        for part, result in enumerate(numbers_of(f, scaled, addends, beside)):
            store_lanes(b["y"], at + part * lanes, result, end - part * lanes)
        return
    residual = load_lanes(b["residual"], at, s.block, 0, end) if f.residual else None
    if residual is not None:
        residual = T.Bind(unsigned(residual, s.block) if s.result == "int8" else residual)
    result = codes_in_order(b, s, scaled, residual, block)
    if s.result == "int8":
        result = T.bitwise_xor(T.reinterpret(f"int8x{s.block}", result), flip("int8", s.block))
    store_lanes(b["y"], at, result, end)


def codes_in_order(b: Buffers, s: RowsOfCodes, scaled: list[Expr], residual: Expr, block: Expr) -> Expr:
    """The codes of a block's four vectors of scaled sums in natural order; `residual` may be None."""
    shifts = [ordered(_shifts(b, s, block), part) for part in range(FOUR)] if s.finish.shifted else []
    return codes_of(b, s.finish, [ordered(scaled, part) for part in range(FOUR)], residual, shifts)


def _shifts(b: Buffers, s: RowsOfCodes, block: Expr) -> list[Expr]:
    """The constant residual of a block's outputs; the last block may be short."""
    count = T.Bind(T.min(s.block, s.outputs - block * s.block))
    row = T.alloc_buffer((s.block,), "float32")
    with T.serial(0, count) as c:
        T.buffer_store(row, b["addends"][block * s.block + c], [c])
    return [T.Bind(load(row, part * s.lanes, s.lanes)) for part in range(FOUR)]
