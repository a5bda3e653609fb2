"""IEEE 754 in kernels that Relax derives from operators, which TVM treats as if floats were real numbers.

TVM's simplifier takes (x + y) - y for x, x == x for true and not (a < b) for a >= b, all of which are wrong of floats,
NaN above all; its maximum loses a NaN in the first operand, and its comparison of unequals is false of NaN. Operands
that are reinterpreted as integers and back are opaque to the simplifier; LLVM drops that again.
"""

from __future__ import annotations

import math
from functools import partial

import tvm_ffi
from tvm import s_tir, tirx

from sparsec.kernels.emit.extremum import bind, is_number, maximum, minimum
from sparsec.kernels.emit.tir import Expr

ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div)
ORDER = (tirx.EQ, tirx.LT, tirx.LE, tirx.GT, tirx.GE)
EXTREMA = {tirx.Max: maximum, tirx.Min: minimum}
COMPUTED = (*ARITHMETIC, *EXTREMA, tirx.Select, tirx.Let)
IN_A_ROW = "sparsec.in_a_row"
"""The attribute of kernels whose reductions every thread has to do by itself."""
INTEGERS = {"float16": "int16", "float32": "int32", "float64": "int64"}


def keep_ieee(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same kernel with float arithmetic, comparisons, maxima and minima as IEEE 754 and ONNX have them."""
    rules = ((ARITHMETIC + ORDER, _opaque), (tirx.NE, _unequal), (tirx.Not, _negation),
             ((tirx.Max, tirx.Min), _extremum), (s_tir.SBlock, _start))
    return function.with_body(tvm_ffi.structural_map(function.body, rules))


def keep_nan(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same kernel with maxima and minima that keep NaN where the target's own drop one in either operand.

    One that reduces to them is marked `IN_A_ROW`, as threads cannot share such a reduction. A softmax, whose maximum
    needs no NaN as its sum has it, stays as it is: schedules know its reductions.
    """
    found: set[type] = set()

    def see(block: Expr) -> Expr:
        update = block.body if block.init is not None else None
        if isinstance(update, tirx.BufferStore):
            found.add(type(update.value))
        return block

    tvm_ffi.structural_map(function.body, ((s_tir.SBlock, see),))
    if found & set(EXTREMA) and found - set(EXTREMA):
        return function
    kept = function.with_body(tvm_ffi.structural_map(
        function.body, (((tirx.Max, tirx.Min), _keeping), (s_tir.SBlock, _start))))
    return kept.with_attr(IN_A_ROW, True) if found & set(EXTREMA) else kept


def is_float(expr: Expr) -> bool:
    """Whether an expression's elements are floating-point numbers."""
    return "float" in str(expr.ty)


def _opaque(node: Expr) -> Expr:
    """An operator on floats whose operands the simplifier does not see into."""
    return type(node)(_hidden(node.a), _hidden(node.b)) if is_float(node.a) else node


def _hidden(operand: Expr) -> Expr:
    """The operand as the same bits, if it is computed by operators: integers on the way stop the simplifier."""
    integers = INTEGERS.get(str(operand.ty))
    if integers is None or not isinstance(operand, COMPUTED):
        return operand
    return tirx.reinterpret(str(operand.ty), tirx.reinterpret(integers, operand))


def _unequal(node: Expr) -> Expr:
    """LLVM's unordered comparison, which TVM does not emit: true where either is NaN."""
    return _negation(tirx.Not(_opaque(tirx.EQ(node.a, node.b)))) if is_float(node.a) else node


def _negation(node: Expr) -> Expr:
    """The other truth value, in an operator that the simplifier does not move into comparisons."""
    return tirx.bitwise_xor(node.a, tirx.const(True, "bool"))


def _extremum(node: Expr) -> Expr:
    """The maximum or minimum that keeps NaN; a constant goes first, where NaN in the second operand stays."""
    if not is_float(node.a):
        return node
    kind = type(node)
    for constant, other in ((node.a, node.b), (node.b, node.a)):
        if isinstance(constant, tirx.FloatImm) and not math.isnan(constant.value):
            return kind(constant, _hidden(other))
    first, second = (node.b, node.a) if isinstance(node.a, COMPUTED) else (node.a, node.b)
    if isinstance(first, COMPUTED):
        return EXTREMA[kind](first, _hidden(second))
    return tirx.Select(is_number(first), kind(first, _hidden(second)), first)


def _keeping(node: Expr) -> Expr:
    """A maximum or minimum of C, whatever it makes of NaN, where neither operand is one."""
    if not is_float(node.a):
        return node
    kind = type(node)
    for constant, other in ((node.a, node.b), (node.b, node.a)):
        if isinstance(constant, tirx.FloatImm) and not math.isnan(constant.value):
            return bind(other, partial(_beside, kind, constant))
    return bind(node.a, lambda a: bind(node.b, lambda b: tirx.Select(
        tirx.And(is_number(a), is_number(b)), kind(a, b), a + b)))


def _beside(kind: type, constant: Expr, x: Expr) -> Expr:
    return tirx.Select(is_number(x), kind(constant, x), x)


def _start(block: Expr) -> Expr:
    """A reduction to the maximum or minimum that starts at an infinity, where TVM takes the largest finite number."""
    start = getattr(block.init, "value", None)
    if not isinstance(start, tirx.FloatImm) or abs(start.value) < tirx.max_value(str(start.ty)).value:
        return block
    infinity = tirx.const(math.copysign(math.inf, start.value), str(start.ty))
    init = tirx.BufferStore(block.init.buffer, infinity, block.init.indices)
    return s_tir.SBlock(block.iter_vars, block.reads, block.writes, block.name_hint, block.body, init,
                        block.alloc_buffers, block.match_buffers, block.annotations)
