"""Lowering of sparsec::Conv over the padded flat layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu import depthwise, pooling
from sparsec.backends.cpu.calls import call, emit
from sparsec.backends.cpu.in_place import may_overwrite
from sparsec.backends.cpu.joining import reader
from sparsec.backends.cpu.windows import block_diagonal, read, stencil_of
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import bias_vector, chosen, epilogue_of, residual, spatial, window
from sparsec.graph.layout import Plain, image_of, layout_of
from sparsec.graph.nodes import is_depthwise, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cpu.images.stem import StemProduct
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.ranges import RANGES


def weight_matrix(node: ir.Node) -> np.ndarray:
    """The weight as (outputs, channels * taps); groups become blocks on the diagonal."""
    return block_diagonal(weight_array(node), node.attributes.get_int("group", 1))


def layer_of(node: ir.Node, _isa: Isa) -> StencilProduct | StemProduct | None:
    """The convolution as a product over its layouts or over a plain image; None for a depthwise one."""
    if is_depthwise(node):
        return None
    target = image_of(node.outputs[0])
    if reads_plain(node):
        kernel, begins = window(node)
        batch, channels, height, width = static_shape(node.inputs[0]) or ()
        return StemProduct(weight_matrix(node), bias_vector(node), (batch, channels, height, width), target, kernel,
                           spatial(node, "strides", 1), begins, epilogue_of(node), pooling.behind(node))
    epilogue = replace(epilogue_of(node), in_place=may_overwrite(node))
    return StencilProduct(weight_matrix(node), bias_vector(node), stencil_of(node), epilogue, target,
                          RANGES.get(node), node.attributes.get_int("group", 1), depthwise.behind(node))


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the convolution with the option that the plan chose."""
    layer = layer_of(node, context.isa)
    if layer is None:
        depthwise.lower(context, node)
        return
    extra = residual(node)
    x = context.flat(node.inputs[0]) if reads_plain(node) else read(context, node)
    inputs = [x, *([] if extra is None else [context.flat(extra)])]
    last = reader(node) if chosen(node).joined else node
    assert last is not None  # joined kernels are of convolutions that have one
    context.bind(last.outputs[0], emit(context, call(layer, chosen(node), context.isa), inputs))


def reads_plain(node: ir.Node) -> bool:
    """Whether the layout pass left the input row-major, for the stem's kernel."""
    return isinstance(layout_of(node.inputs[0]), Plain)
