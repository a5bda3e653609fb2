"""What the shapes of a graph are in the symbols of its inputs, and the integers that follow from shapes.

ONNX's inference gives ranks, static sizes and the symbols that pass through; the rules here follow sums and products
of symbols, too, through the arithmetic on shapes that exporters write. Where no rule knows more, a size is opaque:
equal to itself alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.size import OPAQUE, Size, declared
from sparsec.graph.constants import constant
from sparsec.graph.nodes import operand, optional
from sparsec.graph.sized import APPEND, SIZED_DOMAIN

Shape = tuple[Size, ...]
MOST_ELEMENTS = 64
"""Of a tensor of integers that is followed."""


@dataclass
class Symbols:
    """What is known of values.

    Attributes:
        shapes: of every value of known rank.
        data: the elements, in order, of integer tensors of at most one dimension that follow from shapes.
        bounds: of sizes that are opaque, what they are never larger than.

    """

    shapes: dict[ir.Value, Shape] = field(default_factory=dict)
    data: dict[ir.Value, Shape] = field(default_factory=dict)
    bounds: dict[Size, Size] = field(default_factory=dict)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def opaque(self, bound: Size | None = None) -> Size:
        """A size that nothing is known of, but that it is never larger than a bound."""
        size = Size.of(f"{OPAQUE}{next(self._count)}")
        if bound is not None:
            self.bounds[size] = bound
        return size

    def shape(self, value: ir.Value | None) -> Shape | None:
        """A value's shape."""
        return None if value is None else self.shapes.get(value)

    def integers(self, value: ir.Value | None) -> Shape | None:
        """The elements of a tensor of integers, constants included."""
        if value is None:
            return None
        array = constant(value)
        if array is not None and array.dtype.kind in "iu" and array.ndim <= 1 and array.size <= MOST_ELEMENTS:
            return tuple(Size.of(int(each)) for each in array.reshape(-1))
        return self.data.get(value)


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


def _broadcast(symbols: Symbols, shapes: Sequence[Shape]) -> Shape:
    """The shape of an element-wise result."""
    rank = max(map(len, shapes))
    one, dims = Size.of(1), []
    for axis in range(-rank, 0):
        own = {shape[axis] for shape in shapes if len(shape) >= -axis} - {one}
        own -= {size for size in own if symbols.bounds.get(size) in own}  # they are equal to their bounds, or 1
        numbers = [each for each in own if each.number is not None]
        dims.append(one if not own else numbers[0] if numbers else own.pop() if len(own) == 1 else symbols.opaque())
    return tuple(dims)


