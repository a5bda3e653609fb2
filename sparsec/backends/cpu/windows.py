"""Convolutions over the padded flat layout as stencils: what layers of floats and of codes have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from tvm import relax

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.weights import spatial, window
from sparsec.graph.layout import PaddedFlat, PhasePlanes, image_of
from sparsec.kernels.cpu.images import phase_split, reformat_padded
from sparsec.kernels.cpu.products.stencil import Stencil, convolution, strided_convolution


def block_diagonal(weight: np.ndarray, group: int) -> np.ndarray:
    """A weight (outputs, channels / group, *taps) as (outputs, channels * taps); groups become diagonal blocks."""
    outputs = len(weight)
    flat = weight.reshape(outputs, weight.shape[1], -1)
    if group == 1:
        return flat.reshape(outputs, -1)
    full = np.zeros((outputs, group, *flat.shape[1:]), weight.dtype)
    rows = np.arange(outputs)
    full[rows, rows // (outputs // group)] = flat
    return full.reshape(outputs, -1)


def read_layout(node: ir.Node) -> PaddedFlat | PhasePlanes:
    """How the product reads the input: as it lies, thinned out for strides, or dealt into phase planes."""
    source, target = image_of(node.inputs[0]), image_of(node.outputs[0])
    strides, (kernel, begins) = spatial(node, "strides", 1), window(node)
    if strides == (1, 1):
        return source
    if kernel == (1, 1) and not any(node.attributes.get_ints("pads", (0,))):
        return replace(target, channels=source.channels, clean=False, padding=0)
    return PhasePlanes(source.channels, kernel, strides, spatial(node, "dilations", 1), begins, target)


def stencil_of(node: ir.Node) -> Stencil:
    """The taps of the convolution over what it reads."""
    source, (kernel, begins) = read_layout(node), window(node)
    if isinstance(source, PhasePlanes):
        return strided_convolution(source)
    return convolution(source, image_of(node.outputs[0]), kernel, spatial(node, "dilations", 1), begins)


def read(context: LoweringContext, node: ir.Node, padding: int = 0) -> relax.Expr:
    """The input as the product reads it; phase planes are padded with a code."""
    source, wanted = image_of(node.inputs[0]), read_layout(node)
    x = context.flat(node.inputs[0])
    if wanted is source:
        return x
    isa = context.isa if source.dtype == "float32" else context.isa.bytewise
    if isinstance(wanted, PhasePlanes):
        planes = phase_split.PhaseSplitParams(replace(source, padding=padding), wanted)
        return context.call(phase_split.build(planes, isa), [x], wanted.size, dtype=source.dtype)
    shape = (source.batch, source.channels, source.height, source.width)
    copy = reformat_padded.ReformatParams(shape, source, wanted, spatial(node, "strides", 1))
    return context.call(reformat_padded.build(copy, isa), [x], wanted.size, dtype=source.dtype)
