"""Lowering of sparsec::Reformat: a copy from one physical layout to another."""

from __future__ import annotations

import itertools
import math

import onnx_ir as ir
from tvm import tirx

from sparsec.backends.relax.context import LoweringContext
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.layout import PLAIN, Layout, PaddedFlat, Plain, Tiled
from sparsec.graph.nodes import operator_of
from sparsec.kernels.cpu.images import reformat_padded
from sparsec.kernels.cpu.tensors import reformat_tiled


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Emit the copy, or two by way of ONNX's layout between tiles of tokens and images."""
    source, target = context.layout(node.inputs[0]), context.layout(node.outputs[0])
    direct = isinstance(source, Plain) or isinstance(target, Plain) or type(source) is type(target)
    if is_view(node, source, target):
        context.bind(node.outputs[0], context.flat(node.inputs[0]))
        return
    steps = [source, target] if direct else [source, PLAIN, target]
    expr, dtype = context.flat(node.inputs[0]), context.dtype(node.outputs[0])
    for before, after in itertools.pairwise(steps):
        size = math.prod(context.shape(node.outputs[0])) if isinstance(after, Plain) else after.size
        expr = context.call(_kernel(context, before, after, dtype), [expr], size,
                            dtype=dtype if isinstance(after, Plain) else after.dtype)
    context.bind(node.outputs[0], expr)


def is_view(node: ir.Node, source: Layout, target: Layout) -> bool:
    """Whether the copy would change nothing, and nobody writes over what it copies."""
    image, plain = (source, target) if isinstance(source, PaddedFlat) else (target, source)
    if not (isinstance(image, PaddedFlat) and isinstance(plain, Plain) and image.is_plain and image.dtype == "float32"):
        return False
    x, y = node.inputs[0], node.outputs[0]
    if isinstance(target, PaddedFlat):  # a product never writes over its first input
        return all(operator_of(use.node) == "sparsec::Conv" and use.idx == 0 for use in y.uses())
    return x is not None and len(x.uses()) == 1 and not y.is_graph_output()


def _kernel(context: LoweringContext, source: Layout, target: Layout, dtype: str) -> tirx.PrimFunc:
    if isinstance(source, Plain | PaddedFlat) and isinstance(target, Plain | PaddedFlat) and source != target:
        image = source if isinstance(source, PaddedFlat) else target
        assert isinstance(image, PaddedFlat)
        shape = (image.batch, image.channels, image.height, image.width)
        isa = context.isa if dtype == "float32" else context.isa.bytewise
        return reformat_padded.build(reformat_padded.ReformatParams(shape, source, target, dtype=dtype), isa)
    if isinstance(source, Tiled) and isinstance(target, Plain):
        return reformat_tiled.build(reformat_tiled.ReformatTiledParams(source, into=False, dtype=dtype), context.isa)
    if isinstance(source, Plain) and isinstance(target, Tiled):
        return reformat_tiled.build(reformat_tiled.ReformatTiledParams(target, into=True, dtype=dtype), context.isa)
    raise UnsupportedOperatorError(f"there is no kernel that copies from layout {source} to {target}")
