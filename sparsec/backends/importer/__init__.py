"""ONNX's own operators in plain layout, as Relax expressions."""

from __future__ import annotations

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu.context import LoweringContext
from sparsec.backends.importer import converters, decompose, padding, reductions, shaping
from sparsec.backends.importer.constants import evaluate
from sparsec.backends.importer.node import Operator, infer_outputs, static_type
from sparsec.errors import UnsupportedOperatorError

OPERATORS: dict[str, Operator] = {**padding.OPERATORS, **reductions.OPERATORS, **shaping.OPERATORS}


def lower_operator(context: LoweringContext, node: ir.Node) -> None:
    """Bind the outputs of an ONNX node whose values are all in plain layout.

    In this order: computed now if all inputs are constants, one of our own implementations, a converter of TVM's
    importer, the operator's definition as an ONNX function.

    Raises:
        UnsupportedOperatorError: none of these can, or the result's shape or element type is not the model's.

    """
    arrays = evaluate(context, node)
    if arrays is not None:
        for value, array in zip(node.outputs, arrays, strict=True):
            context.know(value, array)
        return
    infer_outputs(context, node)
    if node.domain == "" and node.op_type in OPERATORS:
        _bind(context, node, OPERATORS[node.op_type](context, node))
    elif node.domain == "" and node.op_type in converters.CONVERTERS:
        _bind(context, node, converters.convert(context, node))
    else:
        decompose.decompose(context, node)


def _bind(context: LoweringContext, node: ir.Node, results: list[relax.Expr]) -> None:
    """Bind the outputs after holding each result's shape and element type against the model's."""
    if len(results) < len([value for value in node.outputs if value.name]):
        raise UnsupportedOperatorError(f"only its first {len(results)} output(s) are implemented")
    for value, result in zip(node.outputs, results, strict=False):
        expr = result if isinstance(result, relax.Var) else context.bb.emit(result)
        expected, found = (context.dtype(value), context.shape(value)), static_type(expr)
        if found != expected:
            raise UnsupportedOperatorError(f"'{value.name}' would come out as {expr.ty}, the model says {expected}")
        context.bind(value, expr)
