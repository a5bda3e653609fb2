"""What computes one code from one code, however many operators it takes, becomes a sparsec::Lookup.

The operators behind a tensor of codes are executed once on all 256 of them: activations, scalar arithmetic,
requantisation, and products such as x * sigmoid(x) whose factors come from the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.elementwise import BROADCAST, UNARY
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.evaluate import run_node
from sparsec.graph.nodes import node_name
from sparsec.graph.operators.lookup import ENTRIES
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.quantized import quantization
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite

ELEMENTWISE = {*UNARY, *BROADCAST, "Div", "Mul", "QuantizeLinear", "DequantizeLinear"}
CODES = (ir.DataType.UINT8, ir.DataType.INT8)
DEEPEST = 64
"""Operators that one table may stand for."""


@dataclass
class _Tracer:
    """Follows values back to the codes that they are computed from."""

    opsets: dict[str, int]
    codes: ir.Value | None = None
    values: dict[ir.Value, np.ndarray] = field(default_factory=dict)

    def table(self, value: ir.Value, depth: int = 0) -> np.ndarray | None:
        """What a value is for every code, None where it depends on anything else; one element for a constant."""
        if value not in self.values:
            array = constant(value)
            if array is not None:
                return array if array.size == 1 else None
            found = self._of_codes(value) if value.dtype in CODES else self.result(value.producer(), depth)
            if found is None:
                return None
            self.values[value] = found
        return self.values[value]

    def _of_codes(self, value: ir.Value) -> np.ndarray | None:
        """Codes that a table gives, by what it looks up; others are those that everything is computed from."""
        node = value.producer()
        if node is not None and node.domain == DOMAIN and node.op_type == "Lookup":
            before, entries = node.inputs
            index = None if before is None else self.table(before)
            array = constant(entries)
            assert before is not None
            assert array is not None
            return None if index is None else array[index.astype(np.int64) - np.iinfo(index.dtype).min]
        if self.codes not in (None, value) or value.dtype is None:
            return None
        self.codes = value
        info = np.iinfo(value.dtype.numpy())
        return np.arange(info.min, info.max + 1).astype(value.dtype.numpy())

    def result(self, node: ir.Node | None, depth: int = 0) -> np.ndarray | None:
        """The output of a node for every code; one element where it is a constant, such as a dequantised one."""
        if node is None or node.domain or node.op_type not in ELEMENTWISE or len(node.outputs) > 1 or depth > DEEPEST:
            return None
        arrays = [None if value is None else self.table(value, depth + 1) for value in node.inputs]
        if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
            return None
        depends = any(array is not None and array.shape == (ENTRIES,) for array in arrays)
        scalars = [array if array is None or array.shape == (ENTRIES,) else array.reshape(()) for array in arrays]
        try:
            found = np.asarray(run_node(node, scalars, self.opsets)[0])
        except UnsupportedOperatorError:
            return None
        return found if found.shape == ((ENTRIES,) if depends else ()) else None


def run(graph: ir.Graph) -> int:
    """Puts tables in, in place; returns how many."""
    count = 0
    for node in list(graph):
        if node.graph is not None and quantization(node, "QuantizeLinear") is not None and _tabulate(node):
            count += 1
    return count


def _tabulate(node: ir.Node) -> bool:
    graph, output = node.graph, node.outputs[0]
    assert graph is not None
    tracer = _Tracer(dict(graph.opset_imports))
    table = tracer.result(node)
    codes = tracer.codes
    shape = static_shape(codes)
    if table is None or codes is None or table.shape != (ENTRIES,) or shape is None or shape != static_shape(output):
        return False
    if codes.dtype == output.dtype and np.array_equal(table, tracer.values[codes]) and not output.is_graph_output():
        output.replace_all_uses_with(codes)
        graph.remove(node, safe=True)
        return True
    name = node_name(node)
    lookup = ir.node("Lookup", [codes, add_constant(graph, f"{name}.table", table)], domain=DOMAIN, name=name)
    node.prepend(lookup)
    rewrite.take_over(lookup.outputs[0], output)
    graph.remove(node, safe=True)
    return True
