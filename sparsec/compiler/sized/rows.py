"""Which nodes of a graph compute every row of their outputs from the same row of their inputs, and nothing else.

A value of shape (batch, tokens, 768) with symbols for batch and tokens has batch x tokens rows of 768 numbers: its
leading dimensions up to the last one that is no number are the rows. A vector of known size behind a batch of one, as
in front of a classifier, is one row. A node keeps rows apart if all that it reads
either has the same rows, or is constant and the same for every row. Where a Reshape leaves every row what it is, as
from (batch, tokens, 768) to (batch x tokens, 768), the rows are the same, whatever dimensions they take.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import onnx_ir as ir

from sparsec.analysis.liveness.elementwise import BROADCAST, UNARY
from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size, product
from sparsec.graph.constants import constant
from sparsec.graph.nodes import optional
from sparsec.graph.sized import SIZED_DOMAIN, WINDOWS

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators for whose sake rows are compiled."""

WIDE = 16
"""Numbers of a row from which on it is worth a call by itself."""


@dataclass(frozen=True)
class Rows:
    """The rows of a node's values: the leading dimensions of each. Equal ones are as many, in the same order.

    Where values choose how many there are, equal ones have the same dimensions, too, which nothing else could tell.
    """

    lead: Shape = field(compare=False)
    count: Size
    untold: Shape = ()

    @classmethod
    def of(cls, shape: Shape) -> Self:
        """The rows of a value of some shape."""
        lead = leading(shape)
        return cls(lead, product(lead), () if all(size.known for size in lead) else lead)

    @property
    def rank(self) -> int:
        """How many dimensions rows take."""
        return len(self.lead)


def leading(shape: Shape) -> Shape:
    """The dimensions of a shape that are rows."""
    return shape[:max((axis + 1 for axis, size in enumerate(shape) if size.number is None), default=_is_row(shape))]


def _is_row(shape: Shape) -> bool:
    """Whether a shape of numbers alone is that of one row: a vector or one number, with a batch of one in front."""
    return len(shape) > 1 and shape[0].number == 1 and sum(size.number != 1 for size in shape) <= 1


@dataclass(frozen=True)
class _Node:
    """A node as the rules see it: its rows, the shapes of its output and of what it reads, and what is constant."""

    node: ir.Node
    rank: int
    shapes: Sequence[Shape | None]
    fixed: Sequence[bool]
    out: Shape

    def axis(self, name: str, default: int, shape: Shape | None = None) -> int:
        """An attribute that is an axis of the output, or of another shape, counted from the front."""
        return self.node.attributes.get_int(name, default) % max(1, len(self.out if shape is None else shape))


def row_nodes(graph: ir.Graph, symbols: Symbols, alone: Collection[str] = ()) -> dict[ir.Node, Rows]:
    """The nodes that keep rows apart and are joined, by values with the same rows, to one with a constant weight.

    Those beside windows of images count as such, and what is computed of the rows of a constant table; operators that
    are compiled `alone` do where rows are `WIDE`.
    """
    fixed = constants(graph)
    found = {node: rows for node in graph if (rows := _rows(node, symbols, fixed)) is not None}
    groups = _joined(found)
    heavy = {groups[node] for node in found if (node.op_type in WEIGHTED and _is_weighted(node, fixed))
             or _meets_windows(node) or _is_changed_table(node, fixed, groups)
             or (node.op_type in alone and _is_wide(node, symbols))}
    return {node: rows for node, rows in found.items() if groups[node] in heavy}


def constants(graph: ir.Graph) -> set[ir.Value]:
    """The values that follow from constants alone, initializers included."""
    fixed = {value for value in graph.initializers.values() if value.const_value is not None}
    for node in graph:
        if node.inputs and all(value is None or value in fixed for value in node.inputs) and not _has_graphs(node):
            fixed.update(node.outputs)
    return fixed


def _has_graphs(node: ir.Node) -> bool:
    return any(isinstance(each, ir.Attr) and each.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
               for each in node.attributes.values())


def _meets_windows(node: ir.Node) -> bool:
    """Whether a node computes what windows of images are read from, or what they give: as much as layers do."""
    around = (*(value.producer() for value in node.inputs if value is not None),
              *(use.node for value in node.outputs for use in value.uses()))
    return any(each is not None and each.domain == SIZED_DOMAIN and each.op_type in WINDOWS for each in around)


def _is_changed_table(node: ir.Node, fixed: set[ir.Value], groups: Mapping[ir.Node, ir.Node]) -> bool:
    """Whether a node computes something of the rows that a Gather takes from a constant table."""
    made = [value.producer() for value in node.inputs if value is not None]
    return node.op_type in ELEMENTWISE and any(
        each is not None and each.op_type == "Gather" and each.inputs[0] in fixed and groups.get(each) is groups[node]
        for each in made)


