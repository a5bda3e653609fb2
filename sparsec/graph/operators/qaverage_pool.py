"""sparsec::QAveragePool: means of a quantised image's windows; over the whole image with a kernel of its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.helper import make_attribute
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import conv, integers, schema

DOC = """
acc = the sum of X - x_zero_point over the window, n = the elements of it that count, as in ONNX's AveragePool.
Quantised Y: clamp(rint(float(acc) * (x_scale / (n * y_scale))) + y_zero_point, low, high), in float32.
Y of float32: float(acc) * (x_scale / n).
"""


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    x, kernel = shapes[0] or (), attributes["kernel_shape"]
    rank = len(kernel)
    if len(x) != rank + 2:
        raise ValueError(f"QAveragePool cannot move a window of shape {tuple(kernel)} over {x}")
    strides, pads = attributes.get("strides", [1] * rank), attributes.get("pads", [0] * 2 * rank)
    return (*x[:2], *((x[2 + i] + pads[i] + pads[i + rank] - kernel[i]) // strides[i] + 1 for i in range(rank)))


SCHEMA = schema.make(
    "QAveragePool", DOC,
    [schema.required("X", "Q", "Activations (N, C, L) or (N, C, H, W).")],
    [OpSchema.Attribute("kernel_shape", OpSchema.AttrType.INTS, "The window.", required=True),
     *(each for each in conv.GEOMETRY if each.name in ("strides", "pads")),
     OpSchema.Attribute("count_include_pad", make_attribute("count_include_pad", 0), "Whether padding counts in n."),
     *integers.scale_of("x", "X"), *integers.RESULT],
    output_shape, integers.declared_type,
)


class QAveragePool(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, *, kernel_shape: Sequence[int], strides: Sequence[int] | None,
             pads: Sequence[int] | None, count_include_pad: int, x_scale: float, x_zero_point: int, y_type: str,
             y_scale: float, y_zero_point: int, low: int, high: int) -> tuple[np.ndarray]:
        rank = len(kernel_shape)
        taps = tuple(range(-rank, 0))

        def sums(x: np.ndarray) -> np.ndarray:
            seen = conv.windows(x, kernel_shape, strides or [1] * rank, pads or [0] * 2 * rank, [1] * rank)
            return np.asarray(seen.sum(axis=taps))

        acc = sums(integers.centred(X, x_zero_point)).astype(np.float32)
        inside = np.float32(np.prod(kernel_shape)) if count_include_pad else sums(np.ones((1, 1, *X.shape[2:])))
        count = np.asarray(inside, np.float32)
        if y_type == "float32":
            return (acc * (np.float32(x_scale) / count),)
        share = np.float32(x_scale) / (count * np.float32(y_scale))
        return (integers.quantize(acc * share, y_zero_point, y_type, low, high),)
