"""sparsec::Conv: convolution by a constant weight, with its epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.defs import OpSchema
from onnx.helper import make_attribute
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import epilogue, schema

DOC = """
Y = activation(conv(X, W) + B + R), or activation(conv(X, W) + B) * R where R multiplies, in one or two spatial
dimensions.

The convolution is ONNX's, with the padding spelled out (no auto_pad) and the kernel shape taken from W.
"""


GEOMETRY = [
    OpSchema.Attribute("strides", OpSchema.AttrType.INTS, "One a spatial dimension; default 1.", required=False),
    OpSchema.Attribute("pads", OpSchema.AttrType.INTS, "Zeros before, then after, each spatial dimension; default 0.",
                       required=False),
    OpSchema.Attribute("dilations", OpSchema.AttrType.INTS, "One a spatial dimension; default 1.", required=False),
    OpSchema.Attribute("group", make_attribute("group", 1), "Groups of channels that do not mix."),
]
"""The attributes that say where the kernel goes."""


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    x, w = shapes[0] or (), shapes[1] or ()
    rank, group = len(w) - 2, attributes.get("group", 1)
    if rank not in (1, 2) or len(x) != len(w) or x[1] != w[1] * group or w[0] % group:
        raise ValueError(f"Conv cannot apply a weight of shape {w} in {group} groups to {x}")
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    spatial = [(x[2 + i] + pads[i] + pads[i + rank] - dilations[i] * (w[2 + i] - 1) - 1) // strides[i] + 1
               for i in range(rank)]
    y = (x[0], w[0], *spatial)
    epilogue.check(y, w[0], shapes[2:])
    return y


SCHEMA = schema.make(
    "Conv", DOC,
    [
        schema.required("X", "T", "Activations (N, C, L) or (N, C, H, W)."),
        schema.required("W", "T", "Constant weight (M, C / group, *kernel)."),
        schema.optional("B", "T", "Bias (M,)."),
        schema.optional("R", "T", "Residual, of the shape of Y."),
    ],
    [*GEOMETRY, *epilogue.ATTRIBUTES, epilogue.MULTIPLIES],
    output_shape,
)


def windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
            ) -> np.ndarray:
    """What the kernel sees of x (N, C, *spatial) at every output position: a view (N, C, *out, *kernel)."""
    rank = len(kernel)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    view = sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))  # (N, C, *out, *reach)
    return view[(slice(None),) * 2 + tuple(slice(None, None, s) for s in (*strides, *dilations))]


def convolve(x: np.ndarray, w: np.ndarray, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
             group: int) -> np.ndarray:
    """The plain convolution of x (N, C, *spatial) by w (M, C / group, *kernel)."""
    rank = w.ndim - 2
    seen = windows(x, w.shape[2:], strides, pads, dilations)
    n, c, *rest = seen.shape
    out, kernel = rest[:rank], rest[rank:]
    columns = np.moveaxis(seen.reshape(n, group, c // group, *out, *kernel), 2, 2 + rank)  # (N, G, *out, C/G, *k)
    columns = columns.reshape(n, group, int(np.prod(out)), -1)
    weight = w.reshape(group, w.shape[0] // group, -1)
    y: np.ndarray = weight @ columns.swapaxes(2, 3)  # (N, G, M/G, pixels)
    return y.reshape(n, w.shape[0], *out)


class Conv(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, W: np.ndarray, B: np.ndarray | None = None, R: np.ndarray | None = None, *,
             strides: Sequence[int] | None, pads: Sequence[int] | None, dilations: Sequence[int] | None, group: int,
             activation: str, alpha: float, beta: float, multiplies: int) -> tuple[np.ndarray]:
        rank = W.ndim - 2
        y = convolve(X, W, strides or [1] * rank, pads or [0] * 2 * rank, dilations or [1] * rank, group)
        bias = None if B is None else B.reshape(-1, *[1] * rank)
        return (epilogue.apply(y, bias, R, activation, alpha, beta, multiplies=bool(multiplies)),)
