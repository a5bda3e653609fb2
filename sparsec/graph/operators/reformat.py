"""sparsec::Reformat: the identity, marking where a value changes its physical layout (see `graph/layout.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import schema


def output_shape(shapes: Sequence[schema.Shape | None], _attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    return shapes[0] or ()


SCHEMA = schema.make(
    "Reformat", "Y = X; only the order in memory changes, which the backend knows.",
    [schema.required("X", "T", "Any tensor.")], [], output_shape,
)


class Reformat(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray) -> tuple[np.ndarray]:
        return (X,)
