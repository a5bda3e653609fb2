"""From a planned graph to one Relax module for a GPU; the VM's entry is that of the CPU backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax

from sparsec.backends.cuda import attention, coded, conv, matmul, moving, norm, recurrent, sorting, tokens
from sparsec.backends.cuda.context import CudaContext, dtype_of, narrow_values
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import lower_operator
from sparsec.backends.relax.lacking import lacking as lowered_apart
from sparsec.backends.relax.lower import Lowered, emit_function, has_own_memory, lower_in, part_of
from sparsec.graph.annotations import HALF
from sparsec.graph.nodes import operator_of
from sparsec.kernels.cuda import copying
from sparsec.kernels.cuda.params import HALVES
from sparsec.kernels.emit.isa import isa_of
from sparsec.target import Target

LOWERINGS: dict[str, Callable[[CudaContext, ir.Node], bool]] = {
    "sparsec::Conv": conv.lower,
    "sparsec::MatMul": matmul.lower,
    "sparsec::Attention": attention.lower,
    "LayerNormalization": norm.lower,
    "MatMul": tokens.lower_product,
    "Mul": norm.lower_written_out,
    "TopK": sorting.lower,
    "QuantizeLinear": coded.lower_quantize,
    "DequantizeLinear": coded.lower_dequantize,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent.lower),
}
"""Each binds the node's outputs, or answers False where ONNX's operator in float32 will do."""


def lower(model: ir.Model, target: Target, precision: str) -> Lowered:
    """Lower a topologically sorted model of static shapes; its planned layers compute as their options say.

    Raises:
        UnsupportedOperatorError: lists every node that cannot be lowered, with operator, opset and reason.

    """
    context = CudaContext(relax.BlockBuilder(), isa_of(target), target, _lower_node, precision=precision,
                          half=HALVES[precision], narrow=narrow_values(model.graph))
    return lower_in(context, model, 1, LoweringContext.tensor)


def lacking(model: ir.Model, target: Target, precision: str) -> dict[str, str]:
    """The reason by node of those that cannot be lowered."""
    return lowered_apart(model, lambda: CudaContext(relax.BlockBuilder(), isa_of(target), target, _lower_node,
                                                    precision=precision, half=HALVES[precision]))


def lower_parts(model: ir.Model, parts: Sequence[tuple[Sequence[ir.Value], Sequence[ir.Value]]], target: Target,
                precision: str) -> tuple[tvm.IRModule, list[tuple[str, tuple[np.ndarray, ...]]]]:
    """Lower parts of a model, each from its inputs to its outputs, to functions of one module.

    Inputs and outputs that are `HALF` arrive and leave so.

    Returns:
        The module, and every function's name with the constants that it takes behind the inputs.

    Raises:
        UnsupportedOperatorError: as `lower`.

    """
    arriving = [value for value in model.graph.inputs if HALF.get(value) is not None]
    first = CudaContext(relax.BlockBuilder(), isa_of(target), target, _lower_node, precision=precision,
                        half=HALVES[precision], narrow=narrow_values(model.graph, arriving))
    functions = []
    for number, (inputs, outputs) in enumerate(parts):
        context, name = first.sibling(), f"part{number}"
        emit_function(context, name, part_of(model, inputs, outputs), model.opset_imports, partial(_result, set()))
        functions.append((name, len(inputs), tuple(context.constants.values())))
    module = first.bb.get()
    for name, count, _ in functions:
        module[name] = module[name].with_attr("num_input", count)
    return module, [(name, constants) for name, _, constants in functions]


def _result(returned: set[relax.Expr], context: LoweringContext, value: ir.Value) -> relax.Expr:
    """The expression returned for an output, as it is stored between stages, in memory of its own."""
    assert isinstance(context, CudaContext)
    half = HALF.get(value) is not None
    expr = context.stored(value, context.shape(value)) if half else context.tensor(value)
    if has_own_memory(context, expr, returned):
        return expr
    size, dtype = math.prod(context.shape(value)), dtype_of(expr)
    if size == 0:
        return expr
    first = context.constant(np.zeros(1, np.int32))
    copy = context.launch(copying.build(size, dtype), [context.reshaped(expr, (size,)), first], [(size, dtype)], "copy")
    return context.reshaped(copy, context.shape(value))


def _lower_node(context: LoweringContext, node: ir.Node) -> None:
    """Our own lowering where there is one, else ONNX's operator through the importer."""
    assert isinstance(context, CudaContext)
    own = LOWERINGS.get(operator_of(node))
    if own is not None and own(context, node):
        return
    if not moving.lower(context, node):
        lower_operator(context, node)
