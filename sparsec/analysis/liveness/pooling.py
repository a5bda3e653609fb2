"""Pooling: channels stay apart, positions are gathered by windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.facts import Array, Known, Mask, compact, dims, some, spread, unknown, where_known
from sparsec.analysis.liveness.node import evaluate
from sparsec.analysis.liveness.rule import Inputs, Rule, fact
from sparsec.analysis.liveness.slabs import Relation, tie
from sparsec.analysis.liveness.window import Taps, backwards, may_read_padding, reads_padding, taps, too_many
from sparsec.graph.nodes import operand


def _windows(node: ir.Node) -> Taps:
    kernel = [int(k) for k in node.attributes.get_ints("kernel_shape", [])]
    return taps(node, kernel, dims(operand(node, 0))[2:], dims(node.outputs[0])[2:])


def _touched(mask: Mask, windows: Taps) -> Mask:
    """Output positions whose window holds an element of the mask."""
    for axis, window in enumerate(windows, start=2):
        reads = some(window, [0])
        if mask.shape[axis] > 1 or not some(reads, [1]).all():
            full = np.broadcast_to(mask, (*mask.shape[:axis], reads.shape[1], *mask.shape[axis + 1:]))
            hits = np.tensordot(full.astype(np.float32), reads.astype(np.float32), axes=([axis], [1]))
            mask = np.moveaxis(hits, -1, axis) > 0
    return mask


def forward(node: ir.Node, inputs: Inputs) -> list[Known]:
    """Known where the whole window is."""
    x, windows = fact(inputs, 0), _windows(node)
    mask = ~_touched(~x.mask, windows)
    if not mask.any():
        return [unknown(node.outputs[0])]
    value = _pooled(node, x.value, windows)
    return [unknown(node.outputs[0]) if value is None else where_known(mask, value)]


def _pooled(node: ir.Node, value: Array, windows: Taps) -> Array | None:
    averages_padding = node.op_type == "AveragePool" and bool(node.attributes.get_int("count_include_pad", 0))
    same = node.op_type != "LpPool" and all(length == 1 for length in value.shape[2:])
    if same and not (averages_padding and (reads_padding(windows) or may_read_padding(node))):
        return value
    if None in dims(operand(node, 0)):
        return None
    return evaluate(node, [spread(value, range(2, value.ndim), dims(operand(node, 0)))])


def backward(node: ir.Node, needed: Sequence[Mask], _inputs: Inputs) -> list[Mask | None]:
    """Needed where a window of a needed output covers it."""
    return [compact(_touched(needed[0], backwards(_windows(node))))]


def couple(node: ir.Node) -> Iterator[Relation]:
    """Batch and channels pass; positions stay."""
    for axis in (0, 1):
        yield from tie((operand(node, 0), axis), (node.outputs[0], axis))


def reject(node: ir.Node, inputs: Inputs) -> str | None:
    """A constant that only the reference implementation can pool needs static positions, and not too many."""
    x, source = fact(inputs, 0), dims(operand(node, 0))[2:]
    if None in source and x.value.any():
        return "symbolic positions"
    return too_many(node.attributes.get_ints("kernel_shape", []), source, dims(node.outputs[0])[2:])


POOLING = Rule(forward, backward, couple, reject=reject)
RULES = dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), POOLING)
