"""Which operators on codes of quantised tensors speak the layouts of images and tokens.

What has no kernel on codes stays row-major, where its lowering writes it out in ONNX's operators.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from sparsec.graph.codes import CODE_TYPES, FEW_ROWS, joins_residual, weight_fits
from sparsec.graph.nodes import operand
from sparsec.graph.operators import products
from sparsec.passes.layout.roles import (
    KINDS,
    Kind,
    Role,
    Seed,
    given,
    is_static,
    shape_of,
    token_count,
)


def _is_real(node: ir.Node) -> bool:
    return node.attributes.get_string("y_type", "uint8") == "float32"


def _dynamic(node: ir.Node) -> bool:
    return bool(given(node, products.X_SCALE, products.X_ZERO_POINT))


def _residual(node: ir.Node) -> tuple[int, ...]:
    """The position of a residual that is computed."""
    return tuple(i for i in given(node, products.RESIDUAL) if operand(node, i).const_value is None)


def _conv(node: ir.Node, _kinds: KINDS, _lanes: int) -> Role | None:
    x = operand(node, 0)
    plain = not is_static(x) or _is_real(node) or _dynamic(node) or not weight_fits(node)
    if plain or not joins_residual(node):
        return None
    group, outputs = node.attributes.get_int("group", 1), shape_of(node.inputs[1])[0]
    if group == outputs > 1 and shape_of(x)[1] != outputs:
        return None
    return Role(Kind.IMAGE, (0, *_residual(node)))


def _linear(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    x = operand(node, 0)
    few = token_count(shape_of(x)) <= FEW_ROWS
    if few or kinds.get(x) is Kind.IMAGE or not weight_fits(node) or not joins_residual(node):
        return None
    return Role(Kind.TOKENS, (0, *_residual(node)))


def _binary(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    """Two tensors that lie alike, or one and a code for each of its channels or features, row-major."""
    shapes = [shape_of(value) for value in node.inputs]
    whole = shapes.index(shape_of(node.outputs[0])) if shape_of(node.outputs[0]) in shapes else None
    if whole is None:
        return None
    if shapes[0] != shapes[1]:
        kind = kinds.get(operand(node, whole))
        return Role(kind, (whole,)) if kind is not None and single(kind, shapes[whole], shapes[1 - whole]) else None
    kind = kinds.get(operand(node, 0)) or kinds.get(operand(node, 1))
    computed = all(value is not None and value.const_value is None for value in node.inputs)
    return Role(kind, (0, 1)) if kind is not None and computed else None


def single(kind: Kind, shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a tensor that broadcasts to a shape has one code for each channel of one image, or each feature."""
    aligned = (*[1] * (len(shape) - len(other)), *other)
    if kind is Kind.TOKENS:
        return math.prod(aligned[:-1]) == 1
    return shape[0] == 1 and len(aligned) > 1 and math.prod(aligned) == aligned[1]


def _pool(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    x = operand(node, 0)
    codes = node.outputs[0].dtype in CODE_TYPES and len(node.outputs) == 1
    fine = codes and len(shape_of(x)) == 4 and kinds.get(x) is Kind.IMAGE
    return Role(Kind.IMAGE, (0,)) if fine else None


def _average(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    """The mean of whole images, whose codes or numbers leave row-major."""
    x = operand(node, 0)
    whole = tuple(node.attributes.get_ints("kernel_shape", ())) == shape_of(x)[2:]
    padded = any(node.attributes.get_ints("pads", (0,)))
    return Role(Kind.IMAGE, (0,), output=False) if kinds.get(x) is Kind.IMAGE and whole and not padded else None


def _concat(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    rank = len(shape_of(node.outputs[0]))
    images = any(kinds.get(value) is Kind.IMAGE for value in node.inputs if value is not None)
    fine = images and node.outputs[0].dtype in CODE_TYPES and node.attributes.get_int("axis") in (1, 1 - rank)
    return Role(Kind.IMAGE, tuple(range(len(node.inputs)))) if fine else None


def _reshape(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    """Other numbers for the same tokens."""
    x = operand(node, 0)
    alike = shape_of(x)[-1:] == shape_of(node.outputs[0])[-1:] and token_count(shape_of(node.outputs[0])) > 0
    return Role(Kind.TOKENS, (0,)) if kinds.get(x) is Kind.TOKENS and alike and x.dtype in CODE_TYPES else None


def _lookup(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    kind = kinds.get(operand(node, 0))
    return Role(kind, (0,)) if kind is not None and node.outputs[0].dtype in CODE_TYPES else None


def _quantize(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    """Tokens to codes and back, with one scale that is constant."""
    x = operand(node, 0)
    types = (x.dtype, node.outputs[0].dtype)
    fine = all(each in (ir.DataType.FLOAT, *CODE_TYPES) for each in types)
    scalar = all(value is None or (value.const_value is not None and not any(d != 1 for d in shape_of(value)))
                 for value in node.inputs[1:])
    return Role(Kind.TOKENS, (0,)) if kinds.get(x) is Kind.TOKENS and fine and scalar else None


def _quantize_dynamically(node: ir.Node, kinds: KINDS, _lanes: int) -> Role | None:
    return Role(Kind.TOKENS, (0,)) if kinds.get(operand(node, 0)) is Kind.TOKENS else None


def _attention(node: ir.Node, _kinds: KINDS, _lanes: int) -> Role | None:
    """Heads of whole fours of features, with a mask by keys alone."""
    shape, heads = shape_of(node.inputs[0]), node.attributes.get_int("heads", 1)
    mask = shape_of(node.inputs[3]) if given(node, 3) else None
    keyed = mask is None or (mask[-1:] == shape_of(node.inputs[1])[1:2] and math.prod(mask[-3:-1]) == 1)
    return Role(Kind.TOKENS, (0, 1, 2)) if shape[-1] // heads % 4 == 0 and keyed else None


SEEDS: dict[str, Seed] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    "DynamicQuantizeLinear": _quantize_dynamically,
    "sparsec::QAttention": _attention,
    "sparsec::QConv": _conv,
    "sparsec::QMatMul": _linear,
    "sparsec::QBinary": _binary,
    "sparsec::QAveragePool": _average,
    "sparsec::Lookup": _lookup,
}
RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
JOINERS: dict[str, Seed] = {"MaxPool": _pool, "Concat": _concat, **dict.fromkeys(RESHAPES, _reshape)}
