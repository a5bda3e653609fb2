"""Attention whose scores, weights and output are quantised becomes one sparsec::QAttention on unsplit projections.

It stands as QBatchMatMul of queries and keys, the addition of a mask of codes or nothing, DequantizeLinear, Softmax,
QuantizeLinear, QBatchMatMul with the values; see `passes.split_heads` for how heads are split and merged. A factor on
the scores that leaves their codes alone has left nothing between the two but what the codes stand for.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sparsec.graph.codes import CODE_TYPES
from sparsec.graph.nodes import node_name
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.quantized import quantization
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite, split_heads
from sparsec.passes.movement import origins

Attributes = dict[str, Any]



def run(graph: ir.Graph) -> int:
    """Fuses in place; returns how often."""
    return sum(_fuse(node) for node in list(graph) if node.op_type == "Softmax" and not node.domain)


def _fuse(softmax: ir.Node) -> bool:
    shape = static_shape(softmax.outputs[0])
    if shape is None or len(shape) != 4 or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return False
    found = _scores(softmax)
    weights = rewrite.only_use(softmax.outputs[0])
    p = quantization(weights, "QuantizeLinear")
    if found is None or weights is None or p is None:
        return False
    product, mask, attributes = found
    mix = rewrite.only_use(weights.outputs[0])
    if mix is None or not _is(mix, "QBatchMatMul") or mix.inputs[0] is not weights.outputs[0]:
        return False
    given, meaning = mix.attributes, {"p_scale": p[0], "p_zero_point": p[1]}
    if given.get_string("y_type", "uint8") == "float32" or _of(mix, "a", "p") != meaning:
        return False
    attributes |= {**meaning, "p_type": p[2], **_of(mix, "b", "v"),
                   **{name: given[name].value for name in ("y_type", "y_scale", "y_zero_point", "low", "high")
                      if name in given}}
    return _replace(mix, product, mask, attributes, (shape[0], shape[1]))


def _is(node: ir.Node | None, op_type: str) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type == op_type


def _of(node: ir.Node, letter: str, into: str) -> Attributes:
    """Scale and zero point of an operand or result, under another letter."""
    return {f"{into}_scale": node.attributes.get_float(f"{letter}_scale", 1.0),
            f"{into}_zero_point": node.attributes.get_int(f"{letter}_zero_point", 0)}


def _result(node: ir.Node, into: str) -> Attributes | None:
    """The quantisation of a result that nothing clamps, under another letter."""
    y_type = node.attributes.get_string("y_type", "uint8")
    info = {"uint8": (0, 255), "int8": (-128, 127)}.get(y_type)
    if info is None or node.attributes.get_int("low", -128) > info[0] or node.attributes.get_int("high", 255) < info[1]:
        return None
    return {**_of(node, "y", into), f"{into}_type": y_type}


def _scores(softmax: ir.Node) -> tuple[ir.Node, ir.Value | None, Attributes] | None:
    """The product of queries and keys in front of a softmax, the mask of codes, and the attributes up to there."""
    node = None if softmax.inputs[0] is None else softmax.inputs[0].producer()
    meaning = quantization(node, "DequantizeLinear")
    if meaning is None or node is None or node.inputs[0] is None:
        return None
    t = dict(zip(("t_scale", "t_zero_point", "t_type"), meaning, strict=True))
    codes, mask, attributes = node.inputs[0], None, Attributes()
    before = codes.producer()
    if before is not None and _is(before, "QBinary"):
        split = _masked(before)
        if split is None or any(split[2][name] != value for name, value in t.items()):
            return None
        codes, mask, attributes = split
        before = codes.producer()
    if before is None or not _is(before, "QBatchMatMul") or rewrite.only_use(codes) is None:
        return None
    s = _result(before, "s")
    if s is None:
        return None
    found = {**t, **s, **_of(before, "a", "q"), **_of(before, "b", "k")}
    if "s_scale" in attributes:  # as the addition reads the scores; the product rounds to the same codes
        found["q_scale"] *= attributes["s_scale"] / found["s_scale"]
    return before, mask, found | attributes


def _masked(add: ir.Node) -> tuple[ir.Value, ir.Value, Attributes] | None:
    """The scores and the mask of an addition, and what the mask's and the sum's codes mean."""
    t = _result(add, "t")
    if t is None or add.attributes.get_string("function") != "add" or rewrite.only_use(add.outputs[0]) is None:
        return None
    shape = static_shape(add.outputs[0])
    for index, letter in ((0, "b"), (1, "a")):
        scores, mask = add.inputs[index], add.inputs[1 - index]
        if scores is not None and mask is not None and _is(scores.producer(), "QBatchMatMul") and (
                static_shape(scores) == shape):
            return scores, mask, {**t, **_of(add, letter, "m"), **_of(add, "ab"[index], "s")}
    return None


def _replace(mix: ir.Node, product: ir.Node, mask: ir.Value | None, attributes: Attributes,
             sizes: tuple[int, int]) -> bool:
    """Puts sparsec::QAttention in the place of the mix, if queries, keys, values and output all are split heads."""
    batch, heads = sizes
    sources = ((product.inputs[0], False), (product.inputs[1], True), (mix.inputs[1], False))
    operands = [split_heads.operand(origins(value), batch, heads, transposed=transposed)
                for value, transposed in sources if value is not None and value.dtype in CODE_TYPES]
    found = [operand for operand in operands if operand is not None]
    if len(found) < len(sources) or len({operand.width for operand in found}) > 1:
        return False
    tokens, keys = ((static_shape(x.source) or ())[0 if x.sequence_first else 1] for x in found[:2])
    merged = split_heads.merged_heads(mix.outputs[0], batch, heads)
    if merged is None or not split_heads.fits(mask, (batch, heads, tokens, keys), 4):
        return False
    inputs = [split_heads.emit(mix, operand) for operand in found]
    new = ir.node("QAttention", [*inputs, *([] if mask is None else [mask])], {"heads": heads, **attributes},
                  domain=DOMAIN, name=node_name(mix))
    mix.prepend(new)
    target, sequence_first = merged
    split_heads.emit_output(mix, new.outputs[0], (batch, tokens, found[0].width), target,
                            sequence_first=sequence_first)
    return True
