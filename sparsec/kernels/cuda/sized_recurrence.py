"""The steps of an RNN, GRU or LSTM in one direction for any number of them and of members of a batch, on a GPU.

A thread block takes a member through all steps: its state, cell and gates lie in shared memory, and its threads have
the columns of the recurrent weight, which they read from the L2 cache, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators.recurrence import EARLY
from sparsec.kernels.cuda import pipeline, ptx
from sparsec.kernels.emit.gates import gated
from sparsec.kernels.emit.tir import Buffers, Expr, Kernel
from sparsec.kernels.tensors import Direction

LANES, MOST_THREADS = 32, 1024
SHARED_BYTES = 96 << 10
"""What state, cell and gates of a member may take."""
NUMBERS = ("steps", "batch", "has_state", "has_cell", "has_lengths")
"""Sizes, and which of the optional buffers hold something."""
FLOATS = 4


def reject(direction: Direction) -> str | None:
    """Why there is no kernel, or None."""
    needed = FLOATS * (direction.gates + 3 * direction.hidden)
    return f"a state of {direction.hidden} numbers" if needed > SHARED_BYTES else None


def build(direction: Direction) -> Kernel:
    """The kernel: (weight, bias, peepholes, x, h, c, lengths) -> y, then `NUMBERS`.

    The weight is (hidden, gates), bias (gates), peepholes (3 hidden), x (steps, batch, gates), h and c (batch, hidden),
    lengths (batch) int32, and y (steps + 2, batch, hidden): all states, the last one, and the last cell.
    """
    names = ("weight", "bias", "peepholes", "x", "h", "c", "lengths", "y")
    return pipeline.sized_func({name: "int32" if name == "lengths" else "float32" for name in names}, NUMBERS,
                               lambda b, told: _emit(b, told, direction))


@dataclass(frozen=True)
class _Member:
    """What a block works on; state, cell, what a reset leaves of the state, and gates lie in shared memory."""

    b: Buffers
    told: pipeline.Numbers
    p: Direction
    shared: Expr
    thread: Expr
    number: Expr

    @property
    def threads(self) -> int:
        """Of a block."""
        return min(MOST_THREADS, -(-self.p.gates // LANES) * LANES)

    def read(self, place: int, index: Expr) -> Expr:
        """A float of the state (0), the cell (1), the reset state (2) or the gates (3)."""
        found = ptx.registers(1, "float32")
        ptx.load_words(found, 0, 1, self.shared, (place * self.p.hidden + index) * FLOATS)
        return T.Bind(found[0])

    def write(self, place: int, index: Expr, value: Expr) -> None:
        """Store such a float."""
        ptx.store_floats(self.shared, (place * self.p.hidden + index) * FLOATS, [value])

    def each(self, count: int, body: Callable[[Expr], None]) -> None:
        """`body` for so many indices, which threads share."""
        with T.serial(0, -(-count // self.threads)) as turn:
            index = T.Bind(turn * self.threads + self.thread)
            with T.If(index < count), T.Then():
                body(index)

    def gate(self, number: int, index: Expr) -> Expr:
        """A number of a gate."""
        return self.read(GATES, number * self.p.hidden + index)

    def activate(self, number: int, value: Expr) -> Expr:
        """One of the cell's activations; NaN stays NaN, although a GPU's maximum returns its other operand."""
        held = ptx.registers(1, "float32")  # a variable that only names another confuses TVM's passes
        T.buffer_store(held, value, [0])
        T.buffer_store(held, T.Select(T.isnan(held[0]), held[0], gated(self.p, number, held[0], 1)), [0])
        return T.Bind(held[0])


STATE, MEMORY, RESET, GATES = range(4)


def _emit(b: Buffers, told: pipeline.Numbers, p: Direction) -> None:
    threads = min(MOST_THREADS, -(-p.gates // LANES) * LANES)
    with (T.launch_thread("blockIdx.x", told["batch"]) as number, T.launch_thread("threadIdx.x", threads) as thread):
        m = _Member(b, told, p, ptx.shared_memory(FLOATS * (p.gates + 3 * p.hidden)), thread, number)

        def begin(index: Expr) -> None:
            at = T.Bind(number * p.hidden + index)
            for place, name, flag in ((STATE, "h", "has_state"), (MEMORY, "c", "has_cell")):
                held = ptx.registers(1, "float32")
                T.buffer_store(held, T.float32(0), [0])
                with T.If(told[flag] > 0), T.Then():
                    T.buffer_store(held, b[name][at], [0])
                m.write(place, index, held[0])

        m.each(p.hidden, begin)
        last = ptx.registers(1, "int32")
        T.buffer_store(last, told["steps"], [0])
        with T.If(told["has_lengths"] > 0), T.Then():
            T.buffer_store(last, b["lengths"][number], [0])
        ptx.barrier()
        with T.serial(0, told["steps"]) as turn:
            step = T.Bind(told["steps"] - 1 - turn if p.backwards else turn)
            at = T.Bind((step * told["batch"] + number) * p.hidden)
            with T.If(step < last[0]):
                with T.Then():
                    CELLS[p.cell](m, T.Bind((step * told["batch"] + number) * p.gates), at)
                with T.Else():
                    m.each(p.hidden, lambda index: T.buffer_store(b["y"], T.float32(0), [at + index]))
        for place, behind in ((STATE, 0), (MEMORY, 1)):
            _store_last(m, place, T.Bind(((told["steps"] + behind) * told["batch"] + number) * p.hidden))


def _store_last(m: _Member, place: int, end: Expr) -> None:
    """Write what stands at a place behind the last step."""
    m.each(m.p.hidden, lambda index: T.buffer_store(m.b["y"], m.read(place, index), [end + index]))


def _product(m: _Member, source: int, first: int, count: int, start: Callable[[Expr], Expr]) -> None:
    """Gates [first, first + count) = start + source @ weight; then all threads have them."""
    p, weight = m.p, m.b["weight"]

    def column(index: Expr) -> None:
        gate = T.Bind(first + index)
        total, four = ptx.registers(1, "float32"), ptx.registers(4, "float32")
        T.buffer_store(total, start(gate), [0])
        with T.serial(0, p.hidden // 4) as quarter:
            ptx.load_words(four, 0, 4, m.shared, (source * p.hidden + quarter * 4) * FLOATS)
            for part in range(4):
                T.buffer_store(total, total[0] + four[part] * weight[(quarter * 4 + part) * p.gates + gate], [0])
        for k in range(p.hidden // 4 * 4, p.hidden):
            T.buffer_store(total, total[0] + m.read(source, k) * weight[k * p.gates + gate], [0])
        m.write(GATES, gate, total[0])

    m.each(count, column)
    ptx.barrier()


def _finish(m: _Member, at: Expr, body: Callable[[Expr], Expr]) -> None:
    """`body` makes the new state of every index."""
    def store(index: Expr) -> None:
        value = T.Bind(body(index))
        m.write(STATE, index, value)
        T.buffer_store(m.b["y"], value, [at + index])

    m.each(m.p.hidden, store)
    ptx.barrier()


def _inputs(m: _Member, x: Expr) -> Callable[[Expr], Expr]:
    """The inputs' share and the bias."""
    return lambda gate: m.b["x"][x + gate] + m.b["bias"][gate]


