"""Rules by operator: the shape of its first output in symbols, from the shapes of its inputs and their integers.

A rule gives None where it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from sparsec.analysis.symbols import images, moves
from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size, product
from sparsec.graph.nodes import optional
from sparsec.graph.shapes import BROADCAST
from sparsec.graph.sized import APPEND, RECURRENCE, SELECT


def broadcast(symbols: Symbols, shapes: Sequence[Shape]) -> Shape:
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
    return broadcast(symbols, known) if known and len(known) == len(shapes) else None


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
        quotient = product(shape).divided(product(rest))
        dims[free[0]] = quotient if quotient is not None else symbols.opaque()
    return tuple(dims)


def _expand(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape, target = symbols.shape(node.inputs[0]), symbols.integers(node.inputs[1])
    return None if shape is None or target is None else broadcast(symbols, [shape, target])


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


def _gather_elements(symbols: Symbols, node: ir.Node) -> Shape | None:
    return symbols.shape(node.inputs[1])


def _reduced(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    axes = None if shape is None else _axes(symbols, node, 1, len(shape))
    if optional(node, 1) is None and shape is not None and not node.attributes.get_int("noop_with_empty_axes", 0):
        axes = list(range(len(shape)))
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


def _select(symbols: Symbols, node: ir.Node) -> Shape | None:
    """That of the branch that is chosen, or what both have in common."""
    first, second = (symbols.shape(value) for value in node.inputs[1:])
    if (known := chosen(symbols, node)) is not None:
        return symbols.shape(known)
    if first is None or second is None or len(first) != len(second):
        return None
    return tuple(size if size == other else symbols.opaque() for size, other in zip(first, second, strict=True))


def chosen(symbols: Symbols, node: ir.Node) -> ir.Value | None:
    """The input of a `SELECT` that its condition chooses, where sizes decide that."""
    condition = symbols.integers(node.inputs[0])
    if not condition or condition[0].number is None:
        return None
    return node.inputs[1 if condition[0].number else 2]


def _matmul(symbols: Symbols, node: ir.Node) -> Shape | None:
    left, right = (symbols.shape(value) for value in node.inputs[:2])
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    lead = broadcast(symbols, [left[:-2], right[:-2]]) if len(left) > 2 or len(right) > 2 else ()
    return (*lead, left[-2], right[-1])


def _recurrence(symbols: Symbols, node: ir.Node) -> Shape | None:
    """The shapes of all outputs; the first is the result."""
    shape, (_, hidden) = symbols.shape(node.inputs[0]), node.attributes["weight"].as_tensor().shape.numpy()
    if shape is None:
        return None
    state = shape[1], Size.of(hidden)
    symbols.shapes.update(dict.fromkeys(node.outputs[1:], state))
    return shape[0], *state


def _recurrent(symbols: Symbols, node: ir.Node) -> Shape | None:
    """The shapes of all outputs of GRU, LSTM and RNN; the first is the result."""
    shape, weight = (symbols.shape(value) for value in node.inputs[:2])
    recurrence = symbols.shape(node.inputs[2])
    if shape is None or weight is None or recurrence is None:
        return None
    (time, batch, _), directions, hidden = shape, weight[0], recurrence[-1]
    if node.attributes.get_int("layout", 0):
        batch, time = time, batch
        result, state = (batch, time, directions, hidden), (batch, directions, hidden)
    else:
        result, state = (time, directions, batch, hidden), (directions, batch, hidden)
    symbols.shapes.update(dict.fromkeys(node.outputs[1:], state))
    return result


def _gemm(symbols: Symbols, node: ir.Node) -> Shape | None:
    shapes = [symbols.shape(value) for value in node.inputs[:2]]
    if any(shape is None or len(shape) != 2 for shape in shapes):
        return None
    left, right = (shape for shape in shapes if shape is not None)
    turned = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
    return left[1 if turned[0] else 0], right[0 if turned[1] else 1]


def _flatten(symbols: Symbols, node: ir.Node) -> Shape | None:
    shape = symbols.shape(node.inputs[0])
    if shape is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return product(shape[:axis]), product(shape[axis:])


UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Bernoulli", "BitwiseNot", "Cast", "CastLike", "Ceil",
    "Celu", "Clip", "Cos", "Cosh", "CumProd", "CumSum", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "IsInf", "IsNaN",
    "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "Mish",
    "Neg", "Not", "QuantizeLinear", "RMSNormalization", "RandomNormalLike", "RandomUniformLike", "Reciprocal", "Relu",
    "ReverseSequence", "RotaryEmbedding", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "TensorScatter", "ThresholdedRelu", "Trilu")

SHAPES: dict[str, Callable[[Symbols, ir.Node], Shape | None]] = {
    **images.SHAPES, **moves.SHAPES,
    **dict.fromkeys(UNARY, _same), **dict.fromkeys((*BROADCAST, "PRelu"), _elementwise),
    "Concat": _concat, "Slice": _slice,
    "Transpose": _transpose, "Reshape": _reshape, "Expand": _expand, "ConstantOfShape": _filled, "Range": _range,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Gather": _gather, "GatherElements": _gather_elements,
    "MatMul": _matmul, "MatMulInteger": _matmul, **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "Gemm": _gemm, "Flatten": _flatten, APPEND: _append, SELECT: _select, "Split": _split,
    RECURRENCE: _recurrence,
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
                     "ReduceProd", "ReduceSum", "ReduceSumSquare"), _reduced),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _same),
}
"""The shape of an operator's first output."""
