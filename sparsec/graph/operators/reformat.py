"""sparsec::Reformat: the identity, marking where a value changes its physical layout (see `graph/layout.py`)."""

from __future__ import annotations

import numpy as np
from onnx.defs import OpSchema
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import schema

SCHEMA = schema.make(
    "Reformat", "Y = X; only the order in memory changes, which the backend knows.",
    [OpSchema.FormalParameter("X", "T", "Any tensor.")], [], lambda shapes, _attributes: shapes[0],
)


class Reformat(OpRun):
    """The reference."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray) -> tuple[np.ndarray]:
        return (X,)
