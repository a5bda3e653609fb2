"""What the lowerings read of a sparsec::Conv or sparsec::MatMul: its constant inputs and its epilogue."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.cost.option import Option
from sparsec.cost.plan import CHOICE
from sparsec.graph.nodes import optional, weight_array
from sparsec.kernels.emit.epilogue import Epilogue


def bias_vector(node: ir.Node) -> np.ndarray:
    """The bias (outputs,), zeros where the node has none."""
    bias = optional(node, 2)
    return np.zeros(weight_array(node).shape[0], np.float32) if bias is None else _constant(bias)


def constant_vector(node: ir.Node, place: int) -> np.ndarray | None:
    """The constant input at a position, None where it is absent."""
    value = optional(node, place)
    return None if value is None else _constant(value)


def _constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None  # the lift pass takes constant weights only
    return value.const_value.numpy()


def residual(node: ir.Node) -> ir.Value | None:
    """The value that is added before the activation, or multiplies behind it."""
    return optional(node, 3)


def epilogue_of(node: ir.Node) -> Epilogue:
    """The epilogue."""
    attributes = node.attributes
    return Epilogue(attributes.get_string("activation", "none"), attributes.get_float("alpha", 0.0),
                    attributes.get_float("beta", 0.0), residual(node) is not None,
                    multiplies=bool(attributes.get_int("multiplies", 0)))


def chosen(node: ir.Node) -> Option:
    """The option that the plan chose."""
    return CHOICE.require(node).winner.option


def spatial(node: ir.Node, name: str, default: int) -> tuple[int, int]:
    """A spatial attribute as (height, width); a sequence has height 1."""
    rank = weight_array(node).ndim - 2
    values = node.attributes.get_ints(name, (default,) * rank)
    return (default, values[0]) if rank == 1 else (values[0], values[1])


def window(node: ir.Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """The kernel's (height, width) and the (top, left) padding."""
    kernel = (1, *weight_array(node).shape[2:])[-2:]
    pads = node.attributes.get_ints("pads", (0,) * 4)
    return kernel, (0, pads[0]) if len(pads) == 2 else (pads[0], pads[1])
