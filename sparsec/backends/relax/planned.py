"""What a function of Relax does whose memory is planned: calls of kernels, in order, on tensors at known places.

Functions of the module that it calls, themselves planned, are taken apart into their kernels. Whatever lies neither in
an argument nor in a result then gets a place in the workspace, for as long as kernels need it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import tvm
from tvm import relax, tirx

from sparsec.backends.program import EMBEDDED, UNKNOWN, WORKSPACE, Calls, Operand
from sparsec.machine.memory import ALIGNMENT, element_type


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


Kernel = tuple[str, tuple[Tensor, ...]]
"""A call of a kernel: its name and its arguments."""


class NotPlain(Exception):  # noqa: N818 - nothing is wrong
    """The function does more than call kernels on planned memory, or more than its caller can do without it."""


class Planned:
    """What a function does.

    Args:
        function: of Relax.
        module: whose functions it may call; arguments may then be flat arrays of `UNKNOWN` length.

    Attributes:
        kernels: every call: the kernel's name and its arguments.
        embedded: constants that are compiled into it.
        results: what it returns, each in memory of its own.
        workspace: bytes.

    Raises:
        NotPlain: it does more than that.

    """

    def __init__(self, function: relax.Function, module: tvm.IRModule | None = None) -> None:
        self.kernels: list[Kernel] = []
        self.embedded: list[np.ndarray] = []
        self.workspace = 0
        self._storages: dict[relax.Var, int] = {}
        self._module = module
        self._known = {each: Tensor(each, 0, *described(each, any_length=module is not None))
                       for each in function.params}
        self._scratch: dict[relax.Var, int] = {}
        self._tuples: dict[relax.Var, relax.Tuple] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self._take(binding.var, getattr(binding, "value", None))
        results = self._tuples.get(function.body.body, function.body.body)
        if not isinstance(results, relax.Tuple):
            raise NotPlain
        self.results = [self._tensor(each) for each in results.fields]
        own = [each.place for each in self.results]
        if module is not None:
            self._settle({None, *function.params, *own})
        reached = {None, *function.params, *own}
        if (None in own or len(set(own)) < len(own) or not set(own).isdisjoint(function.params)
                or any(each.place not in reached and not isinstance(each.place, int)
                       for _, arguments in self.kernels for each in arguments)):
            raise NotPlain

    def _take(self, variable: relax.Var, value: relax.Expr) -> None:
        """Take note of a binding."""
        if isinstance(value, relax.Var):
            self._known[variable] = self._tensor(value)
        elif isinstance(value, relax.Call) and self._module is not None and isinstance(
                value.op, tvm.ir.GlobalVar) and isinstance(self._module[value.op], relax.Function):
            self._join(variable, Planned(self._module[value.op]), self._module[value.op].params, value.args)
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

    def _join(self, variable: relax.Var, other: Planned, params: Sequence[relax.Var], given: Sequence[relax.Expr],
              ) -> None:
        """Take the kernels of another function that is called with these arguments."""
        arguments = dict(zip(params, map(self._tensor, given), strict=True))
        made = {each.place: relax.Var("made", relax.TensorType(each.shape, each.dtype)) for each in other.results}
        scratch, first = relax.Var("scratch", relax.TensorType((max(other.workspace, 1),), "uint8")), len(self.embedded)
        self._scratch[scratch] = other.workspace
        self.embedded += other.embedded

        def here(tensor: Tensor) -> Tensor:
            if tensor.place in arguments:
                of = arguments[tensor.place]
                return replace(tensor, place=of.place, offset=of.offset + tensor.offset)
            place = first + tensor.place if isinstance(tensor.place, int) else made.get(tensor.place, scratch)
            return replace(tensor, place=place)

        self.kernels += [(kernel, tuple(map(here, tensors))) for kernel, tensors in other.kernels]
        self._known.update({here(each).place: here(each) for each in other.results})
        self._tuples[variable] = relax.Tuple([here(each).place for each in other.results])

    def _settle(self, reached: set[relax.Var | None]) -> None:
        """Give places in the workspace to what is not `reached` from outside."""
        sizes = {each.place: self._scratch.get(each.place, _nbytes(self._known.get(each.place, each)))
                 for _, given in self.kernels for each in given
                 if not isinstance(each.place, int) and each.place not in reached}
        offsets, self.workspace = _placed(self.kernels, sizes, self.workspace)
        self.kernels = [(kernel, tuple(
            replace(each, place=None, offset=offsets[each.place] + each.offset) if each.place in offsets else each
            for each in given)) for kernel, given in self.kernels]

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


def _nbytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * element_type(tensor.dtype).itemsize


def _placed(kernels: Sequence[Kernel], sizes: Mapping[relax.Var, int], start: int) -> tuple[dict[relax.Var, int], int]:
    """By variable its offset from `start` on, disjoint from those that kernels use meanwhile; and where all end."""
    first: dict[relax.Var, int] = {}
    last: dict[relax.Var, int] = {}
    for number, (_, given) in enumerate(kernels):
        for each in given:
            if not isinstance(each.place, int) and each.place in sizes:
                first.setdefault(each.place, number)
                last[each.place] = number
    taken: list[tuple[int, int, int]] = []  # where they begin and end, and the last kernel that uses them
    offsets: dict[relax.Var, int] = {}
    for variable, number in first.items():
        taken = sorted(each for each in taken if each[2] >= number)
        nbytes, at = -(-sizes[variable] // ALIGNMENT) * ALIGNMENT, start
        for begin, end, _ in taken:
            if begin - at >= nbytes:
                break
            at = max(at, end)
        offsets[variable] = at
        taken.append((at, at + nbytes, last[variable]))
    return offsets, max((offset + sizes[each] for each, offset in offsets.items()), default=start)


def described(variable: relax.Var, *, any_length: bool = False) -> tuple[tuple[int, ...], str]:
    """Shape and element type of a tensor; with `any_length`, a flat one may have a length that only the run tells.

    Raises:
        NotPlain: the shape is not known.

    """
    shape = getattr(variable.ty, "shape", None)
    if any_length and isinstance(shape, relax.ShapeExpr) and len(shape.values) == 1 and isinstance(
            shape.values[0], tirx.Var):
        return (UNKNOWN,), str(variable.ty.dtype)
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(each, tirx.IntImm) for each in shape.values):
        raise NotPlain
    return tuple(int(each) for each in shape.values), str(variable.ty.dtype)


def recording(names: set[str], found: MutableMapping[str, Calls]) -> tvm.transform.Pass:
    """The pass that notes what functions of these names do, where memory is planned; the module stays as it is."""
    def note(module: tvm.IRModule, _context: object) -> tvm.IRModule:
        for name in names:
            try:
                found[name] = _calls(module[name], module)
            except NotPlain:
                continue
        return module

    return tvm.transform.module_pass(note, opt_level=0, name="recording")


def _calls(function: relax.Function, module: tvm.IRModule) -> Calls:
    """What a function does, with numbers for places: its arguments, then its results."""
    planned = Planned(function, module)
    places = [*function.params, *(each.place for each in planned.results)]

    def operand(tensor: Tensor) -> Operand:
        if isinstance(tensor.place, int):
            return Operand(EMBEDDED - tensor.place, 0, tensor.shape, tensor.dtype)
        place = WORKSPACE if tensor.place is None else places.index(tensor.place)
        return Operand(place, tensor.offset, tensor.shape, tensor.dtype)

    kernels = tuple((kernel, tuple(map(operand, given))) for kernel, given in planned.kernels)
    return Calls(planned.workspace, kernels, tuple(planned.embedded))
