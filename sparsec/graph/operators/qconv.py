"""sparsec::QConv: convolution of a quantised image by a constant quantised weight, with its epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import conv, integers, products, schema

DOC = products.DOC.format(product="conv(X - x_zero_point, W - W_zero_point)") + """
The convolution is sparsec::Conv's; its padding stands for zero, so that its code is x_zero_point.
"""


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    y = conv.output_shape(shapes[:2], attributes)
    products.check(y, y[1], shapes[2:], attributes.get("y_type", "uint8"))
    return y


SCHEMA = schema.make(
    "QConv", DOC,
    [
        schema.required("X", "Q", "Activations (N, C, L) or (N, C, H, W)."),
        schema.required("W", "W", "Constant weight (M, C / group, *kernel)."),
        *products.WEIGHT,
    ],
    [*conv.GEOMETRY, *products.ATTRIBUTES],
    output_shape, integers.declared_type,
)


class QConv(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, W: np.ndarray, W_scale: np.ndarray, W_zero_point: np.ndarray | None = None,
             B: np.ndarray | None = None, C: np.ndarray | None = None, R: np.ndarray | None = None,
             X_scale: np.ndarray | None = None, X_zero_point: np.ndarray | None = None, *,
             strides: Sequence[int] | None, pads: Sequence[int] | None, dilations: Sequence[int] | None, group: int,
             **attributes: Any) -> tuple[np.ndarray]:
        rank = W.ndim - 2
        x_scale, zero_point = products.input_scale(attributes, X_scale, X_zero_point)

        def channels(vector: np.ndarray | None) -> np.ndarray | None:
            return None if vector is None else vector.reshape(-1, *[1] * rank)

        weight = W.astype(np.float64)
        if W_zero_point is not None:
            weight = weight - W_zero_point.reshape(-1, *[1] * (rank + 1))
        acc = conv.convolve(integers.centred(X, zero_point), weight, strides or [1] * rank,
                            pads or [0] * 2 * rank, dilations or [1] * rank, group)
        acc = acc if B is None else acc + channels(B)
        scale = x_scale * W_scale.reshape(-1, *[1] * rank)
        return (products.finish(acc, scale, channels(C), R, attributes),)
