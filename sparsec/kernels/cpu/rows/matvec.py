"""What the kernels for few columns share: Y = activation(X W^T + bias + residual) with X and Y in ONNX's own order.

X is (batch, inputs), W (outputs, inputs), bias (outputs,), residual and Y (batch, outputs); batch is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators import epilogue as operator
from sparsec.kernels.emit.activations import ACTIVATIONS, finished
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.threads import next_turn
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, load, parallel, prefetch, store

LINE = 64
"""Bytes of a cache line."""
AHEAD = 4096
"""Bytes that lie between what a kernel multiplies and what it asks for: the hardware's prefetchers end with a page."""
BITS_AHEAD = 1024
"""The same of bits that say where the values belong."""
SPARE_LINES = 0.25
"""How many lines an iteration asks for beyond its share, since it may take more values than others."""
MOST_STREAMS = 4
"""Blocks that a kernel multiplies at once: on an Emerald Rapids 8 are no faster to read."""


@dataclass(frozen=True)
class Matvec:
    """The product and what follows it, as in `Epilogue`; `alpha` and `beta` are the activation's."""

    outputs: int
    inputs: int
    batch: int = 1
    activation: str = "none"
    alpha: float = 0.0
    beta: float = 0.0
    residual: bool = False
    multiplies: bool = False


