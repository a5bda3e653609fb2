"""sparsec::QBinary: the sum, difference or product of two quantised tensors, element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import integers, schema

DOC = """
With a = A - a_zero_point and b = B - b_zero_point, which broadcast, in float32 operations, each rounded:
    add, sub: v = a * (a_scale / y_scale) +- b * (b_scale / y_scale),
    mul: v = (a * b) * ((a_scale * b_scale) / y_scale),
    Y = clamp(rint(v) + y_zero_point, low, high).
"""
FUNCTIONS = ("add", "sub", "mul")


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    if attributes["function"] not in FUNCTIONS:
        raise ValueError(f"the function is '{attributes['function']}', not one of {', '.join(FUNCTIONS)}")
    if attributes.get("y_type", "uint8") not in integers.CODES:
        raise ValueError(f"y_type is '{attributes['y_type']}', not one of {', '.join(integers.CODES)}")
    return np.broadcast_shapes(shapes[0] or (), shapes[1] or ())


SCHEMA = schema.make(
    "QBinary", DOC,
    [schema.required("A", "Q", "Codes."), schema.required("B", "Q", "Codes that broadcast with A.")],
    [OpSchema.Attribute("function", OpSchema.AttrType.STRING, f"One of {', '.join(FUNCTIONS)}.", required=True),
     *integers.scale_of("a", "A"), *integers.scale_of("b", "B"), *integers.RESULT],
    output_shape, integers.declared_type,
)


class QBinary(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, A: np.ndarray, B: np.ndarray, *, function: str, a_scale: float, a_zero_point: int, b_scale: float,
             b_zero_point: int, y_type: str, y_scale: float, y_zero_point: int, low: int,
             high: int) -> tuple[np.ndarray]:
        a, b = (integers.centred(codes, zero).astype(np.float32)
                for codes, zero in ((A, a_zero_point), (B, b_zero_point)))
        if function == "mul":
            value = a * b * integers.units(np.float32(a_scale) * np.float32(b_scale), y_scale)
        else:
            left, right = a * integers.units(a_scale, y_scale), b * integers.units(b_scale, y_scale)
            value = left + right if function == "add" else left - right
        return (integers.quantize(value, y_zero_point, y_type, low, high),)
