"""A program as one function that calls every kernel in order, for callers that keep its memory.

Between two kernels TVM's virtual machine allocates, counts references and looks up shapes, which takes small networks
as long as the kernels do. What it does is known when the program is compiled: `BIND` checks the tensors of a caller
once and writes their addresses into a table, and `CALL` runs the kernels on what the table says. The entry function of
the virtual machine stays beside them, for calls in parts and for large outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from sparsec.backends.program import BIND, CALL
from sparsec.backends.relax.planned import NotPlain, Planned, Tensor, described
from sparsec.kernels.emit import address_of
from sparsec.machine.memory import ALIGNMENT, element_type

_ENTRY = "main"
MOST_ARGUMENTS = 64
"""Inputs and constants of a program that is made so: checking one takes 1.5 KB of code and 5 ms to compile,
and large programs take far longer than the virtual machine."""
MANY_ARGUMENTS, FEW_BYTES = 256, 1 << 22
"""The same where all are no larger than this together: such a program takes no longer than the virtual machine."""
CALLS = 50
"""Calls of kernels that one function makes: LLVM takes far more than twice as long for twice as many."""


def direct(embedded: list[np.ndarray]) -> tvm.transform.Pass:
    """The pass, for a module whose memory is planned; a large program, or one that does more, stays as it is.

    Constants that are compiled into kernels' calls become one more constant of the program, which is added to
    `embedded`.
    """
    def rewrite(module: tvm.IRModule, _context: object) -> tvm.IRModule:
        entry = module[_ENTRY]
        try:
            plan = Planned(entry)
        except NotPlain:
            return module
        nbytes = sum(prod(shape) * element_type(dtype).itemsize for shape, dtype in map(described, entry.params))
        most = MANY_ARGUMENTS if nbytes <= FEW_BYTES else MOST_ARGUMENTS
        if len(entry.params) > most or any(isinstance(each.place, int) for each in plan.results):
            return module
        params = list(entry.params)
        if plan.embedded:
            memory, offsets = _together(plan.embedded)
            embedded.append(memory)
            params.append(relax.Var("embedded", relax.TensorType(memory.shape, "uint8")))
            plan.kernels = [(kernel, tuple(_placed(each, params[-1], offsets) for each in given))
                            for kernel, given in plan.kernels]
        return _with_functions(module, params, plan)

    return tvm.transform.module_pass(rewrite, opt_level=0, name="direct")


def workspace_of(module: tvm.IRModule) -> int | None:
    """Bytes of the workspace that `BIND` takes, or None where the program has no such function."""
    return int(module[BIND].attrs["workspace"]) if _has(module) else None


def kernels_called(module: tvm.IRModule) -> list[str]:
    """The kernels that `CALL` calls, in order."""
    return list(map(str, module[CALL].attrs["kernels"])) if _has(module) else []


def _has(module: tvm.IRModule) -> bool:
    return CALL in {each.name_hint for each in module.get_global_vars()}


def _together(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Arrays in one, and the bytes at which each begins; equal ones are there once."""
    found: dict[bytes, int] = {}
    offsets = []
    for array in arrays:
        contents = array.tobytes()
        if contents not in found:
            found[contents] = sum(len(each) + -len(each) % ALIGNMENT for each in found)
        offsets.append(found[contents])
    return np.frombuffer(b"".join(each.ljust(len(each) + -len(each) % ALIGNMENT, b"\0") for each in found),
                         np.uint8), offsets


def _placed(tensor: Tensor, memory: relax.Var, offsets: Sequence[int]) -> Tensor:
    """A tensor, whose memory is that of the embedded constants if it is one."""
    return tensor if not isinstance(tensor.place, int) else replace(
        tensor, place=memory, offset=offsets[tensor.place] + tensor.offset)


def _with_functions(module: tvm.IRModule, params: list[relax.Var], plan: Planned) -> tvm.IRModule:
    """The module with the two functions; the virtual machine's entry takes the same arguments."""
    tensors = _arguments(params, plan)
    places = [each.place for each in tensors]
    bind = _bind(tensors).with_attr("workspace", plan.workspace)
    bb = relax.BlockBuilder(module)
    parts = _parts(plan, places)
    for part in parts[1:]:
        bb.add_func(part, part.attrs["global_symbol"])
    call = parts[0].with_attr("kernels", [kernel for kernel, _ in plan.kernels])
    for function, name in ((bind, BIND), (call, CALL)):
        bb.add_func(function, name)
    made, entry = bb.get(), module[_ENTRY]
    made[_ENTRY] = relax.Function(params, entry.body, entry.ret_ty, entry.is_pure, entry.attrs)
    return made


def _arguments(params: Sequence[relax.Var], plan: Planned) -> list[Tensor]:
    """What `BIND` takes in front of the table: inputs and constants, the workspace, outputs."""
    given = [Tensor(each, 0, *described(each)) for each in params]
    return [*given, Tensor(None, 0, (max(plan.workspace, 1),), "uint8"), *plan.results]


def _bind(tensors: list[Tensor]) -> tirx.PrimFunc:
    """Writes the tensors' addresses into the table; TVM checks element types and shapes of all arguments."""
    with _function(BIND) as builder:
        buffers = [T.arg(f"tensor_{number}", T.buffer(each.shape, each.dtype)) for number, each in enumerate(tensors)]
        table = T.arg("table", T.buffer((len(tensors),), "int64"))
        with T.attr(T.int32(0), "pragma_import_llvm", address_of.LLVM):
            for number, buffer in enumerate(buffers):
                T.buffer_store(table, address_of.address(buffer), [number])
    return builder.get()


def _parts(plan: Planned, places: list[relax.Var | None]) -> list[tirx.PrimFunc]:
    """`CALL`, and the functions that it calls where it would make too many calls for LLVM itself."""
    if len(plan.kernels) <= CALLS:
        return [_call(CALL, plan.kernels, places)]
    starts = range(0, len(plan.kernels), CALLS)
    parts = {f"{CALL}_part{start // CALLS}": plan.kernels[start:start + CALLS] for start in starts}
    with _function(CALL) as builder:
        table = T.arg("table", T.buffer((len(places),), "int64"))
        for name in parts:
            T.evaluate(T.call_cpacked(name, _array(table.data, (len(places),), "int64")))
    return [builder.get(), *(_call(name, kernels, places) for name, kernels in parts.items())]


def _call(name: str, kernels: list[tuple[str, tuple[Tensor, ...]]], places: list[relax.Var | None]) -> tirx.PrimFunc:
    """Calls kernels in turn on the tensors that the table says."""
    with _function(name) as builder:
        table = T.arg("table", T.buffer((len(places),), "int64"))
        for kernel, tensors in kernels:
            T.evaluate(T.call_cpacked(kernel, *(
                _array(T.reinterpret("handle", table[places.index(each.place)] + each.offset), each.shape, each.dtype)
                for each in tensors)))
    return builder.get()


def _array(address: tirx.Expr, shape: tuple[int, ...], dtype: str) -> tirx.Expr:
    """A tensor at an address, as an argument of a call."""
    return T.tvm_stack_make_array(address, T.tvm_stack_make_shape(*shape), 0, len(shape), tirx.const(0, dtype), 0)


@contextmanager
def _function(name: str) -> Iterator[IRBuilder]:
    """A function of the library of this name, whose statements the block emits."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": name})
        yield builder