def _elementwise(symbols: Symbols, node: ir.Node) -> Shape | None:
    shapes = [symbols.shape(value) for value in node.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    return _broadcast(symbols, known) if known and len(known) == len(shapes) else None


def _same(symbols: Symbols, node: ir.Node) -> Shape | None:
    return symbols.shape(node.inputs[0])


def _axes(symbols: Symbols, node: ir.Node, index: int, rank: int) -> list[int] | None:
    """The axes that a node's input gives, counted from the front."""
    given = symbols.integers(optional(node, index))
    numbers = None if given is None else [each.number for each in given]
    if numbers is None or None in numbers:
        return None
    return [each % rank for each in numbers if each is not None]


def _concat(symbols: Symbols, node: ir.Node) -> Shape | None:
    shapes = [symbols.shape(value) for value in node.inputs]
    if any(shape is None for shape in shapes) or not shapes[0]:
        return None
    known = [shape for shape in shapes if shape is not None]
    axis = node.attributes.get_int("axis", 0) % len(known[0])
    dims = list(_agreed(known, axis))
    total = Size.of(0)
    for shape in known:
        total += shape[axis]
    dims[axis] = total
    return tuple(dims)


def _agreed(shapes: Sequence[Shape], but: int) -> Iterator[Size]:
    """The dimensions that tensors have in common: of equal ones the one that is known best."""
    for axis, dims in enumerate(zip(*shapes, strict=True)):
        best = sorted(dims, key=lambda size: (size.number is None, not size.known, str(size)))
        yield dims[0] if axis == but else best[0]


def _slice(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    if shape is None:
        return None
    starts, ends = (symbols.integers(optional(node, index)) for index in (1, 2))
    axes = _axes(symbols, node, 3, len(shape)) if optional(node, 3) is not None else list(range(len(starts or ())))
    steps = symbols.integers(optional(node, 4)) or (Size.of(1),) * len(axes or ())
    if axes is None:
        return None
    dims = list(shape)
    for index, axis in enumerate(axes):
        start, end = (None if given is None else given[index] for given in (starts, ends))
        dims[axis] = _sliced(symbols, shape[axis], start, end, steps[index])
    return tuple(dims)


def _sliced(symbols: Symbols, length: Size, start: Size | None, end: Size | None, step: Size) -> Size:
    """What a slice leaves of a dimension; opaque where it depends on which size is the larger."""
    if start is None or end is None or step.number != 1:
        return symbols.opaque()
    whole = end == length or (end.number is not None and end.number >= 2 ** 31 - 1)
    if start.number == 0:
        bound = end if all(factor > 0 for _, factor in end.terms) else None
        return length if whole else end if _never_larger(end, length) else symbols.opaque(bound)
    if whole and start.number is None and _never_larger(start, length):
        return length - start
    return symbols.opaque()


def _never_larger(first: Size, second: Size) -> bool:
    """Whether a size is at most another, whatever the symbols: what is left has no negative term."""
    return all(factor > 0 for _, factor in first.terms) and all(factor > 0 for _, factor in (second - first).terms)


def _transpose(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    if shape is None:
        return None
    order = node.attributes.get_ints("perm", []) or list(reversed(range(len(shape))))
    return tuple(shape[axis] for axis in order)


def _reshape(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape, target = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    if shape is None or target is None:
        return None
    zero = not node.attributes.get_int("allowzero", 0)
    if any(size.number is None and not size.known for size in target):
        return None
    dims = [shape[axis] if zero and size.number == 0 and axis < len(shape) else size
            for axis, size in enumerate(target)]
    free = [axis for axis, size in enumerate(dims) if size.number == -1]
    if free:
        rest = [size for size in dims if size.number != -1]
        quotient = _product(shape).divided(_product(rest))
        dims[free[0]] = quotient if quotient is not None else symbols.opaque()
    return tuple(dims)


def _product(sizes: Sequence[Size]) -> Size:
    total = Size.of(1)
    for size in sizes:
        total *= size
    return total


def _expand(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape, target = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    return None if shape is None or target is None else _broadcast(symbols, [shape, target])


def _filled(symbols: Symbols, node: ir.Node) -> Shape | None:
    return symbols.integers(node.inputs[0])


def _range(symbols: Symbols, node: ir.Node) -> Shape | None:
    start, end, step = (symbols.integers(value) for value in node.inputs)
    if not start or not end or not step or step[0].number != 1:
        return None
    return (end[0] - start[0],) if _never_larger(start[0], end[0]) else None


def _unsqueeze(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    axes = None if shape is None else _axes(symbols, node, 1, len(shape) + (_length(symbols, node, 1) or 0))
    if shape is None or axes is None:
        return None
    rest = iter(shape)
    return tuple(Size.of(1) if axis in axes else next(rest) for axis in range(len(shape) + len(axes)))


def _length(symbols: Symbols, node: ir.Node, index: int) -> int | None:
    given = symbols.integers(optional(node, index))
    return None if given is None else len(given)


def _squeeze(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    axes = None if shape is None else _axes(symbols, node, 1, len(shape))
    return None if shape is None or axes is None else tuple(
        size for axis, size in enumerate(shape) if axis not in axes)


def _gather(symbols: Symbols, node: ir.Node) -> Shape | None:
    table, indices = (symbols.shape(value) for value in node.inputs)
    if table is None or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(table)
    return (*table[:axis], *indices, *table[axis + 1:])


def _reduced(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    axes = None if shape is None else _axes(symbols, node, 1, len(shape))
    if shape is None or not axes:
        return None
    kept = node.attributes.get_int("keepdims", 1)
    return tuple(Size.of(1) if axis in axes else size for axis, size in enumerate(shape) if kept or axis not in axes)


def _split(symbols: Symbols, node: ir.Node) -> Shape | None:
    """The shapes of all outputs; the first is the result."""
    shape, sizes = symbols.shape(node.inputs[0]), symbols.integers(optional(node, 1))
    if shape is None or sizes is None or len(sizes) != len(node.outputs):
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    found = [(*shape[:axis], size, *shape[axis + 1:]) for size in sizes]
    symbols.shapes.update(zip(node.outputs, found, strict=True))
    return found[0]


def _append(symbols: Symbols, node: ir.Node) -> Shape | None:
    past, new = (symbols.shape(value) for value in node.inputs[:2])
    return None if past is None or new is None else (new[0], past[1], past[2] + new[2], past[3])


def _matmul(symbols: Symbols, node: ir.Node) -> Shape | None:
    left, right = (symbols.shape(value) for value in node.inputs)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    lead = _broadcast(symbols, [left[:-2], right[:-2]]) if len(left) > 2 or len(right) > 2 else ()
    return (*lead, left[-2], right[-1])


UNARY = ("Abs", "Cast", "Ceil", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
         "HardSwish", "Identity", "IsNaN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Mish", "Neg", "Not",
         "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Tanh", "CumSum",
         "Trilu", "QuantizeLinear", "DequantizeLinear")
BINARY = ("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
          "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor")

SHAPES: dict[str, Callable[[Symbols, ir.Node], Shape | None]] = {
    **dict.fromkeys(UNARY, _same), **dict.fromkeys(BINARY, _elementwise), "Concat": _concat, "Slice": _slice,
    "Transpose": _transpose, "Reshape": _reshape, "Expand": _expand, "ConstantOfShape": _filled, "Range": _range,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Gather": _gather, "MatMul": _matmul, APPEND: _append,
    "Split": _split,
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL2"), _reduced),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _same),
}
"""The shape of an operator's first output."""


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
    if condition is None and (array := constant(node.inputs[0])) is not None:
        condition = tuple(Size.of(int(each)) for each in array.reshape(-1))
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
    return None if data is None or len(node.inputs) > 1 else (_product(data),)


def _data_size(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    return None if shape is None else (_product(shape),)


DATA: dict[str, Callable[[Symbols, ir.Node], Shape | None]] = {
    "Shape": _data_of_shape, "Size": _data_size,
    **dict.fromkeys(("Identity", "Unsqueeze", "Squeeze", "Reshape"), _data_same), "Cast": _data_cast,
    "Gather": _data_gather, "Concat": _data_concat, "Slice": _data_slice, "Add": _data_pairs(Size.__add__),
    "Sub": _data_pairs(Size.__sub__), "Mul": _data_pairs(Size.__mul__), "Div": _data_pairs(Size.divided),
    "Equal": _data_pairs(_equal), "Where": _data_where, "ConstantOfShape": _data_filled, "ReduceProd": _data_product,
}
"""The integers of an operator's first output; a truth value is 1 or 0."""
