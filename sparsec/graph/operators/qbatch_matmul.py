"""sparsec::QBatchMatMul: the product of two quantised tensors that are both computed, as attention has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import integers, schema

DOC = """
acc = (A - a_zero_point) @ (B - b_zero_point), numpy's product of matrices with broadcast batches, exact.
Quantised Y: clamp(rint(float(acc) * ((a_scale * b_scale) / y_scale)) + y_zero_point, low, high), in float32.
Y of float32: float(acc) * (a_scale * b_scale).
"""


def output_shape(shapes: Sequence[schema.Shape | None], _attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    a, b = shapes[0] or (), shapes[1] or ()
    if min(len(a), len(b)) < 2 or a[-1] != b[-2]:
        raise ValueError(f"QBatchMatMul cannot multiply {a} and {b}")
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


SCHEMA = schema.make(
    "QBatchMatMul", DOC,
    [
        schema.required("A", "Q", "Codes (..., T, K)."),
        schema.required("B", "Q", "Codes (..., K, N)."),
    ],
    [*integers.scale_of("a", "A"), *integers.scale_of("b", "B"), *integers.RESULT],
    output_shape, integers.declared_type,
)


class QBatchMatMul(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, A: np.ndarray, B: np.ndarray, *, a_scale: float, a_zero_point: int, b_scale: float,
             b_zero_point: int, y_type: str, y_scale: float, y_zero_point: int, low: int,
             high: int) -> tuple[np.ndarray]:
        sums = (integers.centred(A, a_zero_point) @ integers.centred(B, b_zero_point)).astype(np.float32)
        scale = np.float32(a_scale) * np.float32(b_scale)
        if y_type == "float32":
            return (sums * scale,)
        return (integers.quantize(sums * integers.units(scale, y_scale), y_zero_point, y_type, low, high),)
