"""From a planned graph to one Relax module: `main(inputs..., constants...)` returns the tuple of its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax

from sparsec.backends.chain import Chain
from sparsec.backends.cpu.chain import emit_chain
from sparsec.backends.cpu.lowerings import LOWERINGS
from sparsec.backends.cpu.tensors import KERNELS
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import lower_operator
from sparsec.backends.relax.lacking import lacking as lowered_apart
from sparsec.backends.relax.lower import Lowered, emit_function, has_own_memory, lower_in, part_of
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.large import streams
from sparsec.graph.layout import Plain
from sparsec.graph.nodes import operator_of
from sparsec.graph.operators.schema import DOMAIN
from sparsec.kernels.cpu.tensors import copying
from sparsec.kernels.emit.isa import isa_of
from sparsec.machine.memory import carrier
from sparsec.target import Target


def lower(model: ir.Model, target: Target, threads: int = 1, precision: str = "fp32") -> Lowered:
    """Lower a topologically sorted model of static shapes for a CPU; its planned layers compute as their options say.

    Raises:
        UnsupportedOperatorError: lists every node that cannot be lowered, with operator, opset and reason.

    """
    return lower_in(_fresh(model, target, threads, precision), model, threads, partial(_result, set()))


def lacking(model: ir.Model, target: Target, threads: int, precision: str) -> dict[str, str]:
    """The reason by node of those that cannot be lowered."""
    return lowered_apart(model, lambda: _fresh(model, target, threads, precision))


def _fresh(model: ir.Model, target: Target, threads: int, precision: str) -> LoweringContext:
    return LoweringContext(relax.BlockBuilder(), isa_of(target, threads), target, _lower_node, KERNELS, precision,
                           streams=streams(model.graph))


def lower_parts(model: ir.Model, parts: Sequence[tuple[Sequence[ir.Value], Sequence[ir.Value]]], target: Target,
                threads: int, precision: str, chain: Chain | None = None,
                ) -> tuple[tvm.IRModule, list[tuple[str, tuple[np.ndarray, ...]]]]:
    """Lower parts of a model, each from its inputs to its outputs, to functions of one module, and perhaps a chain.

    Returns:
        The module, and every function's name with the constants that it takes behind the inputs.

    Raises:
        UnsupportedOperatorError: as `lower`.

    """
    first = _fresh(model, target, threads, precision)
    functions, own = [], []
    for number, (inputs, outputs) in enumerate(parts):
        context, name = first.sibling(), f"part{number}"
        emit_function(context, name, part_of(model, inputs, outputs), model.opset_imports, partial(_result, set()))
        functions.append((name, len(inputs), tuple(context.constants.values())))
        own.append((name, context.constants))
    if chain is not None:
        functions.append(emit_chain(first.sibling(), chain, own))
    module = first.bb.get()
    for name, count, _ in functions:
        module[name] = module[name].with_attr("num_input", count)
    return module, [(name, constants) for name, _, constants in functions]


def _lower_node(context: LoweringContext, node: ir.Node) -> None:
    """Our own lowering where the operator or a layout asks for it, else ONNX's operator through the importer."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if node.domain != DOMAIN and all(isinstance(context.layout(value), Plain) for value in values):
        lower_operator(context, node)
    elif operator_of(node) in LOWERINGS:
        LOWERINGS[operator_of(node)](context, node)
    else:
        layouts = ", ".join(f"'{value.name}' in {context.layout(value)}" for value in values)
        raise UnsupportedOperatorError(f"the CPU backend has no lowering for it with {layouts}")


def _result(returned: set[relax.Expr], context: LoweringContext, value: ir.Value) -> relax.Expr:
    """The expression returned for an output; what belongs to others is copied, so that outputs own their memory."""
    expr = context.tensor(value)
    if has_own_memory(context, expr, returned):
        return expr
    size, dtype = math.prod(context.shape(value)), carrier(context.dtype(value))
    if size == 0:
        return expr
    flat = context.bb.emit(relax.op.reshape(expr, (size,)))
    copy = context.call(copying.build(copying.CopyParams(size, dtype), context.isa), [flat], size, dtype=dtype)
    return context.bb.emit(relax.op.reshape(copy, context.shape(value)))
