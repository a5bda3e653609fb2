"""SAME padding of dilated windows is spelled out, as ONNX's specification defines it.

The text of MaxPool and Conv: the output has ceil(input / stride) positions, and the padding is what these need, by the
extent of the dilated kernel. onnxruntime pads by the undilated kernel in pooling and refuses the convolution, ONNX's
reference implementation and onnxscript's rewriting leave the dilation out as well, so that the model with its padding
spelled out is what outputs are compared with.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.graph.nodes import optional
from sparsec.graph.shapes import static_shape
from sparsec.passes.context import Context, Report
from sparsec.passes.lift import spelled_geometry

WEIGHTS = {"Conv": 1, "ConvInteger": 1, "FusedConv": 1, "QLinearConv": 3, "AveragePool": None, "LpPool": None,
           "MaxPool": None}
"""Operators with windows on their first input, and the input that is the kernel."""


def run(model: ir.Model, _context: Context) -> Report:
    """Spells the padding out in place."""
    found = spell(model)
    return Report("spell_pads", bool(found), {"paddings": found} if found else {}, restated=bool(found))


def spell(model: ir.Model) -> int:
    """Gives windows that are dilated and padded by SAME_UPPER or SAME_LOWER explicit pads; returns how many."""
    found = 0
    for node in model.graph.all_nodes():
        if node.op_type not in WEIGHTS or not any(step > 1 for step in node.attributes.get_ints("dilations", ()) or ()):
            continue
        image, kernel = static_shape(node.inputs[0]), _kernel(node)
        if not node.attributes.get_string("auto_pad", "").startswith("SAME") or image is None or kernel is None:
            continue
        pads = spelled_geometry(node, (1, 1, *kernel), image)["pads"]
        node.attributes.pop("auto_pad")
        node.attributes.add(ir.AttrInt64s("pads", pads))
        found += 1
    return found


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    """The spatial extents of a node's kernel."""
    given, place = node.attributes.get_ints("kernel_shape", None), WEIGHTS[node.op_type]
    if given:
        return tuple(given)
    weight = None if place is None else static_shape(optional(node, place))
    return None if weight is None else weight[2:]
