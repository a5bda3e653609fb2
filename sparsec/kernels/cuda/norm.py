"""Layer norm of a sum in one kernel: y = (s - mean(s)) / sqrt(variance(s) + epsilon) * scale + bias, by rows; or its
form without mean and bias, y = s / sqrt(mean(s^2) + epsilon) * scale (Zhang and Sennrich, 2019).

A row of s is the sum of some terms: rows of tensors, which may repeat, and rows of tables that indices name, such as
the embeddings of tokens and their places. Some warps share a row and keep it in registers, so that mean and variance
are exact two-pass sums in float32; s is stored, too, where others read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.errors import FormatError
from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.cuda.params import VECTOR_BYTES
from sparsec.kernels.emit.tir import Buffer, Buffers, Expr, Kernel

LANES = 32
WARPS = (1, 2, 4, 8)
"""Those that may share a row."""
KEPT = 32
"""Elements of a row that a lane keeps at most."""
THREADS = 128
"""Of a block of rows that a warp each normalises."""
MOST = (1 << 31) - 1
"""Elements of a tensor, which 32 bits number."""
ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Term:
    """What is added to every row: row (r // every) % rows of a tensor or, for a table, the row that its index names.

    Attributes:
        rows: those of the tensor, or the number of indices.
        every: rows in a row of s that have the same.
        dtype: of the tensor or table.
        table: rows of the table, 0 where there is none.
        index: dtype of the indices.

    """

    rows: int
    every: int = 1
    dtype: str = "float32"
    table: int = 0
    index: str = "int64"


@dataclass(frozen=True)
class NormParams:
    """A layer norm of (rows, features).

    Attributes:
        terms: whose sum is normalised.
        epsilon: added to the variance.
        out: dtype of y.
        sums: dtype of the stored sum, "" where it is not stored.
        biased: a bias is added.
        centred: the mean is taken off.

    """

    rows: int
    features: int
    terms: tuple[Term, ...]
    epsilon: float
    out: str = "float32"
    sums: str = ""
    biased: bool = True
    centred: bool = True

    @property
    def warps(self) -> int:
        """Warps that share a row; more than `WARPS` has where no kernel does."""
        return next((warps for warps in WARPS if self.features <= warps * LANES * KEPT), 2 * WARPS[-1])

    @property
    def chunk(self) -> int:
        """Elements that a lane reads at once."""
        return math.gcd(self.features, VECTOR_BYTES // 2)

    @property
    def chunks(self) -> int:
        """Chunks of a row."""
        return self.features // self.chunk

    @property
    def turns(self) -> int:
        """Chunks of a lane."""
        return -(-self.chunks // (LANES * self.warps))

    @property
    def rows_together(self) -> int:
        """Rows of a block."""
        return max(1, min(THREADS // (LANES * self.warps), self.rows))


def reject(p: NormParams) -> str | None:
    """Why there is no kernel, or None."""
    most = WARPS[-1] * LANES * KEPT
    reasons = {
        f"rows of {p.features} features, more than {most}": p.features > most,
        f"more than {MOST} elements in a tensor":
            max(p.rows, *(term.table for term in p.terms)) * p.features > MOST,
        "there are no rows": p.rows * p.features == 0 or not p.terms,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def arguments(p: NormParams) -> pipeline.Arguments:
    """The kernel's buffers in order: each term, with its indices behind a table; scale; bias; sums; y."""
    result: pipeline.Arguments = {}
    for number, term in enumerate(p.terms):
        result[f"x{number}"] = ((term.table or term.rows) * p.features, term.dtype)
        if term.table:
            result[f"index{number}"] = (term.rows, term.index)
    result["scale"] = (p.features, "float32")
    if p.biased:
        result["bias"] = (p.features, "float32")
    if p.sums:
        result["sums"] = (p.rows * p.features, p.sums)
    result["y"] = (p.rows * p.features, p.out)
    return result


def build(p: NormParams) -> Kernel:
    """The kernel, see `arguments`.

    Raises:
        FormatError: there is none.

    """
    if reason := reject(p):
        raise FormatError(f"no kernel for {p}: {reason}")
    return pipeline.prim_func(arguments(p), lambda buffers: _normalise(p, buffers))


@dataclass(frozen=True)
class _Row:
    """A thread at work.

    Attributes:
        params, buffers: the kernel's.
        shared: the address of the row's shared memory, where several warps have a row.
        thread: the thread's number among those that share the row.
        row: the row.
        inside: whether there is such a row; None where there always is.

    """

    params: NormParams
    buffers: Buffers
    shared: Expr
    thread: Expr
    row: Expr
    inside: Expr


def _normalise(p: NormParams, buffers: Buffers) -> None:
    together, sharing = p.rows_together, LANES * p.warps
    with (T.launch_thread("blockIdx.x", -(-p.rows // together)) as block,
          T.launch_thread("threadIdx.x", sharing * together) as thread):
        shared = None
        if p.warps > 1:
            shared = ptx.shared_memory(4 * p.warps * together) + T.Cast("uint32", thread // sharing * (4 * p.warps))
        row = T.Bind(block * together + thread // sharing)
        r = _Row(p, buffers, shared, T.Bind(thread % sharing), row, row < p.rows if p.rows % together else None)
        values = ptx.registers(p.turns * p.chunk, "float32")
        for register in range(p.turns * p.chunk):
            T.buffer_store(values, T.float32(0), [register])
        for number in range(len(p.terms)):
            _add(r, values, number)
        if p.sums:
            _each(r, lambda turn, number: _store(r, values, turn, number, "sums"))
        mean = T.Bind(_total(r, lambda i: values[i]) * T.float32(1 / p.features)) if p.centred else T.float32(0)
        square = _total(r, lambda i: (values[i] - mean) * (values[i] - mean))
        spread = T.Bind(T.rsqrt(square * T.float32(1 / p.features) + T.float32(p.epsilon)))
        _each(r, lambda turn, number: _finish(r, values, turn, number, mean, spread))


def _each(r: _Row, body: Callable[[int, Expr], None]) -> None:
    """The thread's chunks: (turn, number of the chunk in the row), where they are inside the row."""
    p = r.params
    for turn in range(p.turns):
        number = T.Bind(turn * LANES * p.warps + r.thread)
        conditions = [] if r.inside is None else [r.inside]
        if (turn + 1) * LANES * p.warps > p.chunks:
            conditions.append(number < p.chunks)
        if not conditions:
            body(turn, number)
            continue
        with T.If(T.And(*conditions) if len(conditions) > 1 else conditions[0]), T.Then():
            body(turn, number)


def _add(r: _Row, values: Buffer, number: int) -> None:
    """Add a term's row to the values."""
    p, term, source = r.params, r.params.terms[number], r.buffers[f"x{number}"]
    place = r.row // term.every if term.every > 1 else r.row
    place = place % term.rows if term.rows * term.every < p.rows else place
    first = ptx.registers(1, "int32")
    T.buffer_store(first, 0, [0])

    def find() -> None:
        if not term.table:
            T.buffer_store(first, place * p.chunks, [0])
            return
        named = T.Bind(T.Cast("int64", r.buffers[f"index{number}"][place]))
        named = T.Bind(T.if_then_else(named < 0, named + term.table, named))
        named = T.max(T.min(named, T.int64(term.table - 1)), T.int64(0))
        T.buffer_store(first, T.Cast("int32", named) * p.chunks, [0])

    if r.inside is None:
        find()
    else:
        with T.If(r.inside), T.Then():
            find()

    def chunk(turn: int, own: Expr) -> None:
        width = min(p.chunk, VECTOR_BYTES // ITEMSIZES[term.dtype])
        for begin in range(0, p.chunk, width):
            read = ptx.registers(width, term.dtype)
            _copy(source, (first[0] + own) * p.chunk + begin, read, 0, width)
            for i in range(width):
                place = turn * p.chunk + begin + i
                T.buffer_store(values, values[place] + T.Cast("float32", read[i]), [place])

    _each(r, chunk)


def _total(r: _Row, part: Callable[[int], Expr]) -> Expr:
    """The sum over the row of what a function makes of each register; those outside the row do not count."""
    p = r.params
    total = ptx.registers(1, "float32")
    T.buffer_store(total, T.float32(0), [0])

    def add(turn: int, _number: Expr) -> None:
        for i in range(p.chunk):
            T.buffer_store(total, total[0] + part(turn * p.chunk + i), [0])

    _each(r, add)
    for distance in (16, 8, 4, 2, 1):
        T.buffer_store(total, total[0] + T.tvm_warp_shuffle_xor(0xFFFFFFFF, total[0], distance, LANES, LANES), [0])
    if p.warps == 1:
        return total[0]
    ptx.barrier()  # what the sum before has left is read
    with T.If(r.thread % LANES == 0), T.Then():
        ptx.store_floats(r.shared, r.thread // LANES * 4, [total[0]])
    ptx.barrier()
    parts = ptx.registers(p.warps, "float32")
    for warp in range(p.warps):
        ptx.load_words(parts, warp, 1, r.shared, warp * 4)
    T.buffer_store(total, sum((parts[warp] for warp in range(1, p.warps)), parts[0]), [0])
    return total[0]


def _finish(r: _Row, values: Buffer, turn: int, number: Expr, mean: Expr, spread: Expr) -> None:
    p = r.params
    width = min(p.chunk, VECTOR_BYTES // 4)
    for begin in range(0, p.chunk, width):
        factors = {name: ptx.registers(width, "float32") for name in ("scale", "bias") if name in r.buffers}
        for name, registers in factors.items():
            _copy(r.buffers[name], number * p.chunk + begin, registers, 0, width)
        for i in range(width):
            place = turn * p.chunk + begin + i
            value = (values[place] - mean) * spread * factors["scale"][i]
            T.buffer_store(values, value + factors["bias"][i] if p.biased else value, [place])
    _store(r, values, turn, number, "y")


def _store(r: _Row, values: Buffer, turn: int, number: Expr, name: str) -> None:
    """Store the values of a chunk in the type of an output, as vectors."""
    p, to = r.params, r.buffers[name]
    width = min(p.chunk, VECTOR_BYTES // ITEMSIZES[str(to.dtype)])
    for first in range(0, p.chunk, width):
        rounded = ptx.registers(width, to.dtype)
        for i in range(width):
            T.buffer_store(rounded, T.Cast(to.dtype, values[turn * p.chunk + first + i]), [i])
        _copy(rounded, 0, to, (r.row * p.chunks + number) * p.chunk + first, width)


def _copy(source: Buffer, first: Expr, to: Buffer, at: Expr, count: int) -> None:
    """Copy a vector of a buffer to another."""
    if count == 1:
        T.buffer_store(to, source[first], [at])
        return
    T.buffer_store(to, source[T.Ramp(first, 1, count)], [T.Ramp(at, 1, count)])
