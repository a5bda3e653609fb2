"""sparsec::Attention: scaled dot-product attention over several heads, on unsplit projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.defs import OpSchema
from onnx.reference.op_run import OpRun
from scipy.special import softmax

from sparsec.graph.operators import schema

DOC = """
Y = concat_heads(softmax(scale * Q_h K_h^T + mask) V_h) for every head h (Vaswani et al. 2017, section 3.2).

Head h of a projection is its slice [h * D, (h + 1) * D) along the last axis.
"""


def output_shape(shapes: Sequence[schema.Shape | None], attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    q, k, v = (shape or () for shape in shapes[:3])
    heads = attributes["heads"]
    if len(q) != 3 or len(k) != 3 or k != v or q[0] != k[0] or q[2] != k[2] or q[2] % heads:
        raise ValueError(f"Attention cannot combine {q}, {k} and {v} in {heads} heads")
    mask = shapes[3] if len(shapes) > 3 else None
    scores = (q[0], heads, q[1], k[1])
    if mask is not None and np.broadcast_shapes(mask, scores) != scores:
        raise ValueError(f"the mask {mask} does not broadcast to the scores {scores}")
    return q


SCHEMA = schema.make(
    "Attention", DOC,
    [
        schema.required("Q", "T", "Queries (B, T, heads * D)."),
        schema.required("K", "T", "Keys (B, S, heads * D)."),
        schema.required("V", "T", "Values (B, S, heads * D)."),
        schema.optional("mask", "T", "Added to the scores; broadcasts to (B, heads, T, S)."),
    ],
    [
        OpSchema.Attribute("heads", OpSchema.AttrType.INT, "Number of heads.", required=True),
        OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, "Factor on the scores.", required=True),
    ],
    output_shape,
)


class Attention(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, Q: np.ndarray, K: np.ndarray, V: np.ndarray, mask: np.ndarray | None = None, *, heads: int,
             scale: float) -> tuple[np.ndarray]:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (Q, K, V))  # (B, heads, T or S, D)
        scores = scale * (q @ k.swapaxes(2, 3))
        weights = softmax(scores if mask is None else scores + mask, axis=-1)
        return ((weights @ v).swapaxes(1, 2).reshape(Q.shape).astype(np.float32),)
