"""What a function of Relax does whose memory is planned: calls of kernels, in order, on tensors at known places."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from math import prod

import numpy as np
import tvm
from tvm import relax, tirx

from sparsec.backends.program import EMBEDDED, WORKSPACE, Calls, Operand
from sparsec.machine.memory import ALIGNMENT


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: in an argument of the function, `offset` bytes into the workspace, or in an output's memory.

    Attributes:
        place: the argument's or output's variable, the number of an embedded constant, or None for the workspace.

    """

    place: relax.Var | int | None
    offset: int
    shape: tuple[int, ...]
    dtype: str


class NotPlain(Exception):  # noqa: N818 - nothing is wrong
    """The function does more than call kernels on planned memory, or more than its caller can do without it."""


class Planned:
    """What a function does.

    Attributes:
        kernels: every call: the kernel's name and its arguments.
        embedded: constants that are compiled into it.
        results: what it returns, each in memory of its own.
        workspace: bytes.

    Raises:
        NotPlain: it does more than that.

    """

    def __init__(self, function: relax.Function) -> None:
        self.kernels: list[tuple[str, tuple[Tensor, ...]]] = []
        self.embedded: list[np.ndarray] = []
        self.workspace = 0
        self._storages: dict[relax.Var, int] = {}
        self._known = {each: Tensor(each, 0, *described(each)) for each in function.params}
        self._tuples: dict[relax.Var, relax.Tuple] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self._take(binding.var, getattr(binding, "value", None))
        results = self._tuples.get(function.body.body, function.body.body)
        if not isinstance(results, relax.Tuple):
            raise NotPlain
        self.results = [self._tensor(each) for each in results.fields]
        own = [each.place for each in self.results]
        reached = {None, *function.params, *own}
        if (None in own or len(set(own)) < len(own) or not set(own).isdisjoint(function.params)
                or any(each.place not in reached and not isinstance(each.place, int)
                       for _, arguments in self.kernels for each in arguments)):
            raise NotPlain

    def _take(self, variable: relax.Var, value: relax.Expr) -> None:
        """Take note of a binding."""
        if isinstance(value, relax.Var):
            self._known[variable] = self._tensor(value)
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            self.kernels.append((value.op.name_hint, tuple(map(self._tensor, value.args))))
        elif isinstance(value, relax.Call):
            self._operate(variable, value)
        elif isinstance(value, relax.Tuple):
            self._tuples[variable] = value
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self._tuples:
            self._known[variable] = self._tensor(self._tuples[value.tuple_value].fields[value.index])
        else:
            raise NotPlain

    def _operate(self, variable: relax.Var, call: relax.Call) -> None:
        """Take note of an operator of Relax."""
        if call.op.name == "relax.memory.alloc_storage":
            self._storages[variable] = self.workspace
            self.workspace += -(-prod(map(int, call.args[0].values)) // ALIGNMENT) * ALIGNMENT
        elif call.op.name == "relax.memory.alloc_tensor":
            offset = self._storages[call.args[0]] + int(call.args[1].value)
            self._known[variable] = Tensor(None, offset, *described(variable))
        elif call.op.name == "relax.builtin.alloc_tensor":
            self._known[variable] = Tensor(variable, 0, *described(variable))
        elif call.op.name == "relax.reshape":
            of = self._tensor(call.args[0])
            self._known[variable] = Tensor(of.place, of.offset, *described(variable))
        elif call.op.name not in ("relax.memory.kill_tensor", "relax.memory.kill_storage"):
            raise NotPlain

    def _tensor(self, value: relax.Expr) -> Tensor:
        """The tensor of an expression."""
        if isinstance(value, tvm.ir.GenericConst):
            self.embedded.append(value.value.numpy())
            array = self.embedded[-1]
            return Tensor(len(self.embedded) - 1, 0, array.shape, array.dtype.name)
        if not isinstance(value, relax.Var) or value not in self._known:
            raise NotPlain
        return self._known[value]


def described(variable: relax.Var) -> tuple[tuple[int, ...], str]:
    """Shape and element type of a tensor.

    Raises:
        NotPlain: the shape is not known.

    """
    shape = getattr(variable.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(each, tirx.IntImm) for each in shape.values):
        raise NotPlain
    return tuple(int(each) for each in shape.values), str(variable.ty.dtype)


def recording(names: set[str], found: MutableMapping[str, Calls]) -> tvm.transform.Pass:
    """The pass that notes what functions of these names do, where memory is planned; the module stays as it is."""
    def note(module: tvm.IRModule, _context: object) -> tvm.IRModule:
        for name in names:
            try:
                found[name] = _calls(module[name])
            except NotPlain:
                continue
        return module

    return tvm.transform.module_pass(note, opt_level=0, name="recording")


def _calls(function: relax.Function) -> Calls:
    """What a function does, with numbers for places: its arguments, then its results."""
    planned = Planned(function)
    places = [*function.params, *(each.place for each in planned.results)]

    def operand(tensor: Tensor) -> Operand:
        if isinstance(tensor.place, int):
            return Operand(EMBEDDED - tensor.place, 0, tensor.shape, tensor.dtype)
        place = WORKSPACE if tensor.place is None else places.index(tensor.place)
        return Operand(place, tensor.offset, tensor.shape, tensor.dtype)

    kernels = tuple((kernel, tuple(map(operand, given))) for kernel, given in planned.kernels)
    return Calls(planned.workspace, kernels, tuple(planned.embedded))
