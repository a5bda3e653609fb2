"""Which residuals a convolution may overwrite with its result, so that no other buffer passes through the caches."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.relax.weights import residual
from sparsec.graph.nodes import operator_of
from sparsec.graph.operators.schema import DOMAIN

CONV = f"{DOMAIN}::Conv"


def may_overwrite(node: ir.Node) -> bool:
    """Whether a convolution is the last to read its residual, which no other value shares its memory with.

    Convolutions have memory of their own for their outputs, and read their inputs without keeping them; of other
    operators an output may be a view of an input.
    """
    value = residual(node)
    producer = None if value is None else value.producer()
    if value is None or producer is None or value.is_graph_output():
        return False
    readers = [use.node for use in value.uses()]
    plain = all(operator_of(each) == CONV and each.graph is node.graph for each in (producer, *readers))
    last = next((each for each in reversed(node.graph or ()) if each in readers), None)
    return plain and readers.count(node) == 1 and last is node
