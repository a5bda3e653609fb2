"""What the kernels for a few rows of codes share: inputs as unsigned bytes, blocks of outputs, and what follows sums.

X (batch, inputs) and Y (batch, outputs) are row-major. Outputs stand in lanes, in blocks of four vectors; within a
block they are in the order of `emit.codes`, so that narrowing leaves them in their natural order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.layout import round_up
from sparsec.kernels.cpu.codes.finish import Finish, Quantised, codes_of, numbers_of
from sparsec.kernels.cpu.images.padded import load_lanes, store_lanes
from sparsec.kernels.cpu.images.reformat_padded import flip
from sparsec.kernels.cpu.rows.matvec import balanced_parts
from sparsec.kernels.emit.codes import FOUR, llvm_codes
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, kernel, load, splat, store


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

    """

    batch: int
    inputs: int
    outputs: int
    finish: Finish
    signed: bool
    result: str
    lanes: int
    threads: int = 1

    @property
    def block(self) -> int:
        """Outputs of a block."""
        return FOUR * self.lanes

    @property
    def blocks(self) -> int:
        """Blocks of outputs."""
        return -(-self.outputs // self.block)

    @property
    def stride(self) -> int:
        """Bytes of a row of inputs where the product reads it, a window of two vectors at least."""
        return round_up(self.inputs, self.block) + self.block

    @property
    def order(self) -> np.ndarray:
        """The output that stands in every lane of every block; `outputs` and more where there is none."""
        inside = np.arange(self.block).reshape(FOUR, self.lanes // FOUR, FOUR).transpose(1, 0, 2)
        place = np.empty(self.block, np.int64)  # output 16 L + 4 j + i stands in vector j, lane 4 L + i
        place[inside.ravel()] = np.arange(self.block)
        return np.asarray((np.arange(self.blocks)[:, None] * self.block + place).ravel())


def arranged(values: np.ndarray, shape: RowsOfCodes) -> np.ndarray:
    """Numbers or rows of outputs in the order of lanes, zeros where there is no output."""
    missing = shape.blocks * shape.block - shape.outputs
    padded = np.pad(values, [(0, missing), *[(0, 0)] * (values.ndim - 1)])
    return np.asarray(padded[shape.order])


def constants_of(numbers: Quantised, shape: RowsOfCodes) -> list[np.ndarray]:
    """The constants of `Finish` in the order of lanes; what is added to float32 results stays in its natural order."""
    def arrange(array: np.ndarray) -> np.ndarray:
        return arranged(array, shape) if array.shape == (shape.outputs,) else array

    missing = shape.blocks * shape.block - shape.outputs
    laid = Quantised(arrange(numbers.scales), arrange(numbers.begins), arrange(numbers.totals),
                     np.pad(numbers.addends, (0, missing)) if shape.finish.real else numbers.addends,
                     numbers.y_zero_point, numbers.low, numbers.high, numbers.p_zero_point, numbers.p_low,
                     numbers.p_high, numbers.r_zero_point, numbers.p_ratio, numbers.r_ratio)
    return laid.arrays(shape.finish)


Emit = Callable[[Buffers, Any, Any, Any], None]
"""Emits a block's sums: (buffers, rows of inputs, block, where sums go: (batch, outputs of a block))."""


@dataclass(frozen=True)
class Ends:
    """Where a kernel's activations come from and go to.

    Attributes:
        inputs: names, sizes and types of its inputs.
        output: size and type of Y.
        copied: emits a copy of X as rows of unsigned bytes, and what else comes first.
        finish: emits the results of a block: (buffers, block, sums).

    """

    inputs: dict[str, tuple[int | None, str]]
    output: tuple[int, str]
    copied: Callable[[Buffers], Any]
    finish: Callable[[Buffers, Any, Any], None]


def plain(shape: RowsOfCodes) -> Ends:
    """Row-major X, residual and Y."""
    s = shape
    inputs = s.finish.inputs(s.batch * s.inputs, s.batch * s.outputs)
    inputs["x"] = (s.batch * s.inputs, "int8" if s.signed else "uint8")
    if s.finish.residual:
        inputs["residual"] = (s.batch * s.outputs, s.result)
    return Ends(inputs, (s.batch * s.outputs, s.result), lambda b: _copied(b, s),
                lambda b, block, sums: _finish(b, s, block, sums))


def build(shape: RowsOfCodes, weights: dict[str, tuple[int | None, str]], emit: Emit, isa: Isa,
          ends: Ends | None = None) -> Any:
    """The kernel: (parts, the weight's arrays, *Finish, x, [x_scale, x_zero_point], [residual]) -> y."""
    s, ends = shape, ends or plain(shape)
    arguments = {"parts": (s.threads + 1, "int32"), **weights, **s.finish.arguments(s.blocks * s.block),
                 **ends.inputs, "y": ends.output}

    def body(b: Buffers) -> None:
        rows = ends.copied(b)

        def block(index: Any) -> None:
            sums = T.alloc_buffer((s.batch * s.block,), "int32")
            emit(b, rows, index, sums)
            ends.finish(b, index, sums)

        balanced_parts(b, s.threads, block)

    return kernel(arguments, body, llvm_codes(isa))


def begin(b: Buffers, shape: RowsOfCodes, at: Any) -> Any:
    """What a vector of sums starts from."""
    start = load(b["begins"], at, shape.lanes)
    if not shape.finish.dynamic:
        return start
    zero = T.Broadcast(T.Cast("int32", b["x_zero_point"][0]), shape.lanes)
    return start - zero * load(b["totals"], at, shape.lanes)


def _copied(b: Buffers, s: RowsOfCodes) -> Any:
    """X as unsigned bytes, a row every `stride`; weights are zero for what lies behind a row's inputs."""
    rows = T.alloc_buffer((s.batch * s.stride,), "uint8")
    wide = s.block
    with T.serial(0, s.batch) as n:
        def copy(at: Any, end: int) -> None:
            codes = load_lanes(b["x"], n * s.inputs + at, wide, 0, end)
            if s.signed:
                codes = T.bitwise_xor(T.reinterpret(f"uint8x{wide}", codes), flip("uint8", wide))
            store(rows, n * s.stride + at, codes)

        with T.serial(0, s.inputs // wide) as vector:
            copy(vector * wide, wide)
        if s.inputs % wide:
            copy(s.inputs - s.inputs % wide, s.inputs % wide)
    return rows


def _finish(b: Buffers, s: RowsOfCodes, block: Any, sums: Any) -> None:
    """The results of a block."""
    rest = s.outputs % s.block
    for end in (s.block, rest) if rest else (s.block,):
        last = block == s.blocks - 1
        chosen = T.If(last if end == rest else T.Not(last)) if rest else nullcontext()
        with chosen, T.Then() if rest else nullcontext(), T.serial(0, s.batch) as n:
            _results(b, s, block, n, sums, end)


def _results(b: Buffers, s: RowsOfCodes, block: Any, n: Any, sums: Any, end: int) -> None:
    f, lanes = s.finish, s.lanes
    at, first = T.Bind(n * s.outputs + block * s.block), block * s.block
    totals = [load(sums, n * s.block + part * lanes, lanes) for part in range(FOUR)]
    factors = [load(b["scales"], first + part * lanes, lanes) for part in range(FOUR)]
    if f.dynamic:
        factors = [each * splat(b["x_scale"][0], lanes) for each in factors]
    if f.real:
        beside = [load_lanes(b["residual"], at + part * lanes, lanes, 0, end - part * lanes)
                  for part in range(FOUR)] if f.residual else []
        addends = [load(b["addends"], first + part * lanes, lanes) for part in range(FOUR)]
        for part, result in enumerate(numbers_of(f, totals, factors, addends, beside)):
            store_lanes(b["y"], at + part * lanes, result, end - part * lanes)
        return
    residual = load_lanes(b["residual"], at, s.block, 0, end) if f.residual else None
    if residual is not None:
        residual = T.Bind(_unsigned(residual, s))
    result = codes_of(b, f, totals, factors, residual)
    if s.result == "int8":
        result = T.bitwise_xor(T.reinterpret(f"int8x{s.block}", result), flip("int8", s.block))
    store_lanes(b["y"], at, result, end)


def _unsigned(codes: Any, s: RowsOfCodes) -> Any:
    if s.result != "int8":
        return codes
    return T.bitwise_xor(T.reinterpret(f"uint8x{s.block}", codes), flip("uint8", s.block))
