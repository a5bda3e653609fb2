"""What a planned graph takes in all: its layers, and the activations that pass through the caches between them.

A layer's own prediction brings its activations from memory, whatever their size. Here they come from where the layer
before it has left them. The L2 cache keeps all of a node's if they fill a share of it, and none if they fill it, for
weights and what other layers wait for pass through it, too; caches that cores share keep all up to half of the L2 cache
and none from sixteen times as much on; in between by the logarithm.
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

IN_L2 = math.log2(0.5), math.log2(2.0)
"""Logarithms of the activations of a node, as a multiple of the L2 cache, of which it keeps all and none."""
IN_CACHES = math.log2(0.5), math.log2(16.0)
"""The same of which all come from caches that cores share, and none."""


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
        kept, near = (share * moved for share in shares(moved, threads * target.l2_bytes))
        choice = CHOICE.get(node)
        if choice is None:
            yield node, IN_NETWORK * (
                machine.call_s + near / (threads * machine.l2_bytes_per_s) + (kept - near) / machine.l3_bytes_per_s
                + (moved - kept) / machine.memory_bytes_per_s
                + operations(node) / (max(1, target.lanes) * machine.fmas_per_s * threads))
            continue
        work = choice.winner.option.cpu_work
        memory = work.memory_bytes + copied(node)
        kept, near = min(kept, memory), min(near, memory)
        yield node, IN_NETWORK * machine.seconds(
            replace(work, memory_bytes=memory - kept, l3_bytes=work.l3_bytes + kept - near,
                    l2_bytes=work.l2_bytes + near), threads)


def copied(node: ir.Node) -> float:
    """The bytes that a convolution of a stride moves to copy its input into planes, or to thin it out."""
    strides = node.attributes.get_ints("strides", (1,)) if node.op_type in ("Conv", "QConv") else (1,)
    source, weight = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if math.prod(strides) == 1 or source is None or weight is None or isinstance(layout_of(source), Plain):
        return 0.0
    taps = math.prod((static_shape(weight) or ())[2:])
    return nbytes(source) * (2.0 if taps > 1 else 1 / strides[0] + 1 / math.prod(strides))


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


def shares(moved: float, l2_bytes: int) -> tuple[float, float]:
    """The shares of a node's activations that come from caches, and from the L2 cache."""
    size = math.log2(max(moved, 1.0) / l2_bytes)
    kept, near = (1 - float(np.interp(size, between, (0.0, 1.0))) for between in (IN_CACHES, IN_L2))
    return kept, min(kept, near)


def nbytes(value: ir.Value) -> int:
    """The bytes of an activation in its layout."""
    layout = layout_of(value)
    if not isinstance(layout, Plain):
        return int(np.dtype(layout.dtype).itemsize) * int(layout.size)
    itemsize = value.dtype.itemsize if value.dtype is not None else 4
    return math.ceil(math.prod(static_shape(value) or (0,)) * itemsize)
