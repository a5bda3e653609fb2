"""The operators of domain `sparsec`, version 1: schemas, known to ONNX's checker once this is imported, and references.

`REFERENCES` goes to `onnx.reference.ReferenceEvaluator`, which then executes every intermediate graph.
"""

from __future__ import annotations

import onnx
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import (
    attention,
    conv,
    fake_quantize,
    lookup,
    matmul,
    qattention,
    qaverage_pool,
    qbatch_matmul,
    qbinary,
    qconv,
    qmatmul,
    recurrence,
    reformat,
    scaled_concat,
)
from sparsec.graph.operators.schema import DOMAIN, VERSION, OutputShape

_MODULES = (attention, conv, fake_quantize, lookup, matmul, qattention, qaverage_pool, qbatch_matmul, qbinary, qconv,
            qmatmul, recurrence, reformat, scaled_concat)
SCHEMAS = {module.SCHEMA.name: module.SCHEMA for module in _MODULES}
OUTPUT_SHAPES: dict[str, OutputShape] = {module.SCHEMA.name: module.output_shape for module in _MODULES}
REFERENCES: list[type[OpRun]] = [getattr(module, module.SCHEMA.name) for module in _MODULES]

for _schema in SCHEMAS.values():
    onnx.defs.register_schema(_schema)

__all__ = ["DOMAIN", "OUTPUT_SHAPES", "REFERENCES", "SCHEMAS", "VERSION"]
