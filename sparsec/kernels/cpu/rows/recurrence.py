"""The steps of an RNN, GRU or LSTM around a kernel for few rows, which multiplies the state by the recurrent weight.

Members of a batch run in groups, each through all steps, so that the weight stays in the caches between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

from tvm.tirx.script.builder import ir as T

from sparsec.graph.operators.recurrence import EARLY
from sparsec.kernels.cpu.rows.layer import MAX_ROWS
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.emit.fold import each
from sparsec.kernels.emit.gates import gated
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Body, Buffer, Buffers, Expr, Frame, Kernel, framed, load, part_of, splat, store
from sparsec.kernels.tensors import Direction

APART = 64
"""Hidden numbers from which on any kernel takes the gates apart: a block of its rows is within one gate's."""
AGAIN = "again_"
"""What the names of the second product's arguments begin with."""


@dataclass(frozen=True)
class Recurrence(Direction):
    """A direction whose products of a step are those of a few rows."""

    @property
    def rows(self) -> int:
        """Members that one product takes: the most that divide the batch."""
        return max(rows for rows in range(1, MAX_ROWS + 1) if self.batch % rows == 0)

    @property
    def products(self) -> int:
        """Products with the weight in a run; of a GRU that resets the state first, one that is taken in two parts."""
        return self.steps * (self.batch // self.rows) * (2 if self.cell == EARLY and not self.apart else 1)

    @property
    def product(self) -> Matvec:
        """The product of a step."""
        return Matvec(self.gates, self.hidden, self.rows)

    @property
    def apart(self) -> bool:
        """Whether the third gate has a product of its own, with the state that the second one has reset."""
        return self.cell == EARLY and self.hidden >= APART

    @property
    def first(self) -> int:
        """Outputs of a step's first product."""
        return 2 * self.hidden if self.apart else self.gates


def params_of(params: Any, shape: Recurrence) -> tuple[Any, ...]:  # noqa: ANN401 - those of any family
    """The parameters of a step's products, from those of a kernel for `shape.product`."""
    if not shape.apart:
        return (params,)
    return tuple(replace(params, shape=replace(params.shape, outputs=outputs))
                 for outputs in (shape.first, shape.gates - shape.first))


def build(make: Callable[[Any, Isa], Kernel], params: Hashable, shape: Recurrence, isa: Isa) -> Kernel:
    """The kernel: (the weight's arrays, bias, x, h, c, lengths, peepholes) -> y.

    `make` and `params` are those of a kernel for `shape.product`. Where its gates are taken apart, there are the
    arrays and the bias of both products, one behind the other, packed by `params_of`. x is (steps, batch, gates), the
    inputs' share; h and c (batch, hidden), lengths (batch,), peepholes (3 * hidden,): what there is no use for may hold
    anything; y is (steps + 2, batch, hidden) as `sparsec::Recurrence` has it.
    """
    state = shape.batch * shape.hidden
    sizes = {"steps_x": shape.steps * shape.batch * shape.gates, "first_h": state, "first_c": state,
             "lengths": shape.batch, "peepholes": 3 * shape.hidden, "steps_y": (shape.steps + 2) * state}
    own, again = _again(make, params, shape, isa)
    with framed(Frame(("x", "y"), {**own, **{
            name: (size, "int32" if name == "lengths" else "float32") for name, size in sizes.items()}},
                      lambda b, product: _emit(b, shape, isa.lanes, (product, again)))):
        return make(params_of(params, shape)[0], isa)


def build_sized(make: Callable[[Any, Isa], Kernel], params: Hashable, shape: Recurrence, isa: Isa) -> Kernel:
    """As `build`, for any number of steps, and `shape.batch` members of any batch; `shape.steps` says nothing.

    (the weight's arrays, bias, sizes, x, h, c, lengths, peepholes) -> y, of which sizes are (steps, members of the
    whole batch), x, h, c, lengths and y begin with the first of these members, and all are aligned to an element.
    """
    state = shape.batch * shape.hidden
    lengths = {"steps_x": None, "first_h": state, "first_c": state, "lengths": shape.batch,
               "peepholes": 3 * shape.hidden, "steps_y": None}
    own, again = _again(make, params, shape, isa)
    arguments = {**own, "sizes": (2, "int64"), **{
        name: (size, "int32" if name == "lengths" else "float32") for name, size in lengths.items()}}

    def body(b: Buffers, product: Body) -> None:
        _emit(b, shape, isa.lanes, (product, again), (T.Bind(b["sizes"][0]), T.Bind(b["sizes"][1])))

    with framed(Frame(("x", "y"), arguments, body, views=True)):
        return make(params_of(params, shape)[0], isa)


def _again(make: Callable[[Any, Isa], Kernel], params: Hashable, shape: Recurrence, isa: Isa,
           ) -> tuple[dict[str, tuple[int | None, str]], Body | None]:
    """The arguments and the statements of a step's second product, if it has one."""
    if not shape.apart:
        return {}, None
    part = part_of(lambda: make(params_of(params, shape)[1], isa))
    names = [name for name in part.arguments if name not in ("x", "y")]
    return {f"{AGAIN}{name}": part.arguments[name] for name in names}, lambda b: part.body(
        {**{name: b[f"{AGAIN}{name}"] for name in names}, "x": b["x"], "y": b["y"]})


@dataclass(frozen=True)
class _Member:
    """What a cell works on: the buffers, and where a member's gates, inputs and state begin."""

    b: Buffers
    p: Recurrence
    gates: Expr
    x: Expr
    state: Expr

    def product(self, number: int, i: Expr, lanes: int) -> Expr:
        """A gate's product with the state."""
        return load(self.b["y"], self.gates + number * self.p.hidden + i, lanes)

    def share(self, number: int, i: Expr, lanes: int) -> Expr:
        """A gate's share of the inputs."""
        return load(self.b["steps_x"], self.x + number * self.p.hidden + i, lanes)

    def gate(self, number: int, i: Expr, lanes: int) -> Expr:
        """A gate before its activation."""
        return self.share(number, i, lanes) + self.product(number, i, lanes)

    def activate(self, number: int, value: Expr, lanes: int) -> Expr:
        """One of the cell's activations."""
        return gated(self.p, number, value, lanes)


def _emit(b: Buffers, p: Recurrence, lanes: int, products: tuple[Body, Body | None],
          sizes: tuple[Expr, Expr] | None = None) -> None:
    product, again = products
    steps, members = (p.steps, p.batch) if sizes is None else sizes
    size, every = p.rows * p.hidden, members * p.hidden
    with T.serial(0, p.batch // p.rows) as group:
        h, c, gates = (T.alloc_buffer((length,), "float32") for length in (size, size, p.rows * p.first))
        inner = {**b, "x": h, "y": gates, "c": c}
        first = T.Bind(group * size)
        each(size, lanes, lambda i, n: store(h, i, load(b["first_h"], first + i, n)))
        each(size, lanes, lambda i, n: store(c, i, load(b["first_c"], first + i, n)))
        with T.serial(0, steps) as t:
            step = T.Bind(steps - 1 - t if p.backwards else t)
            product(inner)
            if p.cell == EARLY:
                inner["again"] = _reset(inner, p, lanes, step * members + group * p.rows, again or product)
            with T.serial(0, p.rows) as row:
                member = T.Bind(step * members + group * p.rows + row)
                _take_step(_Member(inner, p, row * p.first, member * p.gates, row * p.hidden), lanes, step,
                           group * p.rows + row, member * p.hidden)
        each(size, lanes, lambda i, n: store(b["steps_y"], steps * every + first + i, load(h, i, n)))
        last = (lambda i, n: load(c, i, n)) if p.cell == "LSTM" else (lambda _, n: splat(0.0, n))
        each(size, lanes, lambda i, n: store(b["steps_y"], (steps + 1) * every + first + i, last(i, n)))


def _reset(b: Buffers, p: Recurrence, lanes: int, first: Expr, product: Body) -> Buffer:
    """The products with the state that the second gate has reset, of the members from `first` on."""
    outputs = p.hidden if p.apart else p.gates
    state, again = (T.alloc_buffer((p.rows * size,), "float32") for size in (p.hidden, outputs))
    with T.serial(0, p.rows) as row:
        m = _Member(b, p, row * p.first, T.Bind((first + row) * p.gates), row * p.hidden)
        each(p.hidden, lanes, lambda i, n: store(state, m.state + i, m.activate(0, m.gate(1, i, n), n) * load(
            b["x"], m.state + i, n)))
    product({**b, "x": state, "y": again})
    return again


def _take_step(m: _Member, lanes: int, step: Expr, member: Expr, at: Expr) -> None:
    """One step of one member, its state to `at`; nothing behind its end."""
    def take() -> None:
        CELLS[m.p.cell](m, lanes)
        each(m.p.hidden, lanes, lambda i, n: store(m.b["steps_y"], at + i, load(m.b["x"], m.state + i, n)))

    if not m.p.lengths:
        take()
        return
    each(m.p.hidden, lanes, lambda i, n: store(m.b["steps_y"], at + i, splat(0.0, n)))
    with T.If(step < m.b["lengths"][member]), T.Then():
        take()


def _rnn(m: _Member, lanes: int) -> None:
    each(m.p.hidden, lanes, lambda i, n: store(m.b["x"], m.state + i, m.activate(0, m.gate(0, i, n), n)))


def _gru(m: _Member, lanes: int) -> None:
    def step(i: Expr, n: int) -> None:
        update, reset = (T.Bind(m.activate(0, m.gate(number, i, n), n)) for number in (0, 1))
        new = T.Bind(m.activate(1, m.share(2, i, n) + reset * m.product(2, i, n), n))
        store(m.b["x"], m.state + i, (splat(1.0, n) - update) * new + update * load(m.b["x"], m.state + i, n))

    each(m.p.hidden, lanes, step)


def _early_gru(m: _Member, lanes: int) -> None:
    def step(i: Expr, n: int) -> None:
        update = T.Bind(m.activate(0, m.gate(0, i, n), n))
        third = m.state if m.p.apart else m.gates + 2 * m.p.hidden
        product = load(m.b["again"], third + i, n)
        new = T.Bind(m.activate(1, m.share(2, i, n) + product, n))
        store(m.b["x"], m.state + i, (splat(1.0, n) - update) * new + update * load(m.b["x"], m.state + i, n))

    each(m.p.hidden, lanes, step)


def _lstm(m: _Member, lanes: int) -> None:
    def seen(number: int, peephole: int, i: Expr, n: int) -> Expr:
        value = m.gate(number, i, n)
        if not m.p.peepholes:
            return value
        return value + load(m.b["peepholes"], peephole * m.p.hidden + i, n) * load(m.b["c"], m.state + i, n)

    def step(i: Expr, n: int) -> None:
        entering, kept = (T.Bind(m.activate(0, seen(*each, i, n), n)) for each in ((0, 0), (2, 2)))
        new = T.Bind(m.activate(1, m.gate(3, i, n), n))
        store(m.b["c"], m.state + i, kept * load(m.b["c"], m.state + i, n) + entering * new)
        leaving = T.Bind(m.activate(0, seen(1, 1, i, n), n))
        store(m.b["x"], m.state + i, leaving * m.activate(2, load(m.b["c"], m.state + i, n), n))

    each(m.p.hidden, lanes, step)


CELLS: dict[str, Callable[[_Member, int], None]] = {"RNN": _rnn, "GRU": _gru, EARLY: _early_gru, "LSTM": _lstm}
