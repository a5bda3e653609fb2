"""The lowerings of sparsec's own operators, and of ONNX's in the layouts of images and tokens."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.backends.cpu import (
    conv,
    elementwise,
    fake_quantize,
    matmul,
    pooling,
    quantized,
    quantized_tokens,
    recurrence,
    reformat,
    tokens,
)
from sparsec.backends.relax.context import LoweringContext
from sparsec.backends.relax.importer import integers
from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.operators.schema import DOMAIN

LOWERINGS: dict[str, Callable[[LoweringContext, ir.Node], None]] = {
    "sparsec::Conv": conv.lower,
    "sparsec::MatMul": matmul.lower,
    "sparsec::Recurrence": recurrence.lower,
    "sparsec::Reformat": reformat.lower,
    **{f"{DOMAIN}::{name}": integers.lower for name in integers.WRITERS},
    **dict.fromkeys(("sparsec::QConv", "sparsec::QMatMul"), quantized.lower_product),
    "sparsec::FakeQuantize": fake_quantize.lower,
    "sparsec::QBinary": quantized.lower_binary,
    "sparsec::QAveragePool": quantized.lower_average,
    "sparsec::Lookup": quantized.lower_lookup,
    "sparsec::QAttention": quantized_tokens.lower_attention,
    "DynamicQuantizeLinear": quantized_tokens.lower_dynamic,
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantized_tokens.lower),
    "sparsec::Attention": tokens.lower_attention,
    "LayerNormalization": tokens.lower_layer_norm,
    "MaxPool": pooling.lower,
    "AveragePool": pooling.lower,
    "GlobalAveragePool": pooling.lower_global_average,
    **dict.fromkeys(ACTIVATIONS, elementwise.lower_activation),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), elementwise.lower_binary),
    "Concat": elementwise.lower_concat,
    "sparsec::ScaledConcat": elementwise.lower_scaled_concat,
    **dict.fromkeys(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), tokens.lower_reshape),
}
"""Each binds the node's outputs; it raises UnsupportedOperatorError with the reason if it cannot."""
