"""Writing an operator's definition out in ONNX's operators, in front of the node that it stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.definition import GraphDefinition
from sparsec.passes import rewrite

NORM_SINCE, GELU_SINCE, AXES_SINCE = 17, 20, 18
"""The opsets that define LayerNormalization and Gelu, and from which reductions take their axes as an input."""

WAYS_OUT = {
    "com.microsoft": "export the model without onnxruntime's optimisation, or optimise it at its basic level only",
    "com.microsoft.nchwc": "optimise the model at onnxruntime's extended level at most: what it does beyond is for one "
                           "processor",
    "ai.onnx.ml": "run this part before the model, in onnxruntime or scikit-learn, and compile the rest",
}
"""By domain: what to do where an operator of it, or a form of it, is not taken."""


class Body(GraphDefinition):
    """The definition of one node.

    Attributes:
        opset: the version of ONNX's operators in its model.
        float: the element type of its floating-point values.

    """

    def __init__(self, node: ir.Node, opset: int, dtype: ir.DataType) -> None:
        super().__init__(node)
        self.opset, self.float = opset, dtype

    def number(self, value: float) -> ir.Value:
        """A floating-point constant of the node's type."""
        return self.constant(value, self.float.numpy())

    def integers(self, *values: int) -> ir.Value:
        """A vector of int64."""
        return self.constant(values, np.int64)

    def result(self, index: int, value: ir.Value) -> None:
        """Let a value stand for an output of the node, if it has that output."""
        if index < len(self.node.outputs) and self.node.outputs[index].name:
            own = value if value.producer() is not None else self.put("Identity", value)  # inputs keep their names
            rewrite.take_over(own, self.node.outputs[index])

    def wants(self, index: int) -> bool:
        """Whether something reads an output."""
        outputs = self.node.outputs
        return index < len(outputs) and bool(outputs[index].uses() or outputs[index].is_graph_output())

    def refused(self, reason: str) -> UnsupportedOperatorError:
        """The error for a form of the operator that is not taken."""
        way = WAYS_OUT.get(self.node.domain, WAYS_OUT["com.microsoft"])
        return super().refused(f"{reason}; {way}" if self.node.domain else reason)

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute, or the default where it is absent."""
        return int(self.node.attributes.get_int(name, default) or 0)

    def real(self, name: str, default: float) -> float:
        """A float attribute, or the default where it is absent."""
        found = self.node.attributes.get_float(name, default)
        return default if found is None else float(found)

    def rank(self, value: ir.Value) -> int:
        """The number of a value's dimensions."""
        if value.shape is None:
            raise self.refused(f"the rank of '{value.name}' is unknown")
        return len(value.shape)

    def dims(self, value: ir.Value) -> tuple[int, ...]:
        """The static shape of a value."""
        if value.shape is None or not value.shape.is_static():
            raise self.refused(f"the shape of '{value.name}' is not known: bind it with dims or shapes")
        return tuple(value.shape.numpy())

    def dim(self, value: ir.Value, axis: int) -> int:
        """One static dimension of a value."""
        size = None if value.shape is None else value.shape[axis]
        if not isinstance(size, int):
            raise self.refused(f"dimension {axis} of '{value.name}' is not known: bind it with dims or shapes")
        return size

    def is_static(self, index: int) -> bool:
        """Whether the shape of an input is known, or there is none."""
        value = self.input(index)
        return value is None or (value.shape is not None and value.shape.is_static())

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """A value of another shape; 0 keeps a dimension, -1 takes what is left."""
        return self.put("Reshape", x, self.integers(*shape))

    def unsqueeze(self, x: ir.Value, *axes: int) -> ir.Value:
        """A value with more dimensions of one."""
        return self.put("Unsqueeze", x, self.integers(*axes))

    def length(self, x: ir.Value, axis: int) -> ir.Value:
        """The size of a dimension, a scalar."""
        shape = self.put("Shape", x)
        return self.put("Gather", shape, self.constant(axis, np.int64))

    def split(self, x: ir.Value, axis: int, sizes: Sequence[int]) -> list[ir.Value]:
        """A value in parts along an axis."""
        return self.several("Split", len(sizes), x, self.integers(*sizes), axis=axis)

    def mean(self, x: ir.Value) -> ir.Value:
        """The mean along the last axis, which stays."""
        if self.opset < AXES_SINCE:
            return self.put("ReduceMean", x, axes=[-1], keepdims=1)
        return self.put("ReduceMean", x, self.integers(-1), keepdims=1)

    def layer_norm(self, x: ir.Value, scale: ir.Value, bias: ir.Value | None, epsilon: float) -> ir.Value:
        """LayerNormalization along the last axis."""
        if self.opset >= NORM_SINCE:
            given = [x, scale] if bias is None else [x, scale, bias]
            return self.put("LayerNormalization", *given, axis=-1, epsilon=epsilon)
        deviation = self.put("Sub", x, self.mean(x))
        variance = self.mean(self.put("Mul", deviation, deviation))
        spread = self.put("Sqrt", self.put("Add", variance, self.number(epsilon)))
        y = self.put("Mul", self.put("Div", deviation, spread), scale)
        return y if bias is None else self.put("Add", y, bias)

    def rms_norm(self, x: ir.Value, scale: ir.Value, epsilon: float) -> ir.Value:
        """The value over the root of the mean of its squares along the last axis."""
        square = self.mean(self.put("Mul", x, x))
        root = self.put("Sqrt", self.put("Add", square, self.number(epsilon)))
        return self.put("Mul", self.put("Div", x, root), scale)

    def highest(self, x: ir.Value) -> ir.Value:
        """The maximum along the last axis, which stays."""
        if self.opset < AXES_SINCE:
            return self.put("ReduceMax", x, axes=[-1], keepdims=1)
        return self.put("ReduceMax", x, self.integers(-1), keepdims=1)

    def capped(self, x: ir.Value, cap: float) -> ir.Value:
        """Scores that approach a soft cap, which is not positive for none."""
        return x if cap <= 0 else self.put("Mul", self.put("Tanh", self.put("Mul", x, self.number(1 / cap))),
                                          self.number(cap))

    def gelu(self, x: ir.Value, *, tanh: bool = False) -> ir.Value:
        """Gelu, by erf or by tanh."""
        if self.opset >= GELU_SINCE:
            return self.put("Gelu", x, approximate="tanh" if tanh else "none")
        half = self.put("Mul", x, self.number(0.5))
        if tanh:
            cube = self.put("Mul", self.put("Mul", self.put("Mul", x, x), x), self.number(0.044715))
            inner = self.put("Mul", self.put("Add", x, cube), self.number(np.sqrt(2 / np.pi)))
            gate = self.put("Tanh", inner)
        else:
            gate = self.put("Erf", self.put("Div", x, self.number(np.sqrt(2))))
        return self.put("Mul", half, self.put("Add", gate, self.number(1)))

    def add(self, *terms: ir.Value | None) -> ir.Value:
        """The sum of the terms that are present, the first of which is."""
        present = [term for term in terms if term is not None]
        total = present[0]
        for term in present[1:]:
            total = self.put("Add", total, term)
        return total
