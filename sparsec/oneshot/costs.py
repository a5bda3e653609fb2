"""What every weight costs at some sparsities: time by the compiler's cost model, or bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.formats.smallest import smallest
from sparsec.oneshot.dense import Weight
from sparsec.oneshot.weights import constants, printable_name
from sparsec.report.explain import SPARSITIES, explain
from sparsec.target import Target

SOME = 1 << 16
"""Elements of a weight that its bytes are estimated from."""


def microseconds(model: onnx.ModelProto, weights: Sequence[Weight], shapes: Mapping[str, Sequence[int]],
                 target: Target, threads: int) -> dict[str, np.ndarray]:
    """By weight the predicted time of its layers at each of `SPARSITIES`; without those that the compiler has none of.

    Raises:
        UsageError: the target has no cost model.

    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = printable_name(node)
    figures = explain(named, target, threads=threads, shapes=shapes)
    curves = {layer.layer: np.array([min(time for time in (point.dense_us, point.sparse_us) if time is not None)
                                     for point in layer.curve]) for layer in figures.layers}
    return {weight.name: sum((curves[layer.name] for layer in weight.layers), np.zeros(len(SPARSITIES)))
            for weight in weights if all(layer.name in curves for layer in weight.layers)}


def stored_bytes(model: onnx.ModelProto, weights: Sequence[Weight]) -> dict[str, np.ndarray]:
    """By weight the bytes of its smallest format at each of `SPARSITIES`, estimated from some of its rows."""
    tensors, rng = constants(model.graph), np.random.default_rng(0)
    found = {}
    for weight in weights:
        array = numpy_helper.to_array(tensors[weight.layers[0].weight]).astype(np.float32)
        matrix = array.reshape(len(array), -1)
        some = matrix[:max(SOME // matrix.shape[1], 1)]
        scores = rng.random(some.shape)
        found[weight.name] = np.array([smallest(np.where(scores >= sparsity, some, np.float32(0))).nbytes
                                       for sparsity in SPARSITIES]) * (matrix.size / some.size)
    return found


def measured_bytes(model: onnx.ModelProto, weights: Sequence[Weight]) -> float:
    """The bytes of the weights in the smallest format of each."""
    tensors = constants(model.graph)
    arrays = (numpy_helper.to_array(tensors[weight.layers[0].weight]).astype(np.float32) for weight in weights)
    return float(sum(smallest(array.reshape(len(array), -1)).nbytes for array in arrays))
