"""A convolution whose window is the whole image is a product of rows: kernels for few rows read large weights faster.

It is so behind a global mean, in the heads of mobile networks and in squeeze-and-excitation. Small weights stay, which
the layouts of images around them are worth more to.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_derived, constant_shape
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.shapes import static_shape
from sparsec.passes.chain import Chain
from sparsec.passes.context import Note, Spared
from sparsec.passes.convolutions.transposed import activated

LARGE = 1 << 16
"""Elements from which on a weight is large."""


def run(graph: ir.Graph, spared: Spared, counts: Counter[str], _notes: list[Note]) -> None:
    """Rewrites every Conv by a large constant that has one position."""
    for node in list(graph):
        if not node.domain and node.op_type == "Conv" and spared.reason(node) is None and _is_whole(node):
            _rewrite(node)
            counts["whole images"] += 1


def _is_whole(node: ir.Node) -> bool:
    image, weight = static_shape(node.inputs[0]), constant_shape(node.inputs[1])
    bias = optional(node, 2)
    return (image is not None and weight is not None and image[1:] == weight[1:] and math.prod(weight) >= LARGE
            and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
            and not any(node.attributes.get_ints("pads", ()) or ())
            and node.outputs[0].dtype == ir.DataType.FLOAT and (bias is None or constant_shape(bias) is not None)
            and all(step == 1 for step in node.attributes.get_ints("dilations", ()) or ()))


def _rewrite(node: ir.Node) -> None:
    assert node.graph is not None
    chain, value = Chain(node), operand(node, 1)
    outputs, *window = constant_shape(value) or ()
    shape, inputs = static_shape(node.outputs[0]) or (), math.prod(window)
    rows = chain.reshape(operand(node, 0), [shape[0], inputs])
    weight = add_derived(node.graph, f"{node_name(node)}.matrix", value, _matrix, (outputs, inputs), shared=True)
    last = chain.add("Gemm", rows, weight, optional(node, 2), name=node_name(node), transB=1)
    last.shape = ir.Shape([shape[0], outputs])
    chain.end(chain.reshape(activated(chain, last), shape))


def _matrix(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(len(weight), -1)
