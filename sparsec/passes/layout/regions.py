"""Which operators speak which physical layout, and on which of their inputs.

A region grows from its seeds (convolutions for images; linear layers, layer norms and attention for tokens) through the
operators that can follow in the same layout. Everything else stays row-major.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.nodes import operand, operator_of
from sparsec.passes.layout import quantized
from sparsec.passes.layout.quantized import RESHAPES
from sparsec.passes.layout.roles import KINDS, Kind, Role, Seed, given, is_static, shape_of, token_count

STEM_CHANNELS = 4  # a convolution of so few channels reads row-major images itself


def assign(model: ir.Model, lanes: int) -> dict[ir.Node, Role]:
    """The role of every node of a region, in topological order; nodes that are not in it stay row-major."""
    roles: dict[ir.Node, Role] = {}
    kinds: dict[ir.Value, Kind] = {}
    for node in model.graph:
        role = _role(node, kinds, lanes)
        if role is not None:
            roles[node] = role
            if role.output:
                kinds[node.outputs[0]] = role.kind
    return roles


def _role(node: ir.Node, kinds: KINDS, lanes: int) -> Role | None:
    operator = operator_of(node)
    if not all(is_static(output) for output in node.outputs):
        return None
    if operator in quantized.SEEDS:
        return quantized.SEEDS[operator](node, kinds, lanes)
    if any(output.dtype != ir.DataType.FLOAT for output in node.outputs):
        joiner = quantized.JOINERS.get(operator)
        return None if joiner is None else joiner(node, kinds, lanes)
    if operator in SEEDS:
        return SEEDS[operator](node, kinds, lanes)
    present = {kinds.get(value, Kind.PLAIN) for value in node.inputs if value is not None} - {Kind.PLAIN}
    for kind, joiners in ((Kind.IMAGE, IMAGE_JOINERS), (Kind.TOKENS, TOKEN_JOINERS)):
        if present == {kind} and operator in joiners:
            return joiners[operator](node, kinds)
    return None


def _conv(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    x = operand(node, 0)
    if not is_static(x):
        return None
    return Role(Kind.IMAGE, given(node, 3) if _is_stem(node, kinds) else given(node, 0, 3))


def _is_stem(node: ir.Node, kinds: KINDS) -> bool:
    """Whether a convolution of a row-major image has few channels, and no dilation, groups or residual."""
    x = operand(node, 0)
    plain = kinds.get(x, Kind.PLAIN) is Kind.PLAIN and len(shape_of(x)) == 4 and shape_of(x)[1] <= STEM_CHANNELS
    dilated = any(d != 1 for d in node.attributes.get_ints("dilations", ()))
    return plain and not dilated and node.attributes.get_int("group", 1) == 1 and not given(node, 3)


def _linear(node: ir.Node, kinds: KINDS, lanes: int) -> Role | None:
    x = operand(node, 0)
    if node.attributes.get_string("side", "right") != "right" or kinds.get(x) is Kind.IMAGE:
        return None
    return Role(Kind.TOKENS, given(node, 0, 3)) if token_count(shape_of(x)) >= lanes else None


def _layer_norm(node: ir.Node, kinds: KINDS, lanes: int) -> Role | None:
    x, rank = operand(node, 0), len(shape_of(node.inputs[0]))
    last_axis = node.attributes.get_int("axis", -1) in (-1, rank - 1)
    fine = last_axis and len(node.outputs) == 1 and token_count(shape_of(x)) >= lanes and kinds.get(x) is not Kind.IMAGE
    return Role(Kind.TOKENS, (0,)) if fine else None


def _attention(_node: ir.Node, _kinds: KINDS, _lanes: int) -> Role | None:
    return Role(Kind.TOKENS, (0, 1, 2))


def _activation(node: ir.Node, _kinds: KINDS) -> Role | None:
    return Role(Kind.IMAGE, (0,)) if ACTIVATIONS[node.op_type](node) is not None else None


def _same_image(_node: ir.Node, _kinds: KINDS) -> Role | None:
    return Role(Kind.IMAGE, (0,))


def _binary_image(node: ir.Node, kinds: KINDS) -> Role | None:
    """Two images, or an image and a number for each of its channels (Add and Mul only, where the order is free)."""
    shape, shapes = shape_of(node.outputs[0]), [shape_of(value) for value in node.inputs]
    if shapes[0] == shapes[1]:
        return Role(Kind.IMAGE, (0, 1))
    images = tuple(i for i, value in enumerate(node.inputs) if value is not None and kinds.get(value) is Kind.IMAGE)
    if node.op_type not in ("Add", "Mul") or len(images) != 1 or shapes[images[0]] != shape:
        return None
    per_channel = (*shape[1:2], *[1] * len(shape[2:]))
    factors = shapes[1 - images[0]]
    return Role(Kind.IMAGE, images) if factors in (per_channel, (1, *per_channel), (*shape[:1], *per_channel)) else None


def _binary_tokens(node: ir.Node, _kinds: KINDS) -> Role | None:
    return Role(Kind.TOKENS, (0, 1)) if shape_of(node.inputs[0]) == shape_of(node.inputs[1]) else None


def _reshape_tokens(node: ir.Node, _kinds: KINDS) -> Role | None:
    """Other numbers for the same tokens."""
    before, after = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    return Role(Kind.TOKENS, (0,)) if token_count(after) and before[-1] == after[-1] else None


def _pool(node: ir.Node, _kinds: KINDS) -> Role | None:
    return Role(Kind.IMAGE, (0,)) if len(node.outputs) == 1 and len(shape_of(node.inputs[0])) == 4 else None


def _global_pool(_node: ir.Node, _kinds: KINDS) -> Role | None:
    return Role(Kind.IMAGE, (0,), output=False)


def _concat(node: ir.Node, _kinds: KINDS) -> Role | None:
    rank = len(shape_of(node.outputs[0]))
    if node.attributes.get_int("axis") not in (1, 1 - rank):
        return None
    return Role(Kind.IMAGE, tuple(range(len(node.inputs))))


def _scaled_concat(node: ir.Node, _kinds: KINDS, _lanes: int) -> Role | None:
    return Role(Kind.IMAGE, tuple(range(2, len(node.inputs))))


SEEDS: dict[str, Seed] = {
    "sparsec::Conv": _conv,
    "sparsec::ScaledConcat": _scaled_concat,
    "sparsec::MatMul": _linear,
    "sparsec::Attention": _attention,
    "LayerNormalization": _layer_norm,
}
BINARY = ("Add", "Sub", "Mul", "Div")
IMAGE_JOINERS: dict[str, Callable[[ir.Node, KINDS], Role | None]] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(BINARY, _binary_image),
    "sparsec::FakeQuantize": _same_image,
    "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _global_pool, "Concat": _concat,
}
TOKEN_JOINERS: dict[str, Callable[[ir.Node, KINDS], Role | None]] = {
    **dict.fromkeys(BINARY, _binary_tokens),
    **dict.fromkeys(RESHAPES, _reshape_tokens),
}
