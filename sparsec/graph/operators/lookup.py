"""sparsec::Lookup: any function of one code, as a table; activations and requantisations of quantised tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import schema

ENTRIES = 256


def output_shape(shapes: Sequence[schema.Shape | None], _attributes: Mapping[str, Any]) -> schema.Shape:
    """The shape of Y (see `schema.OutputShape`)."""
    if shapes[1] != (ENTRIES,):
        raise ValueError(f"the table has shape {shapes[1]}, not {(ENTRIES,)}")
    return shapes[0] or ()


def _type_of_table(inputs: Sequence[int], _attributes: Mapping[str, Any]) -> int:
    return inputs[1]


SCHEMA = schema.make(
    "Lookup", "Y = T[X - the smallest code of X's type]: codes, or float32.",
    [schema.required("X", "Q", "Codes."),
     schema.required("T", "R", "Constant table (256,): what each code becomes, from the smallest on.")],
    [], output_shape, _type_of_table,
)


class Lookup(OpRun):
    """The numpy reference; shapes and types are those of the schema."""

    op_domain = schema.DOMAIN
    op_schema = SCHEMA

    def _run(self, X: np.ndarray, T: np.ndarray) -> tuple[np.ndarray]:
        return (T[X.astype(np.int64) - np.iinfo(X.dtype).min],)
