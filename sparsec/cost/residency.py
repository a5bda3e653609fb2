"""What a planned graph takes in all: its layers, and the activations that pass through the caches between them.

A layer's own prediction brings its activations from memory, whatever their size. Here they come from where the layer
before it has left them: up to half of the L2 cache keeps them all, and from sixteen times as much on, which a cache
that cores share does not hold for one of them either, they come from memory; in between by the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from sparsec.cost.plan import CHOICE
from sparsec.cost.roofline import Machine
from sparsec.graph.layout import Plain, layout_of
from sparsec.graph.shapes import static_shape
from sparsec.target import Target

KEPT, LOST = math.log2(0.5), math.log2(16.0)
"""Logarithms of the activations of a node, as a multiple of the L2 cache, of which all are kept and none."""


IN_NETWORK = 1.15
"""How much longer a kernel takes among others than by itself: the median of ResNet-50's and BERT's layers, Zen 4."""

OPERATIONS = {"LayerNormalization": 13.0, "Softmax": 20.0, "Gelu": 15.0, "Erf": 15.0, "Sigmoid": 12.0, "Tanh": 12.0,
              "QuantizeLinear": 4.0, "QBinary": 8.0}
"""Vector operations for a vector of the output, of operators that cost more than what they move (on a Zen 4)."""
WRITTEN_OUT = {"QBinary": 28.0, "Lookup": 27.0, "QBatchMatMul": 50.0}
"""The same of operators on codes that no layout takes, which ONNX's operators are written for."""
DEPTHWISE, DEPTHWISE_CODES = 1.8, 0.8
"""What a multiply-add of a convolution by channel takes beside one of a product: its rows are short."""


def node_seconds(graph: ir.Graph, machine: Machine, target: Target, threads: int) -> Iterator[tuple[ir.Node, float]]:
    """The time of every node of a planned graph among the others.

    Nodes without a plan take what they move and what they compute.
    """
    for node in graph:
        moved = sum(nbytes(value) for value in (*node.inputs, *node.outputs)
                    if value is not None and value.const_value is None)
        kept = moved * (1 - lost_share(moved, threads * target.l2_bytes))
        choice = CHOICE.get(node)
        if choice is None:
            yield node, IN_NETWORK * (
                machine.call_s + kept / (threads * machine.l2_bytes_per_s) + (moved - kept) / machine.memory_bytes_per_s
                + operations(node) / (max(1, target.lanes) * machine.fmas_per_s * threads))
            continue
        work = choice.winner.option.cpu_work
        kept = min(kept, work.memory_bytes)
        yield node, IN_NETWORK * machine.seconds(
            replace(work, memory_bytes=work.memory_bytes - kept, l2_bytes=work.l2_bytes + kept), threads)


def operations(node: ir.Node) -> float:
    """What a node without a plan computes, in multiply-adds of single elements."""
    shape = static_shape(node.outputs[0]) or ()
    elements = math.prod(shape)
    if node.op_type == "Attention" and len(shape) > 1:  # scores and their sums of values, by every query and key
        return 2.0 * elements * shape[-2]
    if node.op_type in ("Conv", "QConv") and (weight := node.inputs[1]) is not None and (taps := static_shape(weight)):
        products = elements * math.prod(taps[1:])
        if node.op_type == "Conv":
            return DEPTHWISE * products
        return DEPTHWISE_CODES * products * math.prod(node.attributes.get_ints("strides", (1,)))  # of a row, so many
    if node.op_type == "QBatchMatMul" and (data := node.inputs[0]) is not None:
        return elements * ((static_shape(data) or (1,))[-1] + WRITTEN_OUT[node.op_type])
    if node.op_type in WRITTEN_OUT and isinstance(layout_of(node.outputs[0]), Plain):
        return WRITTEN_OUT[node.op_type] * elements
    return OPERATIONS.get(node.op_type, 0.0) * elements


def lost_share(moved: float, l2_bytes: int) -> float:
    """The share of a node's activations that come from memory."""
    size = math.log2(max(moved, 1.0) / l2_bytes)
    return float(np.interp(size, (KEPT, LOST), (0.0, 1.0)))


def nbytes(value: ir.Value) -> int:
    """The bytes of an activation in its layout."""
    layout = layout_of(value)
    if not isinstance(layout, Plain):
        return int(np.dtype(layout.dtype).itemsize) * int(layout.size)
    itemsize = value.dtype.itemsize if value.dtype is not None else 4
    return math.ceil(math.prod(static_shape(value) or (0,)) * itemsize)
