"""ONNX's own operators in plain layout, as Relax expressions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import (
    activations,
    control,
    elementwise,
    indexing,
    integers,
    normalization,
    padding,
    pooling,
    products,
    quantization,
    recurrent,
    reductions,
    resizing,
    selecting,
    shaping,
    signals,
    vision,
)
from sparsec.backends.relax.importer.constants import evaluate
from sparsec.backends.relax.importer.converters import CONVERTERS, convert
from sparsec.backends.relax.importer.decompose import decompose
from sparsec.backends.relax.importer.node import Operator, bind_typed, infer_outputs
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.shapes import static_shape

LONGEST_REASON = 200  # characters of what TVM says
MODULES = (activations, control, elementwise, indexing, normalization, padding, pooling, products, quantization,
           recurrent, reductions, resizing, selecting, shaping, signals, vision)
OPERATORS: dict[str, Operator] = {name: operator for module in MODULES for name, operator in module.OPERATORS.items()}


def lower_operator(context: LoweringContext, node: ir.Node) -> None:
    """Bind the outputs of an ONNX node whose values are all in plain layout.

    In this order: computed now if all inputs are constants, one of our own implementations, a converter of TVM's
    importer, the operator's definition as an ONNX function. Sparsec's operators on quantised tensors are written out.

    Raises:
        UnsupportedOperatorError: none of these can, or the result's shape or element type is not the model's.

    """
    if node.domain == DOMAIN:
        integers.lower(context, node)
        return
    arrays = evaluate(context, node)
    if arrays is not None:
        for value, array in zip(node.outputs, arrays, strict=True):
            context.know(value, array)
        return
    infer_outputs(context, node)
    if all(0 in (static_shape(value) or ()) for value in node.outputs):
        for value in node.outputs:
            context.know(value, np.empty(context.shape(value), context.dtype(value)))
        return
    try:
        if not _express(context, node):
            decompose(context, node)
    except UnsupportedOperatorError:
        raise
    except Exception as error:  # TVM reports what does not fit together with any type of exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedOperatorError(lines[-1].strip()[:LONGEST_REASON]) from error


def _express(context: LoweringContext, node: ir.Node) -> bool:
    """Bind the outputs to what our implementation or TVM's converter makes of the node, if there is one."""
    results = None
    if node.domain == "" and node.op_type in OPERATORS:
        results = OPERATORS[node.op_type](context, node)
    if results is None and node.domain == "" and node.op_type in CONVERTERS:
        results = convert(context, node)
    if results is None:
        return False
    if len(results) < len([value for value in node.outputs if value.name]):
        raise UnsupportedOperatorError(f"it has {len(node.outputs)} outputs, of which {len(results)} can be computed")
    for value, result in zip(node.outputs, results, strict=False):
        if 0 in (static_shape(value) or ()):
            context.know(value, np.empty(context.shape(value), context.dtype(value)))
            continue
        bind_typed(context, value, context.bb.normalize(result))
    return True