def _is_wide(node: ir.Node, symbols: Symbols) -> bool:
    """Whether the rows that a node makes have many numbers, and a Gather those that an input names."""
    if node.op_type == "Gather" and (node.inputs[1] is None or not node.inputs[1].is_graph_input()):
        return False
    shape = symbols.shape(node.outputs[0]) or ()
    return _count(shape[len(leading(shape)):]) >= WIDE


def _is_weighted(node: ir.Node, fixed: set[ir.Value]) -> bool:
    """Whether a product has a constant weight."""
    return node.inputs[1] in fixed


def _joined(found: dict[ir.Node, Rows]) -> dict[ir.Node, ir.Node]:
    """By node, the first node of its group: those that values connect."""
    first: dict[ir.Node, ir.Node] = {node: node for node in found}

    def root(node: ir.Node) -> ir.Node:
        while first[node] is not node:
            first[node] = first[first[node]]
            node = first[node]
        return node

    readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in found:
        for value in node.inputs:
            if value is not None and not value.is_initializer():
                readers[value].append(node)
    for value, nodes in readers.items():
        producer = value.producer()
        for node in nodes:
            if producer in first and found[producer] == found[node]:
                first[root(node)] = root(producer)
    return {node: root(node) for node in found}


def _rows(node: ir.Node, symbols: Symbols, fixed: set[ir.Value]) -> Rows | None:
    """The rows that a node keeps apart, None where it does not, or has none."""
    rule = RULES.get(node.op_type)
    if rule is None or node.domain or not node.outputs or all(value in fixed for value in node.outputs):
        return None
    outs = [symbols.shape(value) for value in node.outputs if value.name]
    shapes = [symbols.shape(value) for value in node.inputs]
    out = outs[0]
    if out is None or any(each is None for each in outs):
        return None
    rows = Rows.of(out)
    rank, lead = rows.rank, rows.lead
    if rank == 0 or any(size.number == 0 for size in out):
        return None
    single = SINGLE.get(node.op_type, ())
    known = [value is None or value in fixed or (index in single and is_single(shape))
             for index, (value, shape) in enumerate(zip(node.inputs, shapes, strict=True))]
    told = NOT_DATA.get(node.op_type, ())
    for index, (value, shape) in enumerate(zip(node.inputs, shapes, strict=True)):
        if value is None or known[index] or index in told:
            continue
        same = shape is not None and leading(shape) and (leading(shape) == lead or (
            node.op_type in RESHAPES and Rows.of(shape) == rows))
        if not same:
            return None
    if any(each is not None and leading(each) != lead for each in outs):
        return None
    return rows if rule(_Node(node, rank, shapes, known, out)) else None


def is_single(shape: Shape | None) -> bool:
    """Whether a value of a shape is one number."""
    return shape is not None and all(size.number == 1 for size in shape)


def _elementwise(n: _Node) -> bool:
    """Every operand has all rows, or is the same for all."""
    width = len(n.out) - n.rank
    for value, shape, fixed in zip(n.node.inputs, n.shapes, n.fixed, strict=True):
        if value is None:
            continue
        if shape is None or (not fixed and len(shape) != len(n.out)):
            return False
        if fixed and any(size.number != 1 for size in shape[:max(0, len(shape) - width)]):
            return False
    return True


def _matmul(n: _Node) -> bool:
    left, right = n.shapes
    return n.fixed == [False, True] and right is not None and len(right) == 2 and left is not None and (
        len(left) > n.rank)


def _gemm(n: _Node) -> bool:
    bias = n.shapes[2] if len(n.shapes) > 2 else None
    return (n.rank == 1 and not n.fixed[0] and n.fixed[1] and not n.node.attributes.get_int("transA", 0)
            and (bias is None or (n.fixed[2] and (len(bias) < 2 or bias[0].number == 1))))


def _behind_rows(default: int) -> Callable[[_Node], bool]:
    """The attribute `axis` lies behind the rows, and every input but the first is constant."""
    def rule(n: _Node) -> bool:
        return n.axis("axis", default) >= n.rank and all(n.fixed[1:])

    return rule


def _norm(n: _Node) -> bool:
    width = len(n.out) - n.axis("axis", -1)
    return n.axis("axis", -1) >= n.rank and all(
        fixed and shape is not None and len(shape) <= width
        for fixed, shape in zip(n.fixed[1:], n.shapes[1:], strict=True))


def _reduce(n: _Node) -> bool:
    shape, axes = n.shapes[0], constant(optional(n.node, 1))
    return shape is not None and axes is not None and axes.size > 0 and all(
        axis % len(shape) >= n.rank for axis in axes.tolist())


def _gather(n: _Node) -> bool:
    table = n.shapes[0]
    axis = n.node.attributes.get_int("axis", 0) % max(1, len(table or ()))
    if n.fixed[0]:
        return axis == 0 and not n.fixed[1]
    return n.fixed[1] and axis >= n.rank


