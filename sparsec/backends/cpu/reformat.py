"""Lowering of sparsec::Reformat: a copy from one physical layout to another."""

from __future__ import annotations

import onnx_ir as ir

from sparsec.backends.cpu.context import LoweringContext
from sparsec.graph.layout import PaddedFlat, Plain
from sparsec.kernels import reformat_padded


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the copy."""
    source, target = context.layout(node.inputs[0]), context.layout(node.outputs[0])
    image = source if isinstance(source, PaddedFlat) else target
    assert isinstance(image, PaddedFlat)
    shape = (image.batch, image.channels, image.height, image.width)
    kernel = reformat_padded.build(reformat_padded.ReformatParams(shape, source, target), context.isa)
    size = image.batch * image.channels * image.height * image.width if isinstance(target, Plain) else target.size
    context.bind(node.outputs[0], context.call(kernel, [context.flat(node.inputs[0])], size))
