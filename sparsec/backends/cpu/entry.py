"""A program's entry in parts: LLVM takes far more than twice as long for a function that makes twice as many calls."""

from __future__ import annotations

import tvm
from tvm import tirx

PREFIX = "__vmtir__"
"""What the names of functions begin with that TVM writes for the virtual machine."""
CALLS = 200
"""Calls in a row that one function makes: 0.4 s of LLVM's, where 1,600 take 24 and 6,000 minutes."""


def in_parts(module: tvm.IRModule) -> tvm.IRModule:
    """A module whose entries of more than `CALLS` calls are functions of as many each, called in turn.

    All see the virtual machine's registers, in which every result lies, so that an entry may end anywhere between two
    calls; one that binds variables stays whole.
    """
    functions: dict[tvm.ir.GlobalVar, tvm.ir.BaseFunc] = {}
    for name, function in module.functions.items():
        if _is_long(name.name_hint, function):
            functions |= {tvm.ir.GlobalVar(part.attrs["global_symbol"]): part for part in _parts(function)}
            functions[name] = _calls(function)
        else:
            functions[name] = function
    return tvm.IRModule(functions, attrs=module.attrs)


def _is_long(name: str, function: tvm.ir.BaseFunc) -> bool:
    if not isinstance(function, tirx.PrimFunc) or not name.startswith(PREFIX):
        return False
    body = function.body
    return (isinstance(body, tirx.SeqStmt) and len(body.seq) > CALLS
            and all(isinstance(each, tirx.Evaluate) for each in body.seq))


def _names(function: tirx.PrimFunc) -> list[str]:
    """A name for every part."""
    symbol = function.attrs["global_symbol"]
    return [f"{symbol}_part{start // CALLS}" for start in range(0, len(function.body.seq), CALLS)]


def _parts(function: tirx.PrimFunc) -> list[tirx.PrimFunc]:
    statements = list(function.body.seq)
    return [function.with_body(_together(statements[index * CALLS:(index + 1) * CALLS])).with_attr(
        "global_symbol", name) for index, name in enumerate(_names(function))]


def _together(statements: list[tirx.Stmt]) -> tirx.Stmt:
    """Statements in a row; TVM refuses a row of one."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def _calls(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The entry that calls its parts."""
    return function.with_body(tirx.SeqStmt([tirx.Evaluate(tirx.call_cpacked(name, *function.params))
                                            for name in _names(function)]))
