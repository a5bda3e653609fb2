"""What the lowerings read of a sparsec::Conv or sparsec::MatMul: its constant inputs and its epilogue."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.kernels.product import Epilogue


def weight_array(node: ir.Node) -> np.ndarray:
    """The weight as it stands in the graph."""
    return _constant(node.inputs[1])


def bias_vector(node: ir.Node) -> np.ndarray:
    """The bias (outputs,), zeros where the node has none."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return np.zeros(weight_array(node).shape[0], np.float32) if bias is None else _constant(bias)


def _constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None  # the lift pass takes constant weights only
    return value.const_value.numpy()


def residual(node: ir.Node) -> ir.Value | None:
    """The value that is added before the activation."""
    return node.inputs[3] if len(node.inputs) > 3 else None


def epilogue_of(node: ir.Node) -> Epilogue:
    """The epilogue."""
    attributes = node.attributes
    return Epilogue(attributes.get_string("activation", "none"), attributes.get_float("alpha", 0.0),
                    attributes.get_float("beta", 0.0), residual(node) is not None)
