"""Resize over positions: mode nearest picks positions, the other modes may read any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from sparsec.analysis.liveness.edit import replace_input
from sparsec.analysis.liveness.facts import Dims, Known, Mask, compact, dims, every, some, unknown, where_known
from sparsec.analysis.liveness.node import constant_of, is_computed
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.select import Index, picked, unpicked
from sparsec.analysis.liveness.slabs import Cut, Relation, tie
from sparsec.graph.nodes import operand, optional

POSITION_MODES = ("coordinate_transformation_mode", "nearest_mode")


def _shapes(node: ir.Node) -> tuple[Dims, Dims]:
    return dims(operand(node, 0)), dims(node.outputs[0])


def _nearest(node: ir.Node) -> dict[int, Index] | None:
    """By axis, the position that every output position copies; None if the mode mixes several."""
    source, target = _shapes(node)
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest" or None in source[2:]:
        return None
    scales = constant_of(optional(node, 2))
    result: dict[int, Index] = {}
    for axis in range(2, len(source)):
        length, size = source[axis] or 0, target[axis] or 0
        factor = scales[axis] if scales is not None and scales.size == len(source) else size / length
        modes = {mode: node.attributes[mode].as_string() for mode in POSITION_MODES if mode in node.attributes}
        single = onnx.helper.make_node("Resize", ["x", "", "scale"], ["y"], mode="nearest", **modes)
        feeds = {"x": np.arange(length, dtype=np.float32), "scale": np.array([factor], np.float32)}
        (index,) = ReferenceEvaluator(single, opsets={"": 19}).run(None, feeds)
        if len(index) != size:
            return None
        result[axis] = np.asarray(index, np.int64)
    return result


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Interpolating the same value gives that value."""
    x, picks, (source, _) = fact(inputs, 0), _nearest(node), _shapes(node)
    if picks is not None:
        return [where_known(picked(x.mask, picks, source), picked(x.value, picks, source))]
    if any(length > 1 for length in x.value.shape[2:]):
        return [unknown(node.outputs[0])]
    return [where_known(every(x.mask, range(2, x.mask.ndim), keepdims=True), x.value)]


def backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Needed where a copy is; other modes may read any position."""
    picks, (source, _) = _nearest(node), _shapes(node)
    mask = unpicked(needed[0], picks, source) if picks is not None else \
        some(needed[0], range(2, needed[0].ndim), keepdims=True)
    return [compact(mask), *(np.ones(1, bool) for _ in node.inputs[1:])]


def couple(node: ir.Node) -> Iterator[Relation]:
    """X and Y lose the same slabs of the batch and of the channels; the other axes nothing."""
    for axis in (0, 1):
        yield from tie((operand(node, 0), axis), (node.outputs[0], axis))


def rewrite(node: ir.Node, cut: Cut) -> None:
    """The number of channels among the constant sizes."""
    sizes, lost = constant_of(optional(node, 3)), cut.get(node.outputs[0], {})
    if sizes is not None and len(sizes) == len(_shapes(node)[0]) and lost:
        replace_input(node, 3, np.array([int(lost[i].sum()) if i in lost else n for i, n in enumerate(sizes.tolist())]))


def reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """Only the positions of an image, with constant sizes, and never beyond it."""
    source, target = _shapes(node)
    if len(source) < 3 or source[:2] != target[:2]:
        return "it resizes more than positions"
    outside = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return "it extrapolates" if outside else "its sizes are computed" if is_computed(node, 3) else None


RULES = dict.fromkeys(("Resize", "Upsample"), Rule(forward, backward, couple, rewrite, reject))
