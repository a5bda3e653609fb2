"""Maximum and minimum that keep NaN.

TIR's own compile to `vmaxps` and `vminps`, which return their second operand where either is NaN: a NaN in the first is
lost. Where one operand is a constant, `T.max(constant, x)` keeps NaN for nothing; the functions here take any operands,
for one more instruction (AVX-512) or two.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from sparsec.kernels.emit.tir import Expr


def bind(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` applied to a variable that holds `value`, which is then computed once."""
    variable = tirx.Var("t", value.ty)
    return tirx.Let(variable, value, body(variable))


def is_number(x: Expr) -> Expr:
    """Whether the elements of a vector or scalar are not NaN; TVM takes x == x for true, and x <= x for what it is."""
    return tirx.LE(x, x)


def is_nan(x: Expr) -> Expr:
    """Whether they are NaN; TVM takes not (x <= x) for x > x, but sees no comparison in the bits of a truth value."""
    return tirx.bitwise_xor(is_number(x), tirx.const(True, "bool"))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two floats, NaN if either is."""
    return bind(a, lambda a: tirx.Select(is_number(a), tirx.Max(a, b), a))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two floats, NaN if either is."""
    return bind(a, lambda a: tirx.Select(is_number(a), tirx.Min(a, b), a))
