"""The lowerings of sparsec's own operators, and of ONNX's in the layouts of images and tokens."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.backends.cpu import conv, elementwise, matmul, pooling, reformat, tokens
from sparsec.backends.relax.context import LoweringContext
from sparsec.graph.activations import ACTIVATIONS

LOWERINGS: dict[str, Callable[[LoweringContext, ir.Node], None]] = {
    "sparsec::Conv": conv.lower,
    "sparsec::MatMul": matmul.lower,
    "sparsec::Reformat": reformat.lower,
    "sparsec::Attention": tokens.lower_attention,
    "LayerNormalization": tokens.lower_layer_norm,
    "MaxPool": pooling.lower,
    "AveragePool": pooling.lower,
    "GlobalAveragePool": pooling.lower_global_average,
    **dict.fromkeys(ACTIVATIONS, elementwise.lower_activation),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), elementwise.lower_binary),
    "Concat": elementwise.lower_concat,
    **dict.fromkeys(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), tokens.lower_reshape),
}
"""Each binds the node's outputs; it raises UnsupportedOperatorError with the reason if it cannot."""
