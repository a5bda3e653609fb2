"""sparsec::FakeQuantize: what is left of numbers that dynamic quantisation rounds to codes, for layers on floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import schema

LARGEST = np.float32(255)


def output_shape(shapes: Sequence[schema.Shape | None], _attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    return shapes[0] or ()


SCHEMA = schema.make("FakeQuantize", "Y = DequantizeLinear(DynamicQuantizeLinear(X)).",
                     [schema.required("X", "T", "Numbers.")], [], output_shape)


class FakeQuantize(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray) -> tuple[np.ndarray]:
        least, most = X.min(initial=np.float32(0)), X.max(initial=np.float32(0))
        scale = (most - least) / LARGEST if most > least else np.float32(1)
        zero = np.rint(np.clip(-least / scale, np.float32(0), LARGEST))
        codes = np.clip(np.rint(X / scale) + zero, np.float32(0), LARGEST)
        return ((codes - zero) * scale,)
