"""Inputs for an artifact where the user gives none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.artifact.file import Artifact
from sparsec.graph.compare import random_feeds


def random_inputs(artifact: Artifact) -> dict[str, np.ndarray]:
    """Random inputs of an artifact's own shapes, of its first bucket where it has several.

    The graph says what the values of an input may be; it may be that of a share of the rows (`compiler.batches`).
    """
    graph = ir.from_proto(onnx.ModelProto.FromString(artifact.graph))
    shapes = {spec.name: spec.shape for spec in artifact.manifest.inputs}
    for value in graph.graph.inputs:
        value.shape = ir.Shape(shapes[value.name or ""])
    return random_feeds(graph)
