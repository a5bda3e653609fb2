"""float16 and bfloat16 inside a model become float32; inputs and outputs keep their types.

Nothing is computed less precisely than by a runtime that computes in 16 bits, and sums do not overflow. Numbers that 16
bits would have rounded, or made infinite, in between are kept. Where a number is cast to 16 bits and back with nothing
computed in between, rounding it is all that the casts do, and it is rounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sparsec.graph.large import derived
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")
BITWISE = "BitCast"
MOVES = ("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
"""Operators that only move the numbers of their first input."""
ROUNDINGS = "roundings"
"""The count of numbers that are rounded to 16 bits."""


def run(model: ir.Model, _context: Context) -> Report:
    """Widens the graph in place, with a Cast at every input and output of 16 bits."""
    if not is_half(model):
        return Report("widen", modified=False)
    if any(node.op_type == BITWISE and not node.domain for node in model.graph.all_nodes()):
        return Report("widen", modified=False, notes=(Note(BITWISE, "float16 stays: its bits are read"),))
    types = {value: value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    counts = widen(model)
    for value in model.graph.inputs:
        if types[value] in HALVES and value.const_value is None:
            _cast_input(model.graph, value, types[value])
    for index, value in enumerate(list(model.graph.outputs)):
        if types[value] in HALVES:
            _cast_output(model.graph, index, types[value])
    rewrite.clean(model)
    return Report("widen", modified=True, counts=counts, restated=True)


def is_half(model: ir.Model) -> bool:
    """Whether a model has a tensor of 16-bit floats."""
    return any(value.dtype in HALVES for value in _values(model.graph))


def widen(model: ir.Model) -> Counter[str]:
    """Makes every tensor of 16-bit floats float32, inputs and outputs included; returns how many of each type."""
    roundings = [(node, types) for node in model.graph.all_nodes() if (types := _roundings(node))]
    counts: Counter[str] = Counter()
    for value in _values(model.graph):
        if value.dtype in HALVES and value.dtype is not None:
            counts[value.dtype.name.lower()] += 1
            if value.const_value is not None:
                shape = tuple(value.const_value.shape.numpy())
                value.const_value = derived(value.const_value, _widened, shape, ir.DataType.FLOAT, value.name)
            wide = ir.TensorType(ir.DataType.FLOAT)
            value.type = ir.SequenceType(wide) if isinstance(value.type, ir.SequenceType) else wide
    for node in model.graph.all_nodes():
        for name, attribute in tuple(node.attributes.items()):
            if name in TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.value in HALVES:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in HALVES:
                tensor = ir.tensor(attribute.value.numpy().astype(np.float32), name=attribute.value.name)
                node.attributes[name] = ir.AttrTensor(name, tensor)
    for node, types in roundings:
        for dtype in types:
            _round(node, dtype)
            counts[ROUNDINGS] += 1
    return counts


def _roundings(node: ir.Node) -> list[ir.DataType]:
    """The 16-bit types, in order, that a Cast to a wider type finds its input rounded to, with only moves after it."""
    if node.op_type != "Cast" or node.domain or node.outputs[0].dtype in HALVES:
        return []
    found: list[ir.DataType] = []
    value = node.inputs[0]
    while value is not None and value.dtype in HALVES and (producer := value.producer()) is not None:
        source = producer.inputs[0] if producer.inputs else None
        if producer.domain or source is None or producer.op_type not in ("Cast", *MOVES):
            break
        if producer.op_type == "Cast" and value.dtype is not None and source.dtype != value.dtype:
            found.insert(0, value.dtype)
        value = source
    return found


def _round(node: ir.Node, dtype: ir.DataType) -> None:
    """Puts a Cast to a type and one back to float32 in front of a node's input."""
    for to in (dtype, ir.DataType.FLOAT):
        value = node.inputs[0]
        assert value is not None  # a Cast has its input
        cast = ir.node("Cast", [value], {"to": int(to)})
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(to)
        node.prepend(cast)
        node.replace_input_with(0, cast.outputs[0])


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of a graph and its subgraphs, once."""
    seen: dict[ir.Value, None] = {}
    for part in (graph, *graph.subgraphs()):
        seen.update(dict.fromkeys((*part.inputs, *part.initializers.values())))
        for node in part:
            seen.update(dict.fromkeys(node.outputs))
    yield from seen


def _cast_input(graph: ir.Graph, value: ir.Value, dtype: ir.DataType | None) -> None:
    """The input in its own type, read through a Cast."""
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}.widened")
    wide = cast.outputs[0]
    wide.name, wide.shape, wide.type = f"{value.name}.widened", value.shape, ir.TensorType(ir.DataType.FLOAT)
    value.replace_all_uses_with(wide, replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    value.type = ir.TensorType(dtype) if dtype is not None else value.type
    first = next(iter(graph), None)
    if first is None:
        graph.append(cast)
    else:
        graph.insert_before(first, cast)


def _cast_output(graph: ir.Graph, index: int, dtype: ir.DataType | None) -> None:
    """The output narrowed, under its name."""
    assert dtype is not None
    value = graph.outputs[index]
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}.narrowed")
    narrow = cast.outputs[0]
    narrow.name, value.name = value.name, f"{value.name}.wide"
    narrow.shape, narrow.type = value.shape, ir.TensorType(dtype)
    graph.append(cast)
    graph.outputs[index] = narrow
