"""The rotation of features by positions, as exporters and onnxruntime's operators write it, becomes one node.

x * cos + Concat(-x[..., half:], x[..., :half]) * sin        tables of all features, as transformers write it
Concat(a * cos - b * sin, b * cos + a * sin), a and b the halves of x        tables of half of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from sparsec.analysis.symbols.known import Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.graph.operators.schema import DOMAIN
from sparsec.passes import rewrite

ROTARY = "SizedRotary"
"""The operator: (X (batch, heads, tokens, depth), cos, sin, which broadcast to it) -> Y; attributes `depth`, `both`."""

HEADS = 4  # dimensions of a tensor of split heads


@dataclass(frozen=True)
class _Rotation:
    """What is rotated by which tables, and whether these have angles for both halves."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    both: bool


def fuse_rotary(graph: ir.Graph, symbols: Symbols) -> int:
    """Fuse every rotation that is recognised, in place; returns how many."""
    return sum(_fuse(graph, node, symbols) for node in list(graph) if node.op_type in FORMS and not node.domain)


def _fuse(graph: ir.Graph, node: ir.Node, symbols: Symbols) -> bool:
    out = node.outputs[0]
    shape = symbols.shape(out)
    depth = shape[-1].number if shape is not None and len(shape) == HEADS else None
    found = FORMS[node.op_type](node, symbols) if depth is not None and depth % 2 == 0 else None
    if found is None or depth is None or not _fits(found, out, depth, symbols):
        return False
    made = ir.node(ROTARY, [found.x, found.cos, found.sin], {"depth": depth, "both": int(found.both)}, domain=DOMAIN,
                   name=node.name)
    made.outputs[0].type, symbols.shapes[made.outputs[0]] = out.type, symbols.shapes[out]
    graph.insert_before(node, made)
    rewrite.take_over(made.outputs[0], out)
    graph.remove(node, safe=True)
    return True


def _fits(r: _Rotation, out: ir.Value, depth: int, symbols: Symbols) -> bool:
    """Whether the tables have a row for every token, the same for all heads."""
    shape, whole = symbols.shape(out), symbols.shape(r.x)
    floats = all(value.dtype in (None, ir.DataType.FLOAT) for value in (r.x, r.cos, r.sin))
    if shape is None or shape != whole or not floats:
        return False
    width, one = Size.of(depth if r.both else depth // 2), Size.of(1)
    for table in (symbols.shape(r.cos), symbols.shape(r.sin)):
        padded = (*[one] * (HEADS - len(table or ())), *(table or ()))
        if len(padded) != HEADS or padded[3] != width or padded[2] != shape[2] or padded[1] != one or (
                padded[0] not in (one, shape[0])):
            return False
    return True


def _pairs(node: ir.Node | None, kind: str) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The operands of a node of two, both ways round."""
    if node is not None and node.op_type == kind and not node.domain and len(node.inputs) == 2:
        first, second = node.inputs
        if first is not None and second is not None:
            yield from ((first, second), (second, first))


def _of_all(node: ir.Node, symbols: Symbols) -> _Rotation | None:
    """X * cos + Concat(-second, first) * sin."""
    for left, right in _pairs(node, "Add"):
        for turned, sin in _pairs(right.producer(), "Mul"):
            join = turned.producer()
            if join is None or join.op_type != "Concat" or len(join.inputs) != 2 or join.inputs[0] is None:
                continue
            negative, near = join.inputs[0].producer(), join.inputs[1]
            if negative is None or negative.op_type != "Neg" or near is None or negative.inputs[0] is None:
                continue
            for x, cos in _pairs(left.producer(), "Mul"):
                if _half(near, x, 0, symbols) and _half(negative.inputs[0], x, 1, symbols):
                    return _Rotation(x, cos, sin, both=True)
    return None


def _of_halves(node: ir.Node, symbols: Symbols) -> _Rotation | None:
    """Concat(a * cos - b * sin, b * cos + a * sin)."""
    if len(node.inputs) != 2 or None in node.inputs:
        return None
    first, second = (value.producer() for value in node.inputs if value is not None)
    if first is None or first.op_type != "Sub" or second is None or None in first.inputs:
        return None
    minuend, subtrahend = (value.producer() for value in first.inputs if value is not None)
    for a, cos in _pairs(minuend, "Mul"):
        for b, sin in _pairs(subtrahend, "Mul"):
            x = a.producer()
            source = None if x is None else x.inputs[0]
            if source is None or not (_half(a, source, 0, symbols) and _half(b, source, 1, symbols)):
                continue
            for left, right in _pairs(second, "Add"):
                if _is_product(left, b, cos) and _is_product(right, a, sin):
                    return _Rotation(source, cos, sin, both=False)
    return None


def _is_product(value: ir.Value, first: ir.Value, second: ir.Value) -> bool:
    return any(pair == (first, second) for pair in _pairs(value.producer(), "Mul"))


def _half(value: ir.Value, x: ir.Value, number: int, symbols: Symbols) -> bool:
    """Whether a value is the first or the second half of the features of x."""
    node, shape = value.producer(), symbols.shape(x)
    if node is None or node.domain or node.inputs[0] is not x or shape is None or shape[-1].number is None:
        return False
    half, rank = shape[-1].number // 2, len(shape)
    if node.op_type == "Split":
        even = symbols.shapes.get(node.outputs[0], (Size.of(0),))[-1].number == half and len(node.outputs) == 2
        return even and node.attributes.get_int("axis", 0) % rank == rank - 1 and node.outputs[number] is value
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    starts, ends, axes = (symbols.integers(each) for each in node.inputs[1:4])
    steps = symbols.integers(node.inputs[4]) if len(node.inputs) > 4 else (Size.of(1),)
    if not starts or not ends or not axes or steps != (Size.of(1),) or axes[0].number is None or len(axes) > 1:
        return False
    start, end = starts[0].number, ends[0].number
    return axes[0].number % rank == rank - 1 and start == number * half and end is not None and (
        end == half if number == 0 else end >= 2 * half)


FORMS: dict[str, Callable[[ir.Node, Symbols], _Rotation | None]] = {"Add": _of_all, "Concat": _of_halves}
"""By the operator that ends it, what recognises a rotation."""
