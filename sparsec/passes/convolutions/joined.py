"""A convolution of joined images is a sum of convolutions of each, and nobody joins them.

    Conv(Concat(a, b), w) -> Add(Conv(a, w[:, :A]), Conv(b, w[:, A:]))

The sum is the last one's residual. So the many channels that SqueezeNet expands to are not copied for the few that the
next layer squeezes them to (Iandola et al. 2016, "SqueezeNet", section 3.2), also where a maximum of neighbours stands
between them.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant, constant_shape
from sparsec.graph.large import is_large
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note, Spared
from sparsec.passes.convolutions.transposed import activated

LARGE = 1 << 14
"""Elements from which on a joined image takes longer to copy than another kernel takes to call."""


def run(graph: ir.Graph, spared: Spared, counts: Counter[str], _notes: list[Note]) -> None:
    """Rewrites every Conv by a constant whose image is joined for it alone, of many more channels than it makes."""
    for node in list(graph):
        if not node.domain and node.op_type == "Conv" and spared.reason(node) is None:
            found = _joined(node)
            if found is not None:
                _rewrite(node, *found)
                counts["joined images"] += 1


def _joined(node: ir.Node) -> tuple[ir.Node, ir.Node | None] | None:
    """The Concat whose result a convolution reads, and the MaxPool between them; None where it pays not."""
    weight, bias = constant_shape(node.inputs[1]), optional(node, 2)
    fine = (not is_large(operand(node, 1).const_value) and node.attributes.get_int("group", 1) == 1
            and node.outputs[0].dtype == ir.DataType.FLOAT and (bias is None or constant_shape(bias) is not None))
    pool, concat = None, _only_source(operand(node, 0))
    if concat is not None and concat.op_type == "MaxPool" and len(concat.outputs) == 1:
        pool, concat = concat, _only_source(operand(concat, 0))
    if not fine or weight is None or concat is None or concat.op_type != "Concat":
        return None
    shape = static_shape(concat.outputs[0])
    shapes = [static_shape(value) for value in concat.inputs]
    if shape is None or any(each is None or not all(each) for each in shapes):
        return None
    axis = concat.attributes.get_int("axis", 0) % len(shape)
    pays = math.prod(shape) >= LARGE and 2 * (len(shapes) - 1) * weight[0] <= shape[1]
    return (concat, pool) if axis == 1 and pays else None


def _only_source(value: ir.Value) -> ir.Node | None:
    """The node of ONNX's whose result only one other reads."""
    node = value.producer()
    return node if node is not None and not node.domain and rewrite.only_use(value) is not None else None


def _rewrite(node: ir.Node, concat: ir.Node, pool: ir.Node | None) -> None:
    weight, chain, total, first = constant(node.inputs[1]), Chain(node), None, 0
    assert weight is not None
    attributes = {name: each for name, each in node.attributes.items() if name != "kernel_shape"}
    for index, value in enumerate(concat.inputs):
        assert value is not None
        _, channels, *_ = static_shape(value) or ()
        part = np.ascontiguousarray(weight[:, first:first + channels])
        last = index == len(concat.inputs) - 1
        image = value if pool is None else _pooled(chain, pool, value)
        bias, name = (optional(node, 2), node_name(node)) if last else (None, None)
        made = chain.add("Conv", image, part, bias, name=name)
        producer = made.producer()
        assert producer is not None
        for each in attributes.values():
            producer.attributes.add(each)
        made.shape = node.outputs[0].shape
        total = made if total is None else chain.add("Add", total, made)
        total.shape, first = node.outputs[0].shape, first + channels
    assert total is not None
    chain.end(activated(chain, total))


def _pooled(chain: Chain, pool: ir.Node, value: ir.Value) -> ir.Value:
    """The maxima of one of the images."""
    made = ir.Node("", "MaxPool", [value], list(pool.attributes.values()), num_outputs=1)
    chain.node.prepend(made)
    made.outputs[0].dtype = ir.DataType.FLOAT
    made.outputs[0].shape = ir.Shape((*(static_shape(value) or ())[:2], *(static_shape(pool.outputs[0]) or ())[2:]))
    return made.outputs[0]
