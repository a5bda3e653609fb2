"""The first convolution of a network, which reads a row-major image: one dense kernel of its own."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.relax.context import KernelCall
from sparsec.backends.relax.weights import bias_vector, epilogue_of, spatial, weight_array, window
from sparsec.cost.option import Option, Work
from sparsec.graph.layout import PaddedFlat, layout_of
from sparsec.graph.shapes import static_shape
from sparsec.kernels.cpu.images import stem
from sparsec.kernels.emit.isa import Isa


def params_of(node: ir.Node) -> stem.StemParams:
    """The kernel's parameters."""
    target: PaddedFlat = layout_of(node.outputs[0])
    kernel, begins = window(node)
    batch, channels, height, width = static_shape(node.inputs[0]) or ()
    return stem.StemParams((batch, channels, height, width), target, kernel, spatial(node, "strides", 1), begins,
                           epilogue_of(node))


def options(node: ir.Node, isa: Isa) -> list[Option]:
    """The one way to run the convolution."""
    params, weight = params_of(node), weight_array(node)
    rows, width = params.block(isa)
    vectors = params.target.batch * params.target.height * -(-params.target.width // isa.lanes)
    products = vectors * weight.size
    work = Work(products, products * (rows + 2 * width) / (rows * width), vectors * weight.shape[0] / (rows * width))
    return [Option("dense", "stem", f"R={rows} V={width}", params, weight.nbytes, work, "f32")]


def call(node: ir.Node, params: stem.StemParams, isa: Isa) -> KernelCall:
    """The kernel with the convolution's constants."""
    batch, channels, height, width = params.shape
    constants = (stem.pack(weight_array(node), params, isa), bias_vector(node))
    return KernelCall(stem.build(params, isa), constants, (batch * channels * height * width,), params.target.size)
