"""Lowering of `sparsec::FakeQuantize`."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import integers
from sparsec.graph.layout import Plain, image_of, layout_of
from sparsec.kernels.cpu.codes import fake_quantize
from sparsec.kernels.cpu.codes.fake_quantize import FakeQuantizeParams


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit it over images, or in ONNX's operators."""
    if isinstance(layout_of(node.outputs[0]), Plain):
        integers.lower(context, node)
        return
    params, x = FakeQuantizeParams(*map(image_of, (node.inputs[0], node.outputs[0]))), context.flat(node.inputs[0])
    found = context.call(fake_quantize.build_range(params, context.isa), [x], 1, 1)
    parameters = [context.bb.emit(found[index]) for index in range(2)]
    kernel = fake_quantize.build(params, context.isa)
    context.bind(node.outputs[0], context.call(kernel, [*parameters, x], params.target.size))
