"""sparsec::MatMul: multiplication by a constant matrix on either side, with its epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.helper import make_attribute
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import epilogue, schema

DOC = """
Y = activation(X @ W.T + B + R) for side "right", the linear layer: X (..., K), Y (..., M).
Y = activation(W @ X + B + R) for side "left": X (..., K, N), Y (..., M, N), with B along M.
Where R multiplies, activation(... + B) * R.
"""


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    x, w = shapes[0] or (), shapes[1] or ()
    left = attributes.get("side", "right") == "left"
    if len(w) != 2 or len(x) < 1 + left or x[-2 if left else -1] != w[1]:
        raise ValueError(f"MatMul cannot apply a weight of shape {w} to {x}")
    y = (*x[:-2], w[0], x[-1]) if left else (*x[:-1], w[0])
    epilogue.check(y, w[0], shapes[2:])
    return y


SCHEMA = schema.make(
    "MatMul", DOC,
    [
        schema.required("X", "T", "Activations (..., K), or (..., K, N) where the weight is on the left."),
        schema.required("W", "T", "Constant weight (M, K): outputs x inputs, row-major."),
        schema.optional("B", "T", "Bias (M,)."),
        schema.optional("R", "T", "Residual, of the shape of Y."),
    ],
    [
        OpSchema.Attribute("side", make_attribute("side", "right"), "Where the weight stands: right or left."),
        *epilogue.ATTRIBUTES,
        epilogue.MULTIPLIES,
    ],
    output_shape,
)


class MatMul(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, W: np.ndarray, B: np.ndarray | None = None, R: np.ndarray | None = None, *,
             side: str, activation: str, alpha: float, beta: float, multiplies: int) -> tuple[np.ndarray]:
        left = side == "left"
        y = W @ X if left else X @ W.T
        bias = B[:, np.newaxis] if left and B is not None else B
        return (epilogue.apply(y, bias, R, activation, alpha, beta, multiplies=bool(multiplies)),)
