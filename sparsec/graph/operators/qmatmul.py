"""sparsec::QMatMul: quantised rows times a constant quantised matrix, with its epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import integers, products, schema

DOC = products.DOC.format(product="(X - x_zero_point) @ (W - W_zero_point).T")


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    x, w = shapes[0] or (), shapes[1] or ()
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise ValueError(f"QMatMul cannot apply a weight of shape {w} to {x}")
    y = (*x[:-1], w[0])
    products.check(y, w[0], shapes[2:], attributes.get("y_type", "uint8"))
    return y


SCHEMA = schema.make(
    "QMatMul", DOC,
    [
        schema.required("X", "Q", "Activations (..., K)."),
        schema.required("W", "W", "Constant weight (M, K): outputs x inputs, row-major."),
        *products.WEIGHT,
    ],
    products.ATTRIBUTES,
    output_shape, integers.declared_type,
)


class QMatMul(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, W: np.ndarray, W_scale: np.ndarray, W_zero_point: np.ndarray | None = None,
             B: np.ndarray | None = None, C: np.ndarray | None = None, R: np.ndarray | None = None,
             X_scale: np.ndarray | None = None, X_zero_point: np.ndarray | None = None,
             **attributes: Any) -> tuple[np.ndarray]:
        x_scale, zero_point = products.input_scale(attributes, X_scale, X_zero_point)
        weight = W.astype(np.float64)
        if W_zero_point is not None:
            weight = weight - W_zero_point[:, np.newaxis]
        acc = integers.centred(X, zero_point) @ weight.T
        acc = acc if B is None else acc + B
        return (products.finish(acc, x_scale * W_scale, C, R, attributes),)
