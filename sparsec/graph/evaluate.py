"""Executing a graph with numpy: the definition that kernels and backends are tested against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from sparsec.graph.operators import REFERENCES


def evaluate(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph of standard and `sparsec` operators, in order, for inputs by name. Slow: for checks."""
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=REFERENCES)
    return list(evaluator.run(None, dict(feeds)))
