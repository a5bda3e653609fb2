"""Writing quantised operators out as DequantizeLinear, ONNX's operator on floats, QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import node_name
from sparsec.passes import rewrite

LAYERS = ("Conv", "Gemm", "MatMul")
"""What keeps the name of the node, because it is what the node does."""


class Writer:
    """Puts nodes in front of the one that they stand for, and names them after it."""

    def __init__(self, node: ir.Node) -> None:
        assert node.graph is not None
        self.node, self.graph, self._name = node, node.graph, node_name(node)
        self._count = 0

    def put(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node of ONNX's own domain, its only one."""
        return self.put_several(op_type, 1, *inputs, **attributes)[0]

    def put_several(self, op_type: str, outputs: int, *inputs: ir.Value | None, **attributes: Any) -> list[ir.Value]:
        """The outputs of a new node."""
        name = self._name if op_type in LAYERS else f"{self._name}/{self._count}"
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{self._name}/{self._count}.{index}"
        self._count += 1
        self.node.prepend(node)
        return list(node.outputs)

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        """A new constant."""
        return add_constant(self.graph, f"{self._name}/constant", np.asarray(array, dtype))

    def input(self, index: int) -> ir.Value | None:
        """An input of the node, None where it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def needed(self, index: int) -> ir.Value:
        """An input that the operator cannot do without."""
        value = self.input(index)
        assert value is not None
        return value

    def dequantize(self, codes: ir.Value, scale: ir.Value, zero_point: ir.Value | None, axis: int = 1) -> ir.Value:
        """What codes stand for; parameters of several elements lie along the axis, or broadcast."""
        scale, zero_point = self._alike(scale, zero_point)
        rank = 0 if scale.shape is None else len(scale.shape)
        if rank > 1:
            centred = self.put("Cast", codes, to=ir.DataType.FLOAT)
            if zero_point is not None:
                centred = self.put("Sub", centred, self.put("Cast", zero_point, to=ir.DataType.FLOAT))
            return self.put("Mul", centred, scale)
        given = [codes, scale] if zero_point is None else [codes, scale, zero_point]
        return self.put("DequantizeLinear", *given, axis=axis) if rank else self.put("DequantizeLinear", *given)

    def _alike(self, scale: ir.Value, zero_point: ir.Value | None) -> tuple[ir.Value, ir.Value | None]:
        """Constant parameters of one shape, as DequantizeLinear wants them: one number is a scalar."""
        s, z = constant(scale), constant(zero_point)
        if s is None or (z is None and zero_point is not None):
            return scale, zero_point
        shape = np.broadcast_shapes(s.shape, () if z is None else z.shape)
        shape = () if np.prod(shape) == 1 else shape
        scale = scale if s.shape == shape else self.constant(_shaped(s, shape), s.dtype)
        if z is not None and z.shape != shape:
            zero_point = self.constant(_shaped(z, shape), z.dtype)
        return scale, zero_point

    def quantize(self, value: ir.Value, scale: ir.Value, zero_point: ir.Value | None, dtype: ir.DataType) -> ir.Value:
        """Codes of a value, of a type where there is no zero point to tell it."""
        scale, zero_point = self._alike(scale, zero_point)
        if zero_point is None:
            known = constant(scale)
            zero_point = self.constant(np.zeros(() if known is None else known.shape), dtype.numpy())
        return self.put("QuantizeLinear", value, scale, zero_point)

    def replace(self, result: ir.Value, index: int = 0) -> None:
        """Let a value stand for an output of the node."""
        rewrite.take_over(result, self.node.outputs[index])


def _shaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(shape) if array.size == 1 and not shape else np.broadcast_to(array, shape)