@dataclass(frozen=True)
class BlockedRows:
    """What the parameters of kernels that take blocks of rows have in common.

    Attributes:
        shape: the product.
        vectors: SIMD vectors of rows in a block.
        lanes: rows of a vector.
        threads: parts of balanced work.
        ahead: cache lines of values that an iteration asks for of each stream, see `lines_ahead`.
        streams: blocks that are multiplied at once, see `streams_of`.
        group: rows of X in flight, all where it is 0; a block is read once for each group.

    """

    shape: Matvec
    vectors: int = 4
    lanes: int = 16
    threads: int = 1
    ahead: int = field(default=0, kw_only=True)
    streams: int = field(default=1, kw_only=True)
    group: int = field(default=0, kw_only=True)

    @property
    def blocks(self) -> int:
        """Blocks of rows."""
        return -(-self.shape.outputs // (self.vectors * self.lanes))

    @property
    def height(self) -> int:
        """Rows of all blocks."""
        return self.blocks * self.vectors * self.lanes

    @property
    def in_place(self) -> bool:
        """Whether the blocks have no row beyond the outputs, so that threads finish what they multiply, in y."""
        return self.height == self.shape.outputs

    @property
    def detail(self) -> str:
        """What the report says of it."""
        return f"V={self.vectors} group={self.group}" if self.group else f"V={self.vectors}"

    @property
    def rounds(self) -> int:
        """How often a block is read."""
        return -(-self.shape.batch // self.group) if self.group else 1


def lines_ahead(nbytes: float, iterations: int, network: float, l2_bytes: int) -> int:
    """Lines that each iteration asks for of a weight of `nbytes`; none where the L2 cache holds `network` times it."""
    return 0 if network * nbytes <= l2_bytes else math.ceil(nbytes / iterations / LINE + SPARE_LINES)


def ask_ahead(buffer: Buffer, index: Expr, lines: int, ahead: int = AHEAD) -> None:
    """Ask the L2 cache for some lines, the first `ahead` bytes behind `index`."""
    width = np.dtype(str(buffer.dtype)).itemsize
    for line in range(lines):
        prefetch(buffer, index + (ahead + line * LINE) // width, 2)


def streams_of(shape: Matvec, vectors: int, isa: Isa, group: int = 0) -> int:
    """Blocks of so many vectors that are multiplied at once: as many as leave their sums in half of the registers.

    They lie far apart, since hardware reads several streams faster than one: its prefetchers wait at every page.
    """
    blocks = -(-shape.outputs // (vectors * isa.lanes)) // isa.threads
    return max(1, min(MOST_STREAMS, blocks, isa.registers // 2 // ((group or shape.batch) * vectors)))


def reference(weight: np.ndarray, x: np.ndarray, bias: np.ndarray, residual: np.ndarray | None,
              shape: Matvec) -> np.ndarray:
    """Y (batch, outputs) in float64 precision."""
    product = x.reshape(shape.batch, -1).astype(np.float64) @ weight.T.astype(np.float64)
    extra = None if residual is None else residual.reshape(shape.batch, -1)
    return operator.apply(product, bias, extra, shape.activation, shape.alpha, shape.beta, multiplies=shape.multiplies)


def arguments(shape: Matvec, **weight: tuple[int | None, str]) -> dict[str, tuple[int | None, str]]:
    """The kernel's buffers: the weight's, then bias, x, the residual if there is one, and y."""
    size = shape.batch * shape.outputs
    tensors: dict[str, tuple[int | None, str]] = {
        **weight, "bias": (shape.outputs, "float32"), "x": (shape.batch * shape.inputs, "float32")}
    if shape.residual:
        tensors["residual"] = (size, "float32")
    return tensors | {"y": (size, "float32")}


def in_streams(first: Expr, count: Expr, streams: int, body: Callable[[Sequence[Expr]], None]) -> None:
    """`body(numbers)` for `count` numbers from `first` on, `streams` of them at once, and those left one by one."""
    each = T.Bind(count // streams)
    with T.serial(0, each) as index:
        body([first + stream * each + index for stream in range(streams)])
    if streams > 1:
        with T.serial(0, count - streams * each) as index:
            body([first + streams * each + index])


def even_streams(count: int, threads: int, streams: int, body: Callable[[Sequence[Expr]], None]) -> None:
    """`in_streams` for every number below `count`, equal shares on every thread."""
    def part(thread: Expr) -> None:
        first, end = (T.Bind(t * count // threads) for t in (thread, thread + 1))
        in_streams(first, end - first, streams, body)

    parallel(threads, part)


def in_groups(batch: int, group: int, body: Callable[[Expr, int], None]) -> None:
    """`body(first, count)` for the rows of X, so many at once and those left together; for all where `group` is 0."""
    if not 0 < group < batch:
        body(0, batch)
        return
    with T.serial(0, batch // group) as index:
        body(index * group, group)
    if rest := batch % group:
        body(batch - rest, rest)


def balanced_streams(b: Buffers, p: BlockedRows, body: Callable[[Sequence[Expr], Expr, int, Buffer], None]) -> None:
    """Y by `body(blocks, first, count, sums)`, which writes products of blocks and rows of X to (batch, `p.height`).

    A thread begins with the part that `parts` deals to it, and then takes what the others have not begun: processors
    are not equally fast, and the memory does not serve them alike.
    """
    sums = b["y"] if p.in_place else T.alloc_buffer((p.shape.batch * p.height,), "float32")

    def blocks(numbers: Sequence[Expr]) -> None:
        in_groups(p.shape.batch, p.group, lambda first, count: body(numbers, first, count, sums))
        if p.in_place:
            for n, number in product(range(p.shape.batch), numbers):
                row = number * (p.vectors * p.lanes)
                finish_vectors(b, p.shape, n * p.shape.outputs + row, row, p.vectors, p.lanes)

    def part(thread: Expr) -> None:
        first = T.Bind(b["parts"][thread])
        in_streams(first, T.Bind(b["parts"][thread + 1] - first), p.streams, blocks)

    if p.threads == 1:
        part(0)
    else:
        _stolen_streams(b, p, blocks)
    if not p.in_place:
        finish_rows(b, p.shape, sums, p.height, p.lanes)


def _stolen_streams(b: Buffers, p: BlockedRows, body: Callable[[Sequence[Expr]], None]) -> None:
    """`in_streams` for the parts of all threads, of which each takes the next turn of its own part, then of others."""
    begun = T.alloc_buffer((p.threads * LINE // 4,), "int32")
    for thread in range(p.threads):
        T.buffer_store(begun, T.int32(0), [thread * LINE // 4])

    def share(thread: Expr) -> None:
        turn = T.alloc_buffer((1,), "int32", scope="local")
        with T.serial(0, p.threads) as other:
            owner = T.Bind(T.floormod(thread + other, p.threads))
            first = T.Bind(b["parts"][owner])
            count = T.Bind(b["parts"][owner + 1] - first)
            each = T.Bind(count // p.streams)
            turns = T.Bind(each + count - p.streams * each)
            T.buffer_store(turn, next_turn(begun, owner * (LINE // 4)), [0])
            with T.While(turn[0] < turns):
                with T.If(turn[0] < each):
                    with T.Then():
                        body([T.Bind(first + stream * each + turn[0]) for stream in range(p.streams)])
                    if p.streams > 1:
                        with T.Else():
                            body([T.Bind(first + p.streams * each + (turn[0] - each))])
                T.buffer_store(turn, next_turn(begun, owner * (LINE // 4)), [0])

    parallel(p.threads, share)


def balanced_parts(b: Buffers, threads: int, body: Callable[[Expr], None]) -> None:
    """`body(number)` for every number of the part that `parts` deals to each thread."""
    def part(thread: Expr) -> None:
        first = T.Bind(b["parts"][thread])
        with T.serial(0, b["parts"][thread + 1] - first) as index:
            body(first + index)

    parallel(threads, part)


def even_parts(count: int, threads: int, body: Callable[[Expr], None]) -> None:
    """`body(number)` for every number below `count`, equal shares on every thread."""
    def part(thread: Expr) -> None:
        first, end = (T.Bind(t * count // threads) for t in (thread, thread + 1))
        with T.serial(0, end - first) as index:
            body(first + index)

    parallel(threads, part)


def padded_rows(b: Buffers, shape: Matvec, width: int, lanes: int) -> tuple[Expr, int]:
    """X with rows of at least `width` floats, zero beyond the inputs, and their stride: a copy where X is not so.

    The stride is a multiple of `lanes`, and so is the start of every row.
    """
    stride = max(width, -(-shape.inputs // lanes) * lanes)
    if stride == shape.inputs:
        return b["x"], stride
    copy = T.alloc_buffer((shape.batch * stride,), "float32")
    whole = shape.inputs - shape.inputs % lanes
    with T.serial(0, shape.batch) as n:
        with T.serial(0, whole // lanes) as v:
            store(copy, n * stride + v * lanes, load(b["x"], n * shape.inputs + v * lanes, lanes))
        with T.serial(0, (stride - whole) // lanes) as v:
            store(copy, n * stride + whole + v * lanes, T.Broadcast(T.float32(0), lanes))
        with T.serial(whole, shape.inputs) as i:
            T.buffer_store(copy, b["x"][n * shape.inputs + i], [n * stride + i])
    return copy, stride


def finish_rows(b: Buffers, shape: Matvec, sums: Buffer, height: int, lanes: int) -> None:
    """`finish_row` for every row of sums, (batch, height)."""
    with T.serial(0, shape.batch) as n:
        finish_row(b, shape, sums, n * height, n * shape.outputs, lanes)


def finish_vectors(b: Buffers, shape: Matvec, at: Expr, output: Expr, vectors: int, lanes: int) -> None:
    """Bias, residual and activation of products in `y` from `at` on, whole vectors of a row from `output` on."""
    with T.serial(0, vectors) as v:
        total = load(b["y"], at + v * lanes, lanes) + load(b["bias"], output + v * lanes, lanes)
        residual = load(b["residual"], at + v * lanes, lanes) if shape.residual else None
        store(b["y"], at + v * lanes, finished(shape, total, lanes, residual))


def finish_row(b: Buffers, shape: Matvec, sums: Buffer, start: Expr, row: Expr, lanes: int) -> None:
    """Bias, residual and activation of one row of products, into `outputs` elements of `y` from `row` on.

    `sums` holds the products from `start` on, rounded up to whole vectors; it may be `y` itself where there is no
    partial vector. What it holds afterwards is undefined.
    """
    def added(i: Expr, width: int) -> Expr:
        total = load(sums, start + i, width) + load(b["bias"], i, width)
        return total + load(b["residual"], row + i, width) if shape.residual and not shape.multiplies else total

    def multiplied(i: Expr, value: Expr, width: int) -> Expr:
        return value * load(b["residual"], row + i, width) if shape.multiplies else value

    def activated(x: Expr) -> Expr:
        return ACTIVATIONS[shape.activation](x, lanes, shape.alpha, shape.beta)

    whole = shape.outputs - shape.outputs % lanes
    with T.serial(0, whole // lanes) as v:
        store(b["y"], row + v * lanes, multiplied(v * lanes, activated(added(v * lanes, lanes)), lanes))
    if whole == shape.outputs:
        return
    # The partial vector is completed in `sums`, so that bias, residual and y are touched where they are valid only.
    with T.serial(whole, shape.outputs) as i:
        T.buffer_store(sums, added(i, 1), [start + i])
    with T.serial(shape.outputs, whole + lanes) as i:  # what nobody has written, memory checkers report
        T.buffer_store(sums, T.float32(0), [start + i])
    store(sums, start + whole, activated(load(sums, start + whole, lanes)))
    with T.serial(whole, shape.outputs) as i:
        T.buffer_store(b["y"], multiplied(i, sums[start + i], 1), [row + i])
