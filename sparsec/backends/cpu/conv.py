"""Lowering of sparsec::Conv over the padded flat layout."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu import products
from sparsec.backends.cpu.context import LoweringContext
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.isa import Isa
from sparsec.kernels.product import pixel_mask
from sparsec.kernels.stencil import Stencil, convolution
from sparsec.option import Option
from sparsec.target import Target


def weight_matrix(node: ir.Node) -> np.ndarray:
    """The weight as (outputs, channels * taps); groups become blocks on the diagonal."""
    weight = node.inputs[1].const_value.numpy()
    outputs, per_group = weight.shape[:2]
    group = node.attributes.get_int("group", 1)
    flat = weight.reshape(outputs, per_group, -1)
    if group == 1:
        return flat.reshape(outputs, -1)
    full = np.zeros((outputs, group, *flat.shape[1:]), np.float32)
    rows = np.arange(outputs)
    full[rows, rows // (outputs // group)] = flat
    return full.reshape(outputs, -1)


def bias_vector(node: ir.Node) -> np.ndarray:
    """The bias, zeros where the node has none."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    outputs = node.inputs[1].shape[0]
    return np.zeros(outputs, np.float32) if bias is None else bias.const_value.numpy()


def spatial(node: ir.Node, name: str, default: int) -> tuple[int, int]:
    """A spatial attribute as (height, width); a sequence has height 1."""
    rank = len(node.inputs[1].shape) - 2
    values = node.attributes.get_ints(name, (default,) * rank)
    return (default, values[0]) if rank == 1 else (values[0], values[1])


def layer_of(node: ir.Node) -> products.Layer:
    """The convolution as a product over its layouts."""
    target: PaddedFlat = node.outputs[0].meta["layout"]
    return products.Layer(weight_matrix(node), bias_vector(node), _stencil(node, target), products.epilogue_of(node),
                          pixel_mask(target) if target.clean else None)


def _stencil(node: ir.Node, target: PaddedFlat) -> Stencil:
    source: PaddedFlat = node.inputs[0].meta["layout"]
    kernel = (1, 1, *node.inputs[1].shape[2:])[-2:]
    pads = node.attributes.get_ints("pads", (0, 0, 0, 0))
    begin = (0, pads[0]) if len(pads) == 2 else (pads[0], pads[1])
    return convolution(source, target, kernel, spatial(node, "dilations", 1), begin)


def options(node: ir.Node, target: Target, isa: Isa) -> list[Option]:
    """Every way to run the convolution."""
    return products.options(layer_of(node), target, isa)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the convolution with the option that the plan chose."""
    residual = node.inputs[3] if len(node.inputs) > 3 else None
    expr = products.emit(context, layer_of(node), node.meta["choice"].winner.option.params,
                         context.flat(node.inputs[0]), None if residual is None else context.flat(residual))
    context.bind(node.outputs[0], expr)
