"""From a planned graph to one Relax module for a GPU; the VM's entry is that of the CPU backend."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tvm import relax

from sparsec.backends.cuda import attention, conv, matmul, moving, norm, recurrent, sorting, tokens
from sparsec.backends.cuda.context import CudaContext, narrow_values
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import lower_operator
from sparsec.backends.relax.lower import Lowered, lower_in
from sparsec.graph.nodes import operator_of
from sparsec.kernels.cuda.params import HALVES
from sparsec.kernels.emit.isa import isa_of
from sparsec.target import Target

LOWERINGS: dict[str, Callable[[CudaContext, ir.Node], bool]] = {
    "sparsec::Conv": conv.lower,
    "sparsec::MatMul": matmul.lower,
    "sparsec::Attention": attention.lower,
    "LayerNormalization": norm.lower,
    "MatMul": tokens.lower_product,
    "Mul": norm.lower_written_out,
    "TopK": sorting.lower,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent.lower),
}
"""Each binds the node's outputs, or answers False where ONNX's operator in float32 will do."""


def lower(model: ir.Model, target: Target, precision: str) -> Lowered:
    """Lower a topologically sorted model of static shapes; its planned layers compute as their options say.

    Raises:
        UnsupportedOperatorError: lists every node that cannot be lowered, with operator, opset and reason.

    """
    context = CudaContext(relax.BlockBuilder(), isa_of(target), target, _lower_node, precision=precision,
                          half=HALVES[precision], narrow=narrow_values(model.graph))
    return lower_in(context, model, 1, LoweringContext.tensor)


def _lower_node(context: LoweringContext, node: ir.Node) -> None:
    """Our own lowering where there is one, else ONNX's operator through the importer."""
    assert isinstance(context, CudaContext)
    own = LOWERINGS.get(operator_of(node))
    if own is not None and own(context, node):
        return
    if not moving.lower(context, node):
        lower_operator(context, node)
