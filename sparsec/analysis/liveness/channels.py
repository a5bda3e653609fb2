"""Operators with parameters per channel: BatchNormalization, (De)QuantizeLinear; and LRN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.dynamic_quantization import zeros_behind
from sparsec.analysis.liveness.facts import Array, Known, Mask, compact, dims, spread, unknown, where_known
from sparsec.analysis.liveness.node import evaluate, name
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, freeze, tie
from sparsec.graph.nodes import operand


def _axis(node: ir.Node) -> int:
    """The axis of the channels; 0 for a scalar, which has none."""
    rank = len(dims(operand(node, 0)))
    if node.op_type == "BatchNormalization":
        return min(1, rank - 1)
    return int(node.attributes.get_int("axis", 1)) % rank if rank else 0


def _per_channel(node: ir.Node, array: Array) -> Array:
    """A parameter, aligned with the input; scalars broadcast."""
    rank = len(dims(operand(node, 0)))
    return array.reshape([-1 if axis == _axis(node) else 1 for axis in range(rank)])


def _parameters(inputs: Inputs) -> list[Known]:
    return [found for found in inputs[1:] if found is not None]


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where the input is, where a normalisation's scale is zero, and where codes are the zero point."""
    x, parameters = fact(inputs, 0), _parameters(inputs)
    if node.op_type == "DequantizeLinear" and (zeros := zeros_behind(node, x)) is not None:
        return [where_known(zeros, np.zeros((1,) * zeros.ndim, unknown(node.outputs[0]).value.dtype))]
    mask = x.mask
    if node.op_type == "BatchNormalization":
        mask = mask | _per_channel(node, parameters[0].zero)
    for each in parameters:
        mask = mask & _per_channel(node, each.mask)
    if not mask.any():
        return [unknown(node.outputs[0])]
    if node.op_type != "BatchNormalization":
        shape = dims(operand(node, 0))
        full = spread(x.value, [_axis(node)] if shape else [], shape)
        value = evaluate(node, [full, *(None if f is None else f.value for f in inputs[1:])])
        return [unknown(node.outputs[0]) if value is None else where_known(mask, value)]
    scale, bias, mean, variance = (_per_channel(node, each.value).astype(np.float64) for each in parameters)
    spread_out = np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return [where_known(mask, ((x.value - mean) / spread_out * scale + bias).astype(x.value.dtype))]


def backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """Needed where the output is, unless the scale of a normalisation is zero."""
    through = needed[0]
    if node.op_type == "BatchNormalization" and inputs[1] is not None:
        through = through & ~_per_channel(node, inputs[1].zero)
    return [compact(through), *(np.ones(1, bool) for _ in node.inputs[1:])]


def couple(node: ir.Node) -> Iterator[Relation]:
    """Channels go with their parameters."""
    x, y = operand(node, 0), node.outputs[0]
    for axis in range(len(dims(x))):
        yield from tie((x, axis), (y, axis))
    for value in node.inputs[1:]:
        if value is not None and len(dims(value)) == 1 and dims(x):
            yield from tie((value, 0), (y, _axis(node)))


def reject(node: ir.Node, _inputs: Inputs) -> str | None:
    """Statistics of the batch, and scales by block, are not covered."""
    if node.attributes.get_int("training_mode", 0):
        return "training mode"
    blocked = node.op_type != "BatchNormalization" and any(
        value is not None and len(dims(value)) > 1 for value in node.inputs[1:])
    return "scales by block" if blocked else None


def lrn_forward(_node: ir.Node, inputs: Inputs) -> list[Known]:
    """LRN: zeros stay zeros; what is around a known value may still vary."""
    x = fact(inputs, 0)
    return [where_known(x.zero, np.zeros((1,) * x.mask.ndim, x.value.dtype))]


def lrn_backward(node: ir.Node, needed: Sequence[Mask], inputs: Inputs) -> list[Mask | None]:
    """LRN: every channel in the window of a needed one that is not zero."""
    live = spread(needed[0] & fact(inputs, 0).nonzero, [1], dims(operand(node, 0)))
    size, channels = int(node.attributes["size"].as_int()), live.shape[1]
    distance = np.arange(channels)[:, None] - np.arange(channels)
    window = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    reached = np.moveaxis(np.tensordot(window.astype(np.float32), live.astype(np.float32), axes=([1], [1])), 0, 1) > 0
    return [compact(reached | needed[0])]


def lrn_couple(node: ir.Node) -> Iterator[Relation]:
    """LRN: channels stay, because their neighbours count them."""
    x, y = operand(node, 0), node.outputs[0]
    for axis in (0, *range(2, len(dims(x)))):
        yield from tie((x, axis), (y, axis))
    yield from freeze([(x, 1), (y, 1)], f"{name(node)} couples neighbouring channels")


CHANNELS = Rule(forward, backward, couple, reject=reject)
RULES = {
    "BatchNormalization": CHANNELS,
    "DequantizeLinear": CHANNELS,
    "QuantizeLinear": CHANNELS,
    "LRN": Rule(lrn_forward, lrn_backward, lrn_couple),
}
