"""What the shapes of a graph are in the symbols of its inputs, and the integers that follow from shapes.

ONNX's inference gives ranks, static sizes and the symbols that pass through; the rules in `shapes` and `integers`
follow sums and products of symbols, too, through the arithmetic on shapes that exporters write. Where no rule knows
more, a size is opaque: equal to itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from sparsec.analysis.symbols.integers import DATA
from sparsec.analysis.symbols.known import MOST_ELEMENTS, Shape, Symbols
from sparsec.analysis.symbols.shapes import SHAPES
from sparsec.analysis.symbols.size import Size, declared
from sparsec.graph.sized import SIZED_DOMAIN


def infer_symbols(graph: ir.Graph) -> Symbols:
    """What is known of a sorted graph's values."""
    symbols = Symbols(input_shapes(graph))
    own = _declared(graph)
    for value in graph.initializers.values():
        if value.const_value is not None:
            symbols.shapes[value] = tuple(map(Size.of, value.const_value.shape.numpy()))
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                symbols.shapes[value] = tuple(_inferred(symbols, dim, own) for dim in value.shape)
        _apply(symbols, node)
    return symbols


def input_shapes(graph: ir.Graph) -> dict[ir.Value, Shape]:
    """The shapes of the inputs of known rank; a dimension without a name gets one."""
    own = _declared(graph)
    return {value: tuple(Size.of(dim) if isinstance(dim, int) else own[dim.value] if dim.value
                         else Size.of(f"{value.name}.{axis}") for axis, dim in enumerate(value.shape))
            for value in graph.inputs if value.shape is not None}


def _declared(graph: ir.Graph) -> dict[str, Size]:
    """What the symbols of inputs are; some are sums of others by their names."""
    names = {dim.value for value in graph.inputs for dim in value.shape or ()
             if isinstance(dim, ir.SymbolicDim) and dim.value}
    return {name: declared(name, names - {name}) for name in names}


def _inferred(symbols: Symbols, dim: int | ir.SymbolicDim, own: Mapping[str, Size]) -> Size:
    """A dimension as ONNX infers it: its symbols are those of inputs, or tell nothing."""
    if isinstance(dim, int):
        return Size.of(dim)
    return own[dim.value] if dim.value is not None and dim.value in own else symbols.opaque()


def _apply(symbols: Symbols, node: ir.Node) -> None:
    """Let the operator's rules say more than ONNX's inference."""
    if node.domain not in ("", SIZED_DOMAIN) or not node.outputs:
        return
    out = node.outputs[0]
    if (rule := SHAPES.get(node.op_type)) is not None and (found := rule(symbols, node)) is not None:
        before = symbols.shapes.get(out)
        if before is None:
            symbols.shapes[out] = found
        elif len(before) == len(found):  # numbers that ONNX infers stand
            symbols.shapes[out] = tuple(old if old.number is not None else new
                                        for old, new in zip(before, found, strict=True))
    integral = out.dtype is not None and out.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
    shape = symbols.shapes.get(out)
    if integral and shape is not None and len(shape) <= 1 and (reader := DATA.get(node.op_type)) is not None:
        data = reader(symbols, node)
        if data is not None and len(data) <= MOST_ELEMENTS:
            symbols.data[out] = data
