"""Loop schedules for the kernels that Relax derives from operators: fused, contiguous inside, parallel outside.

The innermost loop is left to LLVM, which vectorises it with its tail; the schedule gives LLVM loops that are worth it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.sym.pattern import detect_linear_equation

from sparsec.backends.cpu.vector_math import FUNCTIONS, expand_functions
from sparsec.backends.relax.context import HAND_WRITTEN
from sparsec.backends.relax.ieee import keep_ieee
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Expr

PARALLEL_ELEMENTS = 16384  # elements below which starting threads costs more than it saves
INLINED = 32  # loads up to which an expression grows by computing another kernel's elements inside it
NESTED = 2  # polynomials in one another's arguments up to which compiling stays fast: each takes 10 times as long
TILE = 16  # rows and columns of the tiles in which a transposition runs


def schedule_kernels(isa: Isa) -> tvm.transform.Pass:
    """The pass that schedules every kernel of a module that is not hand-written."""
    @tvm.transform.module_pass(opt_level=0, name="sparsec.schedule_kernels")
    def apply(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        for name, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc) and HAND_WRITTEN not in function.attrs:
                module[name] = expand_functions(keep_ieee(schedule(function, isa.threads)))
        return module

    return apply


def schedule(function: tirx.PrimFunc, threads: int) -> tirx.PrimFunc:
    """The same kernel with its loops inlined, fused, tiled and distributed over the threads."""
    sch = s_tir.Schedule(function)
    try:
        root = sch.get_sblock("root")
    except s_tir.ScheduleError:
        return function  # a scan or sort of TVM's, which is no nest of blocks
    _inline_producers(sch, root)
    for block in sch.get_child_blocks(root):
        loops = sch.get_loops(block)
        if loops and len(loops) == len(sch.get(block).iter_vars):
            _schedule_block(sch, block, loops, threads)
    return sch.mod["main"]


def _inline_producers(sch: s_tir.Schedule, root: SBlockRV) -> None:
    """Compute element-wise intermediates inside their consumers, unless expressions grow too much by it."""
    for block in sch.get_child_blocks(root):
        consumers, statement = sch.get_consumers(block), sch.get(block).body
        if not isinstance(statement, tirx.BufferStore):
            continue
        buffer = statement.buffer
        uses = sum(_count_loads(sch.get(consumer).body, buffer) for consumer in consumers)
        if not consumers or (uses > 1 and uses * _count_loads(statement) > INLINED):
            continue
        if _nesting(statement) + max(_nesting(sch.get(consumer).body) for consumer in consumers) > NESTED:
            continue
        elements, copied = _elements(sch, block), isinstance(statement.value, ir.TensorLoad)
        if not copied and any(_elements(sch, consumer) > elements for consumer in consumers):
            continue  # elements would be computed several times
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            continue  # a reduction, or an output


def _elements(sch: s_tir.Schedule, block: SBlockRV) -> int:
    """How often a kernel's statement runs."""
    return math.prod(int(iterator.dom.extent) for iterator in sch.get(block).iter_vars)


def _nesting(part: tirx.Stmt | Expr) -> int:
    """How many functions that are expanded to polynomials a number passes in a statement or expression at most."""
    calls: list[ir.Call] = []
    tvm_ffi.structural_walk(part, (ir.Call, calls.append))
    return max((1 + _nesting(call.args[0]) for call in calls if getattr(call.op, "name", "") in FUNCTIONS), default=0)


def _count_loads(body: tirx.Stmt, buffer: tirx.Buffer | None = None) -> int:
    """Loads in a statement, of one buffer or of all."""
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(body, (ir.TensorLoad, loads.append))
    return sum(buffer is None or load.source.same_as(buffer) for load in loads)


