"""The operators of domain `sparsec`, version 1: schemas, known to ONNX's checker once this is imported, and references.

`REFERENCES` goes to `onnx.reference.ReferenceEvaluator`, which then executes every intermediate graph.
"""

from __future__ import annotations

import onnx
from onnx.reference.op_run import OpRun

from sparsec.graph.operators import attention, conv, matmul, reformat
from sparsec.graph.operators.schema import DOMAIN, VERSION

SCHEMAS = {module.SCHEMA.name: module.SCHEMA for module in (attention, conv, matmul, reformat)}
REFERENCES: list[type[OpRun]] = [attention.Attention, conv.Conv, matmul.MatMul, reformat.Reformat]

for _schema in SCHEMAS.values():
    onnx.defs.register_schema(_schema)

__all__ = ["DOMAIN", "REFERENCES", "SCHEMAS", "VERSION"]
