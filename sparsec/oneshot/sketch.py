"""A model with as many zeros as asked for and nothing else done: as fast as the pruned one, and made at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.oneshot.dense import Weight
from sparsec.oneshot.patterns.pattern import Pattern
from sparsec.oneshot.weights import constants, write


def sketch(model: onnx.ModelProto, weights: Sequence[Weight], sparsities: Mapping[str, float], pattern: Pattern,
           ) -> onnx.ModelProto:
    """A copy of the model with the smallest weights at zero, every weight to its own sparsity."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensors = constants(result.graph)
    for weight in weights:
        layer, sparsity = weight.layers[0], sparsities[weight.name]
        if sparsity:
            stored = numpy_helper.to_array(tensors[layer.weight])
            matrix = layer.matrix(stored)
            kept = np.stack([pattern.choose(np.abs(group), sparsity) for group in matrix])
            write(tensors[layer.weight], layer.stored(np.where(kept, matrix, np.float32(0)), stored.dtype))
    return result
