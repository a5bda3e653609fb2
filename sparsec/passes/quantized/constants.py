"""Weights of quantised models: codes that are constants, directly in front of the layer that reads them.

QuantizeLinear of a constant is computed, codes of 4 bits become int8. What moves the elements of a dequantised constant
(Transpose, Reshape …) moves its codes instead. Where codes have scales for blocks, are no such integers, or meet
activations that are not quantised, the weight becomes the float32 constant that it stands for.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.errors import ModelError
from sparsec.graph.constants import add_constant, constant
from sparsec.graph.evaluate import run_node
from sparsec.graph.nodes import node_name
from sparsec.graph.quantized import MOVES as ANY_MOVES
from sparsec.graph.quantized import Codes, dequantized
from sparsec.passes import rewrite

MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
NARROW = ("int4", "uint4")
PARTNERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Layers whose weight stays codes while their activations are codes, too."""


def run(graph: ir.Graph) -> int:
    """Rewrites the constants of a sorted graph, in place; returns how many."""
    count = 0
    for node in list(graph):
        if node.domain or node.graph is None:
            continue
        if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is not None:
            _quantize(node)
        elif node.op_type == "DequantizeLinear" and _is_narrow(node):
            _widen(node)
        elif node.op_type in MOVES and (codes := dequantized(node.inputs[0])) is not None:
            _move(node, codes)
        else:
            continue
        count += 1
    for node in list(graph):
        codes = dequantized(node.outputs[0]) if node.op_type == "DequantizeLinear" else None
        if codes is not None and _becomes_float(node, codes):
            fold(node, codes.values())
            count += 1
    return count


def _is_narrow(node: ir.Node) -> bool:
    codes = dequantized(node.outputs[0])
    return codes is not None and codes.axis is not None and codes.codes.dtype.name in NARROW


def _widen(node: ir.Node) -> None:
    """Codes and zero points of 4 bits as int8, which holds signed and unsigned ones."""
    assert node.graph is not None
    for index in (0, 2):
        array = constant(node.inputs[index]) if index < len(node.inputs) else None
        if array is not None:
            value = add_constant(node.graph, f"{node_name(node)}.{index}", array.astype(np.int8))
            node.replace_input_with(index, value)


def _quantize(node: ir.Node) -> None:
    assert node.graph is not None
    arrays = [None if value is None else constant(value) for value in node.inputs]
    if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
        return
    fold(node, np.asarray(run_node(node, arrays, dict(node.graph.opset_imports))[0]))


def fold(node: ir.Node, array: np.ndarray) -> None:
    """Puts a constant in the place of a node."""
    assert node.graph is not None
    value = add_constant(node.graph, f"{node_name(node)}.folded", array)
    old = node.outputs[0]
    if old.is_graph_output():
        identity = ir.node("Identity", [value])
        node.prepend(identity)
        rewrite.take_over(identity.outputs[0], old)
    else:
        old.replace_all_uses_with(value)
    node.graph.remove(node, safe=True)


def _move(node: ir.Node, codes: Codes) -> None:
    """DequantizeLinear moves behind what moves elements; floats where scales do not stay on one axis."""
    others = [constant(value) for value in node.inputs[1:]]
    if any(array is None for array in others):
        return
    assert node.graph is not None
    opsets = dict(node.graph.opset_imports)

    def moved(array: np.ndarray) -> np.ndarray:
        return np.asarray(run_node(node, [np.ascontiguousarray(array), *others], opsets)[0])

    narrow = codes.codes.dtype.name in NARROW
    own = codes.codes.astype(np.int8) if narrow else codes.codes
    scale, zero = (moved(np.broadcast_to(array, own.shape)) for array in (
        codes.scale, codes.zero_point.astype(np.int8) if narrow else codes.zero_point))
    axis = _only_axis(scale, zero)
    if axis is None:
        fold(node, moved(codes.values()))
        return
    name = node_name(node)
    parameters = [_along(array, axis) for array in (scale, zero)]
    arrays = {"codes": moved(own), "scale": parameters[0], "zero_point": parameters[1].astype(own.dtype)}
    inputs = [add_constant(node.graph, f"{name}.{suffix}", array) for suffix, array in arrays.items()]
    dequantize = ir.node("DequantizeLinear", inputs, {} if axis < 0 else {"axis": axis}, name=f"{name}.dequantize")
    node.prepend(dequantize)
    rewrite.take_over(dequantize.outputs[0], node.outputs[0])
    node.graph.remove(node, safe=True)


def _only_axis(*arrays: np.ndarray) -> int | None:
    """The axis along which arrays vary, -1 where they do not, None where they vary along several."""
    varying = {axis for array in arrays for axis in range(array.ndim)
               if array.shape[axis] > 1 and (array != array.take([0], axis)).any()}
    return None if len(varying) > 1 else varying.pop() if varying else -1


def _along(array: np.ndarray, axis: int) -> np.ndarray:
    """The numbers along an axis, or the only one."""
    if axis < 0:
        return array.reshape(-1)[:1].reshape(())
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)[:, 0]


def _becomes_float(node: ir.Node, codes: Codes) -> bool:
    """Whether a weight is better the floats that it stands for."""
    if codes.axis is None or codes.codes.dtype not in (np.int8, np.uint8, np.int32):
        return True
    for user, index in node.outputs[0].uses():
        partner = user.inputs[1 - index] if index < 2 and len(user.inputs) > 1 else None
        if user.domain == "" and user.op_type in PARTNERS and index < 2 and not _is_dequantized(partner):
            return True
    return False


def _is_dequantized(value: ir.Value | None) -> bool:
    """Whether a value is what codes stand for, moved or not."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ANY_MOVES and not node.domain and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear" and not node.domain


def check_scales(graph: ir.Graph) -> None:
    """Raises ModelError where a constant scale is infinite or NaN, or one to divide by not above 0; names the node."""
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not node.domain:
            scale = constant(node.inputs[1])
            if scale is None:
                continue
            fine = np.isfinite(scale) & ((scale > 0) | (node.op_type == "DequantizeLinear"))
            if not fine.all():
                raise ModelError(f"node '{node_name(node)}' ({node.op_type}): its scale is "
                                 f"{scale[~fine].reshape(-1)[0]}; scales are finite numbers above 0, quantise the "
                                 "model again")
