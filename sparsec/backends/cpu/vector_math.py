"""Transcendental functions in Relax's kernels as polynomials, which LLVM vectorises; a call of libm stays scalar."""

from __future__ import annotations

from collections.abc import Callable

import tvm_ffi
from tvm import ir, tirx

from sparsec.kernels.emit import activations
from sparsec.kernels.emit.tir import Expr

FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.erf": lambda x: activations.erf(x, 1),
    "tirx.exp": lambda x: activations.exp(x, 1),
    "tirx.sigmoid": lambda x: activations.ACTIVATIONS["sigmoid"](x, 1, 0.0, 0.0),
    "tirx.tanh": lambda x: activations.ACTIVATIONS["tanh"](x, 1, 0.0, 0.0),
}


def expand_functions(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same kernel with its float32 calls of these functions expanded."""
    def expand(call: ir.Call) -> Expr:
        name = getattr(call.op, "name", "")
        return FUNCTIONS[name](call.args[0]) if name in FUNCTIONS and str(call.ty) == "float32" else call

    return function.with_body(tvm_ffi.structural_map(function.body, (ir.Call, expand)))
