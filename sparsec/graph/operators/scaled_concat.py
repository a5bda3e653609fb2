"""sparsec::ScaledConcat: channels of images one after the other, each scaled and shifted, and activated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import epilogue, schema


def output_shape(shapes: Sequence[schema.Shape | None], _attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    w, b, *images = (shape or () for shape in shapes)
    batch, *spatial = {(*x[:1], *x[2:]) for x in images}
    channels = sum(x[1] for x in images if len(x) == 4)
    if spatial or len(batch) != 3 or w != (channels,) or b != (channels,):
        raise ValueError(f"ScaledConcat cannot apply W {w} and B {b} to {images}")
    return batch[0], channels, *batch[1:]


SCHEMA = schema.make(
    "ScaledConcat", "Y = activation(concat(X...) * W + B) along the channels.",
    [schema.required("W", "T", "A factor for every channel (C,)."),
     schema.required("B", "T", "An offset for every channel (C,)."),
     schema.variadic("X", "T", "Images (N, c, H, W), C channels in all.")],
    epilogue.ATTRIBUTES,
    output_shape,
)


class ScaledConcat(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, W: np.ndarray, B: np.ndarray, *images: np.ndarray, activation: str, alpha: float,
             beta: float) -> tuple[np.ndarray]:
        y = np.concatenate(images, axis=1) * W[:, None, None]
        return (epilogue.apply(y, B[:, None, None], None, activation, alpha, beta),)