def _reshape(n: _Node) -> bool:
    """The rows stay, so the elements of each do."""
    shape = n.shapes[0]
    return shape is not None and _count(shape[len(leading(shape)):]) == _count(n.out[n.rank:])


def _count(sizes: Shape) -> int:
    return math.prod(size.number or 0 for size in sizes)


def _transpose(n: _Node) -> bool:
    order = n.node.attributes.get_ints("perm", []) or list(reversed(range(len(n.out))))
    return list(order[:n.rank]) == list(range(n.rank))


def _concat(n: _Node) -> bool:
    return n.axis("axis", 0) >= n.rank and not any(n.fixed)


def _slice(n: _Node) -> bool:
    axes = constant(optional(n.node, 3))
    return all(n.fixed[1:]) and axes is not None and all(axis % len(n.out) >= n.rank for axis in axes.tolist())


def _image(n: _Node) -> bool:
    """Rows are the images of a batch, and every input but the first is constant."""
    return n.rank == 1 and not n.fixed[0] and all(n.fixed[1:]) and len(n.node.outputs) == 1


def _resize(n: _Node) -> bool:
    """Rows are images, whose other dimensions change by a constant factor or to a known size."""
    scales, given = constant(optional(n.node, 2)), n.node.attributes
    axes = [axis % len(n.out) for axis in given.get_ints("axes", ()) or range(n.rank, len(n.out))]
    whole = scales is None or not scales.size or "axes" in given or (scales[:n.rank] == 1).all()
    return bool(n.rank == 1 and not n.fixed[0] and all(n.fixed[1:3]) and whole and min(axes) >= n.rank
                and given.get_string("keep_aspect_ratio_policy", "stretch") == "stretch")


def _pad(n: _Node) -> bool:
    """Nothing is added to the rows."""
    pads, axes, rank = constant(optional(n.node, 1)), optional(n.node, 3), len(n.out)
    return not n.fixed[0] and all(n.fixed[1:]) and axes is None and pads is not None and not any(
        (*pads[:n.rank], *pads[rank:rank + n.rank]))


def _along(n: _Node) -> bool:
    """The axis of the second input lies behind the rows."""
    axis = constant(optional(n.node, 1))
    return not n.fixed[0] and axis is not None and int(axis.reshape(-1)[0]) % len(n.out) >= n.rank


def _reduced_to_index(n: _Node) -> bool:
    shape = n.shapes[0]
    return shape is not None and n.axis("axis", 0, shape) >= n.rank


def _matrices(n: _Node) -> bool:
    """The last two dimensions lie behind the rows."""
    return len(n.out) - 2 >= n.rank and not n.fixed[0] and all(n.fixed[1:])


def _softmax(n: _Node) -> bool:
    return n.axis("axis", -1) >= n.rank


def _quantize(n: _Node) -> bool:
    scale = n.shapes[1]
    single = scale is not None and all(size.number == 1 for size in scale)
    return all(n.fixed[1:]) and not n.fixed[0] and (single or n.axis("axis", 1) >= n.rank)


NORMS = ("LayerNormalization", "LpNormalization", "RMSNormalization")
"""Operators that put the numbers of a row together and give as many."""
ELEMENTWISE = (*UNARY, *BROADCAST, "Div", "Mul", "Where")

IMAGES = ("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
          "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool", "SpaceToDepth")

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that keep the order of elements; their other inputs tell the shape."""

NOT_DATA = {**dict.fromkeys(RESHAPES, (1,)), "Resize": (3,)}
"""The inputs of an operator that tell a shape which is known anyway."""

SINGLE = dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), (1, 2))
"""The inputs of an operator that may be single numbers which the run tells, the same for all rows."""

RULES: dict[str, Callable[[_Node], bool]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise), **dict.fromkeys(IMAGES, _image), **dict.fromkeys(RESHAPES, _reshape),
    "MatMul": _matmul, "Gemm": _gemm, "LayerNormalization": _norm, "RMSNormalization": _norm, "Softmax": _softmax,
    "LogSoftmax": _softmax, "Hardmax": _softmax, "LpNormalization": _softmax,
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
                     "ReduceProd", "ReduceSum", "ReduceSumSquare"), _reduce),
    "Gather": _gather, "Transpose": _transpose, "Concat": _concat, "Split": _behind_rows(0), "Slice": _slice,
    "QuantizeLinear": _quantize, "DequantizeLinear": _quantize,
    "Resize": _resize, "Pad": _pad, "CumSum": _along, "Trilu": _matrices, "TopK": _behind_rows(-1),
    "ArgMax": _reduced_to_index, "ArgMin": _reduced_to_index,
}
"""By operator, whether a node whose operands have the same rows or are constant keeps these rows apart."""
