"""Lowering of pooling over the padded flat layout."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.cpu.joining import is_computed, reader
from sparsec.backends.relax.context import LoweringContext
from sparsec.graph.layout import PaddedFlat, image_of, layout_of
from sparsec.graph.nodes import operator_of
from sparsec.kernels.cpu.images import pool_padded
from sparsec.kernels.cpu.images.window import Window


def behind(node: ir.Node) -> Window | None:
    """The maxima behind a convolution, where one kernel may compute both."""
    other = reader(node)
    if other is None or operator_of(other) != "MaxPool" or len(other.outputs) > 1:
        return None
    return window(other) if isinstance(layout_of(other.outputs[0]), PaddedFlat) else None


def window(node: ir.Node) -> Window:
    """The window of a pool."""
    pads = node.attributes.get_ints("pads", (0,) * 4)
    kernel, strides, dilations = ((values[0], values[1]) for values in (
        node.attributes.get_ints(name, (1, 1)) for name in ("kernel_shape", "strides", "dilations")))
    return Window(image_of(node.inputs[0]), image_of(node.outputs[0]), kernel, strides, dilations, (pads[0], pads[1]))


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit a MaxPool or AveragePool, unless the kernel in front computes it; maxima may be those of codes."""
    if is_computed(node):
        return
    w, pads = window(node), node.attributes.get_ints("pads", (0,) * 4)
    target = w.target
    isa = context.isa if target.dtype == "float32" else context.isa.bytewise
    params = pool_padded.PoolParams(w, node.op_type == "AveragePool", (pads[2], pads[3]),
                                    bool(node.attributes.get_int("count_include_pad", 0)))
    shares = map(context.constant, pool_padded.pack(params, isa).values() if params.average else ())
    inputs = [*shares, context.flat(node.inputs[0])]
    context.bind(node.outputs[0], context.call(pool_padded.build(params, isa), inputs, target.size,
                                               dtype=target.dtype))


def lower_global_average(context: LoweringContext, node: ir.Node) -> None:
    """Emit a GlobalAveragePool, whose output is row-major."""
    source = image_of(node.inputs[0])
    kernel = pool_padded.build_global_average(source, context.isa)
    context.bind(node.outputs[0], context.call(kernel, [context.flat(node.inputs[0])], source.batch * source.channels))
