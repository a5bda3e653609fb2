"""Operators that move whole tensors: Transpose, Concat, Expand, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness import elementwise, reshape
from sparsec.analysis.liveness.facts import Array, Dims, Known, Mask, aligned, dims, gathered, spread, where_known
from sparsec.analysis.liveness.node import constant_of, name
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Cut, Relation, freeze, select, tie
from sparsec.graph.nodes import operand


def _permutation(node: ir.Node) -> list[int]:
    rank = len(dims(operand(node, 0)))
    return [int(axis) for axis in node.attributes.get_ints("perm", list(range(rank))[::-1])]


def transpose_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Facts of Y: mask and values with the axes of X permuted."""
    x, order = fact(inputs, 0), _permutation(node)
    return [Known(x.mask.transpose(order), x.value.transpose(order))]


def transpose_backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """What of X is needed: the mask of Y with its axes permuted back."""
    return [needed[0].transpose(np.argsort(_permutation(node)))]


def transpose_couple(node: ir.Node) -> Iterator[Relation]:
    """Each axis keeps its slabs."""
    for axis, source in enumerate(_permutation(node)):
        yield from tie((operand(node, 0), source), (node.outputs[0], axis))


def _concat_axis(node: ir.Node) -> int:
    return int(node.attributes.get_int("axis", 0)) % len(dims(operand(node, 0)))


def _parts(node: ir.Node) -> list[tuple[ir.Value, int, int]]:
    """The inputs of Concat with their first and last + 1 slab of the output."""
    axis, start, parts = _concat_axis(node), 0, []
    for index in range(len(node.inputs)):
        value = operand(node, index)
        length = dims(value)[axis] or 0
        parts.append((value, start, start + length))
        start += length
    return parts


def concat_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """The inputs' facts one after the other."""
    axis = _concat_axis(node)

    def joined(arrays: list[Array]) -> Array:
        full = [spread(array, [axis], dims(part)) for array, (part, _, _) in zip(arrays, _parts(node), strict=True)]
        others = np.broadcast_shapes(*(array.take([0], axis).shape for array in full if array.shape[axis]))
        shapes = [(*others[:axis], array.shape[axis], *others[axis + 1:]) for array in full]
        return np.concatenate([np.broadcast_to(array, shape) for array, shape in zip(full, shapes, strict=True)], axis)

    facts = [fact(inputs, index) for index in range(len(inputs))]
    return [where_known(joined([part.mask for part in facts]), joined([part.value for part in facts]))]


def concat_backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Each input's part of the output."""
    axis = _concat_axis(node)
    if needed[0].shape[axis] == 1:
        return [needed[0] for _ in node.inputs]
    return [needed[0].take(np.arange(start, end), axis) for _, start, end in _parts(node)]


def concat_couple(node: ir.Node) -> Iterator[Relation]:
    """An input's slabs are the output's; one that loses all of them leaves the operator."""
    axis, out = _concat_axis(node), node.outputs[0]
    for value, start, end in _parts(node):
        yield from select((out, axis), (value, axis), np.arange(start, end))
        for other in range(len(dims(out))):
            if other != axis:
                yield from tie((value, other), (out, other))


def concat_rewrite(node: ir.Node, cut: Cut) -> None:
    """Leaves out the inputs that have lost everything."""
    axis = _concat_axis(node)
    left = [v for v in node.inputs if v is None or axis not in cut.get(v, {}) or cut[v][axis].any()]
    if left and len(left) < len(node.inputs):
        for index, value in enumerate(left):
            node.replace_input_with(index, value)
        node.resize_inputs(len(left))


def concat_reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """The places of the inputs in the output must be known."""
    symbolic = any(value is None or dims(value)[_concat_axis(node)] is None for value in node.inputs)
    return "it joins symbolic dimensions" if symbolic else None


def expand_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Facts of Y: those of X with axes of 1 in front, which broadcast over the copies."""
    x, rank = fact(inputs, 0), len(dims(node.outputs[0]))
    return [Known(aligned(x.mask, rank), aligned(x.value, rank))]


def expand_backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Needed where a copy is."""
    return [gathered(needed[0], dims(operand(node, 0))), np.ones(1, bool)]


def expand_couple(node: ir.Node) -> Iterator[Relation]:
    """Axes that are not expanded pass, if the target shape can be rewritten."""
    out = node.outputs[0]
    if constant_of(node.inputs[1]) is None:
        yield from freeze([(out, axis) for axis in range(len(dims(out)))], f"{name(node)} computes its shape")
    for axis, target in elementwise.broadcast_axes(operand(node, 0), out):
        yield from tie((operand(node, 0), axis), (out, target))


Step = tuple[tuple[int, ...], tuple[int, ...]]  # a shape to split the axes into, and a permutation of it


def _steps(node: ir.Node) -> Step:
    """The block move as reshape, transpose, reshape (ONNX's definition of the operators)."""
    block = int(node.attributes["blocksize"].as_int())
    n, c, h, w = (int(dim or 0) for dim in dims(operand(node, 0)))
    if node.op_type == "SpaceToDepth":
        return (n, c, h // block, block, w // block, block), (0, 3, 5, 1, 2, 4)
    if node.attributes.get_string("mode", "DCR") == "DCR":
        return (n, block, block, c // block ** 2, h, w), (0, 3, 4, 1, 5, 2)
    return (n, c // block ** 2, block, block, h, w), (0, 1, 4, 2, 5, 3)


def block_forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """The elements' facts move with them."""
    x, (shape, order) = fact(inputs, 0), _steps(node)
    source, target = dims(operand(node, 0)), dims(node.outputs[0])

    def moved(array: Array) -> Array:
        inner = reshape.rearranged(array, source, shape).transpose(order)
        return reshape.rearranged(inner, tuple(shape[axis] for axis in order), target)

    return [where_known(moved(x.mask), moved(x.value))]


def block_backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """What of X is needed: every element of Y's mask where it came from."""
    shape, order = _steps(node)
    inner = reshape.rearranged(needed[0], dims(node.outputs[0]), tuple(shape[axis] for axis in order))
    return [reshape.rearranged(inner.transpose(np.argsort(order)), shape, dims(operand(node, 0)))]


def block_couple(node: ir.Node) -> Iterator[Relation]:
    """Channels and positions stay: they become one another."""
    yield from tie((operand(node, 0), 0), (node.outputs[0], 0))


def block_reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """Blocks of symbolic dimensions are not followed."""
    shape: Dims = dims(operand(node, 0))
    return "symbolic dimensions" if None in shape else None


BLOCK = Rule(block_forward, block_backward, block_couple, reject=block_reject)
RULES = {
    "Transpose": Rule(transpose_forward, transpose_backward, transpose_couple),
    "Concat": Rule(concat_forward, concat_backward, concat_couple, concat_rewrite, concat_reject),
    "Expand": Rule(expand_forward, expand_backward, expand_couple, reshape.rewrite),
    "DepthToSpace": BLOCK,
    "SpaceToDepth": BLOCK,
}
