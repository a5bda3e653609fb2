"""Rules by operator: the integers of its first output in symbols, which exporters compute shapes with.

A rule gives None where it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import MOST_ELEMENTS, Shape, Symbols
from sparsec.analysis.symbols.size import Size, product
from sparsec.graph.constants import constant
from sparsec.graph.nodes import operand, optional


def _data_of_shape(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    if shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return shape[start:end]


def _data_same(symbols: Symbols, node: ir.Node) -> Shape | None:
    return symbols.integers(node.inputs[0])


def _data_cast(symbols: Symbols, node: ir.Node) -> Shape | None:
    kinds = ir.DataType.INT64, ir.DataType.INT32
    integral = operand(node, 0).dtype in kinds and node.outputs[0].dtype in kinds
    return symbols.integers(node.inputs[0]) if integral else None


def _data_gather(symbols: Symbols, node: ir.Node) -> Shape | None:
    table, indices = symbols.integers(node.inputs[0]), constant(node.inputs[1])
    if table is None or indices is None or len(symbols.shape(node.inputs[0]) or ()) != 1:
        return None
    return tuple(table[int(index)] for index in indices.reshape(-1) if -len(table) <= index < len(table))


def _data_concat(symbols: Symbols, node: ir.Node) -> Shape | None:
    parts = [symbols.integers(value) for value in node.inputs]
    return None if any(part is None for part in parts) else tuple(
        size for part in parts if part is not None for size in part)


def _data_slice(symbols: Symbols, node: ir.Node) -> Shape | None:
    table = symbols.integers(node.inputs[0])
    bounds = [constant(optional(node, index)) for index in (1, 2, 4)]
    if table is None or bounds[0] is None or bounds[1] is None or (optional(node, 4) is not None and bounds[2] is None):
        return None
    step = 1 if bounds[2] is None else int(bounds[2].item())
    start, end = int(bounds[0].item()), int(bounds[1].item())
    if step < 1:
        return None
    return table[start:end:step]


def _data_pairs(combine: Callable[[Size, Size], Size | None]) -> Callable[[Symbols, ir.Node], Shape | None]:
    """Element by element, of which either may be repeated."""
    def read(symbols: Symbols, node: ir.Node) -> Shape | None:
        left, right = (symbols.integers(value) for value in node.inputs)
        if not left or not right or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        count = max(len(left), len(right))
        found = [combine(left[i % len(left)], right[i % len(right)]) for i in range(count)]
        return None if any(each is None for each in found) else tuple(each for each in found if each is not None)

    return read


def _equal(left: Size, right: Size) -> Size | None:
    """1 or 0; a size is never -1."""
    if left == right:
        return Size.of(1)
    if left.number is not None and right.number is not None:
        return Size.of(0)
    number, other = (left.number, right) if left.number is not None else (right.number, left)
    positive = all(factor > 0 for _, factor in other.terms)
    return Size.of(0) if number is not None and number < 0 and positive else None


def _data_where(symbols: Symbols, node: ir.Node) -> Shape | None:
    condition, yes, no = (symbols.integers(value) for value in node.inputs)
    if not condition or not yes or not no or any(each.number is None for each in condition):
        return None
    chosen = []
    for index in range(max(len(condition), len(yes), len(no))):
        source = yes if condition[index % len(condition)].number else no
        chosen.append(source[index % len(source)])
    return tuple(chosen)


def _data_filled(symbols: Symbols, node: ir.Node) -> Shape | None:
    length, value = symbols.integers(node.inputs[0]), node.attributes.get("value")
    if not length or length[0].number is None or length[0].number > MOST_ELEMENTS or len(length) != 1:
        return None
    fill = 0 if value is None else int(np.asarray(value.as_tensor().numpy()).item())
    return (Size.of(fill),) * length[0].number


def _data_product(symbols: Symbols, node: ir.Node) -> Shape | None:
    data = symbols.integers(node.inputs[0])
    return None if data is None or len(node.inputs) > 1 else (product(data),)


def _data_size(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    return None if shape is None else (product(shape),)


DATA: dict[str, Callable[[Symbols, ir.Node], Shape | None]] = {
    "Shape": _data_of_shape, "Size": _data_size,
    **dict.fromkeys(("Identity", "Unsqueeze", "Squeeze", "Reshape"), _data_same), "Cast": _data_cast,
    "Gather": _data_gather, "Concat": _data_concat, "Slice": _data_slice, "Add": _data_pairs(Size.__add__),
    "Sub": _data_pairs(Size.__sub__), "Mul": _data_pairs(Size.__mul__), "Div": _data_pairs(Size.divided),
    "Equal": _data_pairs(_equal), "Where": _data_where, "ConstantOfShape": _data_filled, "ReduceProd": _data_product,
}
"""The integers of an operator's first output; a truth value is 1 or 0."""
