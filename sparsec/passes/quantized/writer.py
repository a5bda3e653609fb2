"""Writing quantised operators out as DequantizeLinear, ONNX's operator on floats, QuantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.definition import GraphDefinition
from sparsec.passes import rewrite

LAYERS = ("Conv", "Gemm", "MatMul")
"""What keeps the name of the node, because it is what the node does."""


class Writer(GraphDefinition):
    """The definition of one node."""

    def _name_of(self, op_type: str) -> str:
        """A layer keeps the name of the node."""
        return self._name if op_type in LAYERS else super()._name_of(op_type)

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
