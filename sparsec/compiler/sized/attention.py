"""softmax(scale Q K^T + mask) V on split heads, at sizes that only the run tells, becomes one node of one kernel.

Keys and values that are repeated for the queries of a group, by Unsqueeze, Expand and Reshape, are read as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.symbols.known import Shape, Symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.codes import Levels, rounding
from sparsec.graph.constants import add_constant, constant, scalar
from sparsec.graph.nodes import node_name, operand
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.sized import MASK, ROUND, SCALE, WEIGHTS, Attention
from sparsec.passes import rewrite

ATTENTION = "SizedAttention"
"""The operator: (Q, K, V, mask, levels) -> Y, all (batch, heads, tokens, features) and the last two perhaps absent; its
attributes are `scale`, and the features of keys (`depth`) and of values (`width`). Where scores or weights are rounded
to codes, `steps` says what is done to the products, and `levels` are the numbers of these steps: see
`kernels.cpu.tensors.sized_attention`."""

HEADS = 4  # dimensions of a tensor of split heads
Takes = Callable[[Attention], bool]
"""Whether there is a kernel."""


@dataclass(frozen=True)
class _Scores:
    """The scores in front of a softmax: what is done to left @ right, in order.

    Attributes:
        left, right: the factors.
        steps: factors, roundings, and None for the addition of the mask.
        mask: what is added.

    """

    left: ir.Value
    right: ir.Value
    steps: tuple[float | Levels | None, ...]
    mask: ir.Value | None

    @property
    def scale(self) -> float:
        """All factors in one."""
        return math.prod(step for step in self.steps if isinstance(step, float))


def fuse_attention(graph: ir.Graph, symbols: Symbols, takes: Takes) -> int:
    """Fuse every attention that is recognised and has a kernel, in place; returns how many."""
    return sum(_fuse(graph, node, symbols, takes) for node in list(graph)
               if node.op_type == "Softmax" and not node.domain)


def _fuse(graph: ir.Graph, softmax: ir.Node, symbols: Symbols, takes: Takes) -> bool:
    shape = symbols.shape(softmax.outputs[0])
    weights, levels = _rounded(softmax.outputs[0])
    mix, scores = rewrite.only_use(weights), _scores(softmax.inputs[0])
    if (shape is None or len(shape) != HEADS or softmax.attributes.get_int("axis", -1) not in (-1, HEADS - 1)
            or scores is None or mix is None or mix.op_type != "MatMul" or mix.inputs[0] is not weights):
        return False
    keys, values = _transposed(scores.right, symbols) or _turned(scores.right, softmax, symbols), mix.inputs[1]
    if keys is None or values is None:
        return False
    keys, values = _before_repeats(keys, symbols), _before_repeats(values, symbols)
    if not _fits(scores, keys, values, symbols):
        return False
    rounds = levels is not None or any(isinstance(step, tuple) for step in scores.steps)
    depth, width = (symbols.shapes[value][-1].number or 0 for value in (keys, values))
    if not takes(Attention(depth, width, scores.scale, (ROUND,) if rounds else ())):
        return False
    inputs: list[ir.Value | None] = [scores.left, keys, values, *([scores.mask] if scores.mask is not None else [])]
    attributes = {"depth": depth, "width": width}
    if not rounds:
        node = ir.node(ATTENTION, inputs, {"scale": scores.scale, **attributes}, domain=DOMAIN, name=mix.name)
    else:
        steps, numbers = _written(scores, levels)
        told = add_constant(graph, f"{node_name(mix)}.levels", numbers)
        symbols.shapes[told] = (Size.of(len(numbers)),)
        inputs += [None] * (HEADS - len(inputs)) + [told]
        node = ir.node(ATTENTION, inputs, {"scale": 1.0, "steps": steps, **attributes}, domain=DOMAIN, name=mix.name)
    old, new = mix.outputs[0], node.outputs[0]
    new.type, symbols.shapes[new] = old.type, symbols.shapes[old]
    graph.insert_before(mix, node)
    rewrite.take_over(new, old)
    graph.remove(mix, safe=True)
    return True


def _rounded(value: ir.Value) -> tuple[ir.Value, Levels | None]:
    """A value rounded to codes, and which, where nothing else reads it; else the value."""
    quantize = rewrite.only_use(value)
    back = None if quantize is None else rewrite.only_use(quantize.outputs[0])
    found = None if back is None or not back.outputs else rounding(back.outputs[0])
    return (value, None) if back is None or found is None or found[0] is not value else (back.outputs[0], found[1])


def _scores(value: ir.Value | None) -> _Scores | None:
    """Reads the scores upwards from the softmax; every value on the way has no other reader.

    A mask is added last where nothing is rounded.
    """
    steps, mask = list[float | Levels | None](), None
    while value is not None and rewrite.only_use(value) is not None:
        if (found := rounding(value)) is not None and rewrite.only_use(operand(_producer(value), 0)) is not None:
            value = found[0]
            steps.insert(0, found[1])
            continue
        node = value.producer()
        if node is None or node.domain or len(node.inputs) != 2 or None in node.inputs:
            return None
        left, right = (each for each in node.inputs if each is not None)
        if node.op_type == "MatMul":
            (left, first), (right, second) = _unscaled(left), _unscaled(right)
            rounds = any(isinstance(step, tuple) for step in steps)
            if mask is not None and not rounds and steps[-1] is not None:
                return None
            return _Scores(left, right, (first * second, *steps), mask)
        if node.op_type == "Add" and mask is None:
            products = [leads_to_product(each) for each in (left, right)]
            if products.count(True) != 1:
                return None
            value, mask = (left, right) if products[0] else (right, left)
            steps.insert(0, None)
        elif node.op_type in ("Mul", "Div") and (factor := scalar(right)) is not None:
            value = left
            steps.insert(0, factor if node.op_type == "Mul" else 1 / factor)
        elif node.op_type == "Mul" and (factor := scalar(left)) is not None:
            value = right
            steps.insert(0, factor)
        else:
            return None
    return None


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _written(scores: _Scores, weights: Levels | None) -> tuple[list[str], np.ndarray]:
    """The steps from products to weights, and their numbers."""
    steps, numbers, factor = list[str](), list[float](), 1.0
    for step in scores.steps:
        if isinstance(step, float):
            factor *= step
        elif step is not None:
            steps.append(ROUND)
            numbers += levels_of(step, factor)
            factor = 1.0
        else:
            steps += [*([] if factor == 1.0 else [SCALE]), MASK]
            numbers += [] if factor == 1.0 else [factor]
            factor = 1.0
    if factor != 1.0:
        steps.append(SCALE)
        numbers.append(factor)
    if weights is not None:
        steps.append(WEIGHTS)
        numbers += levels_of(weights, 1.0)
    return steps, np.array(numbers, np.float32)


def levels_of(levels: Levels, factor: float) -> list[float]:
    """The numbers of a rounding: what makes a value whole, the least and the largest then, and what undoes it."""
    scale, zero, dtype = levels
    info = np.iinfo(dtype)
    return [factor / scale, float(info.min - zero), float(info.max - zero), scale]


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """An operand in front of a constant factor, as exporters give both of them the root of the scale."""
    node = value.producer()
    if node is None or node.domain or node.op_type not in ("Mul", "Div") or rewrite.only_use(value) is None:
        return value, 1.0
    left, right = node.inputs
    if left is not None and (factor := scalar(right)) is not None:
        return left, factor if node.op_type == "Mul" else 1 / factor
    if right is not None and node.op_type == "Mul" and (factor := scalar(left)) is not None:
        return right, factor
    return value, 1.0


def leads_to_product(value: ir.Value) -> bool:
    """Whether a value is a product of activations, perhaps times a constant, and rounded."""
    node = _unrounded(value).producer()
    while node is not None and node.op_type in ("Mul", "Div") and node.inputs[0] is not None:
        first, second = node.inputs
        factor = first if scalar(second) is not None or second is None else second
        node = None if factor is None else _unrounded(factor).producer()
    return node is not None and node.op_type == "MatMul" and not node.domain


def _unrounded(value: ir.Value) -> ir.Value:
    found = rounding(value)
    return value if found is None else found[0]


def _transposed(value: ir.Value, symbols: Symbols) -> ir.Value | None:
    """The keys whose last two dimensions a value has exchanged."""
    node = value.producer()
    if node is None or node.op_type != "Transpose":
        return None
    order = list(node.attributes.get_ints("perm", []))
    source = node.inputs[0]
    if order == [0, 1, 3, 2]:
        return source
    if source is None or len(order) != HEADS or node.graph is None:
        return None
    turned = ir.node("Transpose", [source], {"perm": [order[0], order[1], order[3], order[2]]})
    shape = symbols.shapes[value]
    out = turned.outputs[0]
    out.type, symbols.shapes[out] = value.type, (shape[0], shape[1], shape[3], shape[2])
    out.name = f"{value.name}.keys"
    node.graph.insert_before(node, turned)
    return out


def _turned(value: ir.Value, before: ir.Node, symbols: Symbols) -> ir.Value | None:
    """Keys with their features last, where no Transpose put them elsewhere, as of one token or of a product."""
    shape = symbols.shape(value)
    if shape is None or len(shape) != HEADS or before.graph is None:
        return None
    node = ir.node("Transpose", [value], {"perm": [0, 1, 3, 2]})
    out = node.outputs[0]
    out.name, out.type, symbols.shapes[out] = f"{value.name}.keys", value.type, (shape[0], shape[1], shape[3], shape[2])
    before.graph.insert_before(before, node)
    return out


def _before_repeats(value: ir.Value, symbols: Symbols) -> ir.Value:
    """Heads (batch, groups, keys, depth) in front of their repetition for the heads of each group; else the value."""
    chain, node = [], value.producer()
    if node is not None and node.op_type == "Gather" and not node.domain:
        return _before_gather(node, value, symbols)
    for operator in ("Reshape", "Expand", "Unsqueeze"):
        if node is None or node.op_type != operator or node.domain or node.inputs[0] is None:
            return value
        chain.append(node)
        node = node.inputs[0].producer()
    source = chain[-1].inputs[0]
    shapes = [symbols.shape(each) for each in (source, chain[2].outputs[0], chain[1].outputs[0], value)]
    if source is None or any(shape is None for shape in shapes):
        return value
    own, single, wide, whole = (shape for shape in shapes if shape is not None)
    if len(own) != HEADS or len(wide) != HEADS + 1 or len(whole) != HEADS:
        return value
    batch, groups, keys, depth = own
    repeated = (single == (batch, groups, Size.of(1), keys, depth) and wide == (batch, groups, wide[2], keys, depth)
                and whole == (batch, groups * wide[2], keys, depth))
    return source if repeated else value


def _before_gather(node: ir.Node, value: ir.Value, symbols: Symbols) -> ir.Value:
    """The heads that a Gather repeats, each as often as the others; else the value."""
    source, index = node.inputs[0], constant(node.inputs[1])
    shape = symbols.shape(source)
    if (source is None or index is None or shape is None or len(shape) != HEADS or not shape[1].number
            or node.attributes.get_int("axis", 0) != 1 or index.size % shape[1].number):
        return value
    repeated = np.arange(shape[1].number).repeat(index.size // shape[1].number)
    return source if np.array_equal(index, repeated) else value


def _fits(scores: _Scores, keys: ir.Value, values: ir.Value, symbols: Symbols) -> bool:
    """Whether the kernel takes these operands."""
    shapes = [symbols.shape(value) for value in (scores.left, keys, values)]
    if any(shape is None or len(shape) != HEADS for shape in shapes):
        return False
    if any(value.dtype not in (None, ir.DataType.FLOAT) for value in (scores.left, keys, values, scores.mask)
           if value is not None):
        return False
    q, k, v = (shape for shape in shapes if shape is not None)
    heads, groups = q[1].number, k[1].number
    if not heads or not groups or heads % groups or None in (q[3].number, v[3].number):
        return False
    same = q[0] == k[0] == v[0] and k[1] == v[1] and k[2] == v[2] and q[3] == k[3]
    return same and _is_mask(scores.mask, q, symbols)


def _is_mask(mask: ir.Value | None, q: Shape, symbols: Symbols) -> bool:
    """Whether a mask is spread over the scores, and does not make them larger.

    Whatever its last size is called, as the total of a cache is, runs have as many as there are keys, or one: the
    product with the values takes no other.
    """
    if mask is None:
        return True
    shape = symbols.shape(mask)
    return shape is not None and len(shape) <= HEADS and all(
        size in (each, Size.of(1)) for size, each in zip(reversed(shape[:-1]), (q[2], q[1], q[0]), strict=False))
