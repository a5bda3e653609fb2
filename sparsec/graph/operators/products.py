"""What follows the integer sums of QConv, QMatMul and QBatchMatMul: requantisation, residual, clamp; or float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.helper import make_attribute

from sparsec.graph.operators import epilogue, integers
from sparsec.graph.operators.schema import Shape, optional, required

DOC = """
acc = {product} + B, exact, over X - x_zero_point and W - W_zero_point; what is zero is what equals the zero point.
Quantised Y, in float32 operations, each rounded:
    Y = clamp(rint(float(acc) * ((x_scale * W_scale) / y_scale)) + y_zero_point, low, high).
With a residual R the product takes its own codes first, as where a Q and a DQ stand before the addition:
    P = clamp(rint(float(acc) * ((x_scale * W_scale) / p_scale)) + p_zero_point, p_low, p_high),
    Y = clamp(rint((P - p_zero_point) * (p_scale / y_scale) + (R - r_zero_point) * (r_scale / y_scale)) + y_zero_point,
              low, high).
Y of float32: Y = activation(float(acc) * (x_scale * W_scale) + C + R), where R is float32.
X_scale and X_zero_point are given where DynamicQuantizeLinear finds them at run time; they stand in for x_scale and
x_zero_point, and Y is float32 then.
"""

WEIGHT = [
    required("W_scale", "F", "Constant scales of the weight's outputs (M,)."),
    optional("W_zero_point", "W", "Constant zero points of the weight's outputs (M,), 0 if absent."),
    optional("B", "I", "Constant bias (M,), in units of x_scale * W_scale."),
    optional("C", "F", "Constant bias (M,) of a float32 Y."),
    optional("R", "R", "Residual, which broadcasts to Y; codes unless Y is float32."),
    optional("X_scale", "F", "Scale of X, found at run time: one number."),
    optional("X_zero_point", "Q", "Zero point of X, found at run time: one code of X's type."),
]
"""The inputs behind X and W."""
SCALE, ZERO_POINT, BIAS, FLOAT_BIAS, RESIDUAL, X_SCALE, X_ZERO_POINT = range(2, 9)
"""Their positions."""

ATTRIBUTES = [
    *integers.scale_of("x", "X"),
    *integers.RESULT,
    *integers.scale_of("p", "the product, where there is a residual"),
    OpSchema.Attribute("p_type", make_attribute("p_type", "uint8"), "Element type of the product's codes."),
    OpSchema.Attribute("p_low", make_attribute("p_low", -128), "The smallest code of the product."),
    OpSchema.Attribute("p_high", make_attribute("p_high", 255), "The largest code of the product."),
    *integers.scale_of("r", "R"),
    *epilogue.ATTRIBUTES,
]


def check(y: Shape, outputs: int, shapes: Sequence[Shape | None], y_type: str) -> None:
    """Raises ValueError if the inputs behind X and W do not fit a weight of so many outputs and a result `y`."""
    if any(shape is not None and np.prod(shape) != 1 for shape in shapes[X_SCALE - SCALE:]):
        raise ValueError("X_scale and X_zero_point must be scalars")
    if len(shapes) > X_SCALE - SCALE and y_type != "float32":
        raise ValueError("with scales found at run time y_type is float32")
    for parameter, shape in zip(WEIGHT, shapes, strict=False):
        if shape is None:
            continue
        if parameter.name == "R":
            if len(shape) > len(y) or np.broadcast_shapes(shape, y) != y:
                raise ValueError(f"R has shape {shape}, which does not broadcast to {y}")
        elif not parameter.name.startswith("X_") and shape != (outputs,):
            raise ValueError(f"{parameter.name} has shape {shape}, not {(outputs,)}")


def input_scale(attributes: dict[str, Any], scale: np.ndarray | None,
                zero_point: np.ndarray | None) -> tuple[np.float32, int]:
    """Scale and zero point of X: those found at run time, or the attributes."""
    if scale is None:
        return np.float32(attributes["x_scale"]), attributes["x_zero_point"]
    return np.float32(scale.item()), 0 if zero_point is None else int(zero_point.item())


def finish(acc: np.ndarray, scale: np.ndarray, addend: np.ndarray | None, residual: np.ndarray | None,
           attributes: dict[str, Any]) -> np.ndarray:
    """Y from the exact sums, with `scale` x_scale * W_scale and `addend` C, shaped to broadcast."""
    a = attributes
    sums = acc.astype(np.float32)
    if a["y_type"] == "float32":
        y = sums * scale.astype(np.float32)
        return epilogue.apply(y, addend, residual, a["activation"], a["alpha"], a["beta"])
    if residual is None:
        return integers.quantize(sums * integers.units(scale, a["y_scale"]), a["y_zero_point"], a["y_type"], a["low"],
                                 a["high"])
    own = integers.quantize(sums * integers.units(scale, a["p_scale"]), a["p_zero_point"], a["p_type"], a["p_low"],
                            a["p_high"])
    total = (integers.centred(own, a["p_zero_point"]).astype(np.float32) * integers.units(a["p_scale"], a["y_scale"])
             + integers.centred(residual, a["r_zero_point"]).astype(np.float32)
             * integers.units(a["r_scale"], a["y_scale"]))
    return integers.quantize(total, a["y_zero_point"], a["y_type"], a["low"], a["high"])