def _rnn(m: _Member, x: Expr, at: Expr) -> None:
    _product(m, STATE, 0, m.p.hidden, _inputs(m, x))
    _finish(m, at, lambda index: m.activate(0, m.gate(0, index)))


def _gru(m: _Member, x: Expr, at: Expr) -> None:
    hidden, early = m.p.hidden, m.p.cell == EARLY
    third = 2 * hidden
    _product(m, STATE, 0, third, _inputs(m, x))

    def reset(index: Expr) -> None:
        kept = m.activate(0, m.gate(1, index))
        m.write(RESET, index, kept * m.read(STATE, index) if early else kept)

    m.each(hidden, reset)
    ptx.barrier()
    _product(m, RESET if early else STATE, third, hidden, lambda gate: m.b["bias"][gate])

    def new(index: Expr) -> Expr:
        carried = m.gate(2, index) if early else m.gate(2, index) * m.read(RESET, index)
        candidate = m.activate(1, m.b["x"][x + third + index] + carried)
        z = m.activate(0, m.gate(0, index))
        return (T.float32(1) - z) * candidate + z * m.read(STATE, index)

    _finish(m, at, new)


def _lstm(m: _Member, x: Expr, at: Expr) -> None:
    _product(m, STATE, 0, m.p.gates, _inputs(m, x))

    def seen(number: int, peephole: int, index: Expr, cell: Expr) -> Expr:
        value = m.gate(number, index)
        return value + m.b["peepholes"][peephole * m.p.hidden + index] * cell if m.p.peepholes else value

    def new(index: Expr) -> Expr:
        before = m.read(MEMORY, index)
        entering = m.activate(0, seen(0, 0, index, before))
        kept = m.activate(0, seen(2, 2, index, before))
        cell = T.Bind(kept * before + entering * m.activate(1, m.gate(3, index)))
        m.write(MEMORY, index, cell)
        return m.activate(0, seen(1, 1, index, cell)) * m.activate(2, cell)

    _finish(m, at, new)


CELLS: dict[str, Callable[[_Member, Expr, Expr], None]] = {"RNN": _rnn, "GRU": _gru, EARLY: _gru, "LSTM": _lstm}
"""By cell, what a member's step does, from where its inputs and its result begin."""
