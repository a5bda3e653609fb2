"""Which nodes a target has no implementation for, without lowering the layers that have kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.lower import Part, emit_function
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.layout import Plain
from sparsec.graph.nodes import bodies, read_by
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.shapes import static_shape


def lacking(model: ir.Model, fresh: Callable[[], LoweringContext]) -> dict[str, str]:
    """The reason by the name of every node of ONNX's operators that cannot be lowered by itself.

    Those of layouts and of sizes that only the run tells are left out. Nodes that are alike are lowered once.

    Args:
        model: topologically sorted; what is known of its values' types may change.
        fresh: makes a context.

    """
    found: dict[str, str] = {}
    alike: dict[object, str | None] = {}
    arrays: dict[ir.Value, np.ndarray] = {}
    for node in model.graph:
        context = fresh()
        context.arrays = arrays  # of what other nodes have computed at compile time
        read = list(read_by(node))
        values = [*read, *(value for value in node.outputs if value.name)]
        if node.domain == DOMAIN or any(static_shape(value) is None or value.dtype is None
                                        or not isinstance(context.layout(value), Plain) for value in values):
            continue
        key = _key(node, arrays)
        if key is None or key not in alike:
            alike[key] = _reason(context, node, model)
        if (reason := alike[key]) is not None:
            found[str(node.name)] = reason
    return found


def _key(node: ir.Node, arrays: dict[ir.Value, np.ndarray]) -> object:
    """What is equal for nodes that are lowered alike; None where that is not looked into."""
    if bodies(node) or any(value in arrays for value in node.inputs if value is not None):
        return None
    proto = ir.to_proto(node)
    for name in ("name", "input", "output", "doc_string"):
        proto.ClearField(name)
    del proto.metadata_props[:]
    return (proto.SerializeToString(), *((None if value is None else (value.dtype, static_shape(value), id(
        value.const_value) if value.const_value is not None else 0)) for value in (*node.inputs, *node.outputs)))


def _reason(context: LoweringContext, node: ir.Node, model: ir.Model) -> str | None:
    """Why a node cannot be lowered, or None."""
    given = [value for value in read_by(node) if value.const_value is None and value not in context.arrays]
    part = Part((node,), tuple(given), tuple(value for value in node.outputs if value.name and value.uses()))
    try:
        emit_function(context, "main", part, model.opset_imports, LoweringContext.tensor)
    except UnsupportedOperatorError as error:
        return next(iter(error.nodes.values()), None)
    return None