def _schedule_block(sch: s_tir.Schedule, block: SBlockRV, loops: list[LoopRV], threads: int) -> None:
    """Fuse what is contiguous in every buffer, tile what is transposed, distribute the outermost loops."""
    dims = [int(sch.get(loop).extent) for loop in loops]
    iterators, statement = sch.get(block).iter_vars, sch.get(block).body
    outer = 0  # loops in front of the first reduction
    while outer < len(loops) and iterators[outer].iter_type == tirx.IterVar.DataPar:
        outer += 1
    if outer == len(loops) and isinstance(statement, tirx.BufferStore):
        accesses = _accesses(statement, [iterator.var for iterator in iterators])
        groups = _contiguous_groups(dims, accesses)
        loops = [sch.fuse(*(loops[axis] for axis in group)) if len(group) > 1 else loops[group[0]] for group in groups]
        loops = _tile(sch, loops, groups, dims, accesses)
        outer = len(loops)
    if threads > 1 and outer and math.prod(dims) >= PARALLEL_ELEMENTS:
        _distribute(sch, loops[:max(outer - 1, 1)], threads)


@dataclass(frozen=True)
class Accesses:
    """How a kernel's axes walk its buffers.

    Attributes:
        strides: per access, the output's first, how far an element moves with each axis (as far as that is linear).
        barred: axes that appear elsewhere, in a condition or in an index that is not linear.

    """

    strides: list[list[int]]
    barred: frozenset[int]


def _accesses(store: tirx.BufferStore, axes: Sequence[tirx.Var]) -> Accesses:
    """The accesses of an element-wise kernel's only statement."""
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(store.value, (ir.TensorLoad, loads.append))
    bare = tvm_ffi.structural_map(store.value, (ir.TensorLoad, lambda load: tirx.const(0, load.ty)))
    barred = _used(bare, axes)
    strides = []
    for buffer, indices in ((store.buffer, store.indices), *((load.source, load.indices) for load in loads)):
        shape, total = [int(dim) for dim in buffer.shape], [0] * len(axes)
        for position, index in enumerate(indices):
            coefficients = detect_linear_equation(index, axes)
            if coefficients and all(isinstance(c, tirx.IntImm) for c in coefficients[:-1]):
                step = math.prod(shape[position + 1:])
                total = [old + step * int(c) for old, c in zip(total, coefficients[:-1], strict=True)]
            else:
                barred |= _used(index, axes)
        strides.append(total)
    return Accesses(strides, frozenset(barred))


def _used(expr: ir.PrimExpr, axes: Sequence[tirx.Var]) -> set[int]:
    """The axes that appear in an expression."""
    found: set[int] = set()

    def visit(var: ir.Var) -> None:
        found.update(index for index, axis in enumerate(axes) if axis.same_as(var))

    tvm_ffi.structural_walk(expr, (ir.Var, visit))
    return found


def _contiguous_groups(dims: Sequence[int], accesses: Accesses) -> list[list[int]]:
    """Neighbouring axes that every buffer walks as one, in order; axes of length 1 join the axis before them."""
    groups: list[list[int]] = [[]]
    last: int | None = None  # the last axis longer than 1
    for axis, dim in enumerate(dims):
        if dim > 1:
            if last is not None and (not accesses.barred.isdisjoint((last, axis))
                                     or any(buffer[last] != buffer[axis] * dim for buffer in accesses.strides)):
                groups.append([])
            last = axis
        groups[-1].append(axis)
    return groups


def _tile(sch: s_tir.Schedule, loops: list[LoopRV], groups: list[list[int]], dims: list[int],
          accesses: Accesses) -> list[LoopRV]:
    """Run a transposition in tiles, so that every cache line of its input is read once; the new loops, in order."""
    inner = len(loops) - 1
    for buffer in accesses.strides[1:]:
        steps = [next((buffer[axis] for axis in reversed(group) if dims[axis] > 1), 0) for group in groups]
        crossing = [axis for axis in range(inner) if steps[axis] == 1]
        if steps[inner] > 1 and crossing:
            rows, row = sch.split(loops[crossing[-1]], [None, TILE])
            columns, column = sch.split(loops[inner], [None, TILE])
            ordered = [*loops[:crossing[-1]], rows, *loops[crossing[-1] + 1:inner], columns, row, column]
            sch.reorder(*ordered)
            return ordered
    return loops


def _distribute(sch: s_tir.Schedule, loops: list[LoopRV], threads: int) -> None:
    """Run the outermost loops in parallel, one contiguous share for each thread."""
    outer = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    share, _ = sch.split(outer, [min(threads, int(sch.get(outer).extent)), None])
    sch.parallel(share)
