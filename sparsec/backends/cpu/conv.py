"""Lowering of sparsec::Conv over the padded flat layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.cpu import depthwise
from sparsec.backends.cpu.calls import call, emit
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import (
    bias_vector,
    chosen,
    epilogue_of,
    is_depthwise,
    residual,
    spatial,
    weight_array,
    window,
)
from sparsec.graph.layout import PaddedFlat, PhasePlanes, Plain, layout_of
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cpu.images import phase_split, reformat_padded
from sparsec.kernels.cpu.images.stem import StemProduct
from sparsec.kernels.cpu.products.layer import RANGES, StencilProduct
from sparsec.kernels.cpu.products.stencil import convolution, strided_convolution
from sparsec.kernels.emit.isa import Isa


def weight_matrix(node: ir.Node) -> np.ndarray:
    """The weight as (outputs, channels * taps); groups become blocks on the diagonal."""
    weight = weight_array(node)
    outputs, per_group = weight.shape[:2]
    group = node.attributes.get_int("group", 1)
    flat = weight.reshape(outputs, per_group, -1)
    if group == 1:
        return flat.reshape(outputs, -1)
    full = np.zeros((outputs, group, *flat.shape[1:]), np.float32)
    rows = np.arange(outputs)
    full[rows, rows // (outputs // group)] = flat
    return full.reshape(outputs, -1)


def read_layout(node: ir.Node) -> PaddedFlat | PhasePlanes:
    """How the product reads the input: as it lies, thinned out for strides, or dealt into phase planes."""
    source: PaddedFlat = layout_of(node.inputs[0])
    target: PaddedFlat = layout_of(node.outputs[0])
    strides, (kernel, begins) = spatial(node, "strides", 1), window(node)
    if strides == (1, 1):
        return source
    if kernel == (1, 1) and not any(node.attributes.get_ints("pads", (0,))):
        return replace(target, channels=source.channels, clean=False)
    return PhasePlanes(source.channels, kernel, strides, spatial(node, "dilations", 1), begins, target)


def layer_of(node: ir.Node, _isa: Isa) -> StencilProduct | StemProduct | None:
    """The convolution as a product over its layouts or over a plain image; None for a depthwise one."""
    if is_depthwise(node):
        return None
    target: PaddedFlat = layout_of(node.outputs[0])
    kernel, begins = window(node)
    if reads_plain(node):
        batch, channels, height, width = static_shape(node.inputs[0]) or ()
        return StemProduct(weight_matrix(node), bias_vector(node), (batch, channels, height, width), target, kernel,
                           spatial(node, "strides", 1), begins, epilogue_of(node))
    source = read_layout(node)
    if isinstance(source, PhasePlanes):
        stencil = strided_convolution(source)
    else:
        stencil = convolution(source, target, kernel, spatial(node, "dilations", 1), begins)
    return StencilProduct(weight_matrix(node), bias_vector(node), stencil, epilogue_of(node), target,
                          RANGES.get(node))


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the convolution with the option that the plan chose."""
    layer = layer_of(node, context.isa)
    if layer is None:
        depthwise.lower(context, node)
        return
    extra = residual(node)
    inputs = [_read(context, node), *([] if extra is None else [context.flat(extra)])]
    context.bind(node.outputs[0], emit(context, call(layer, chosen(node), context.isa), inputs))


def reads_plain(node: ir.Node) -> bool:
    """Whether the layout pass left the input row-major, for the stem's kernel."""
    return isinstance(layout_of(node.inputs[0]), Plain)


def _read(context: LoweringContext, node: ir.Node) -> relax.Expr:
    """The input as the product reads it."""
    if reads_plain(node):
        return context.flat(node.inputs[0])
    source: PaddedFlat = layout_of(node.inputs[0])
    wanted = read_layout(node)
    x = context.flat(node.inputs[0])
    if wanted is source:
        return x
    shape = (source.batch, source.channels, source.height, source.width)
    if isinstance(wanted, PhasePlanes):
        kernel = phase_split.build(phase_split.PhaseSplitParams(source, wanted), context.isa)
    else:
        copy = reformat_padded.ReformatParams(shape, source, wanted, spatial(node, "strides", 1))
        kernel = reformat_padded.build(copy, context.isa)
    return context.call(kernel, [x], wanted.size)
