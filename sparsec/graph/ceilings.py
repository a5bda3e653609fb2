"""Pools with `ceil_mode` drop a last window that begins behind the image, in its padding at the end.

So do PyTorch and onnxruntime (`PoolAttributes::ComputeOutputSize`); ONNX's shape inference counts it. Such a pool is
stated without `ceil_mode`, which all of them count alike: rounding down drops the window, and on axes that keep theirs
the padding goes as far as it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsec.graph.shapes import static_shape

POOLS = ("AveragePool", "LpPool", "MaxPool")


def drop_late_windows(model: ir.Model) -> bool:
    """State pools without `ceil_mode` that would have a window behind the image.

    Whether there were any: shapes behind them, which are taken away, have to be inferred anew. Means that count padding
    (`count_include_pad`) are left where another axis keeps its last window, which reaches beyond what they count.
    """
    found = [(node, pads) for node in model.graph.all_nodes() if (pads := _restated(node)) is not None]
    for node, pads in found:
        node.attributes.add(ir.AttrInt64("ceil_mode", 0))
        node.attributes.add(ir.AttrInt64s("pads", pads))
    if found:
        for node in model.graph.all_nodes():
            for value in node.outputs:
                value.shape = None
    return bool(found)


def _restated(node: ir.Node) -> Sequence[int] | None:
    """The pads of a pool without `ceil_mode` and without windows behind the image; None where it is fine as it is."""
    attributes = node.attributes
    rounds_up = attributes.get_int("ceil_mode", 0) and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    image = static_shape(node.inputs[0]) if node.op_type in POOLS and node.domain == "" and rounds_up else None
    if image is None:
        return None
    kernel = attributes.get_ints("kernel_shape", ()) or ()
    rank = len(kernel)
    strides, dilations = (attributes.get_ints(name, ()) or (1,) * rank for name in ("strides", "dilations"))
    pads, late = list(attributes.get_ints("pads", ()) or (0,) * 2 * rank), False
    for axis, size in enumerate(image[2:]):
        room = size + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1
        windows, rest = divmod(room, strides[axis])
        if rest and (windows + 1) * strides[axis] >= size + pads[axis]:
            late = True
        elif rest and attributes.get_int("count_include_pad", 0):
            return None
        elif rest:
            pads[axis + rank] += strides[axis] - rest
    return pads if late else None
