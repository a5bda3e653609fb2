"""Comparing outputs with those of onnxruntime on the original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.graph.shapes import static_shape

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far one output is from the expected one: the largest difference over the expected largest magnitude."""

    output: str
    relative_error: float


def random_feeds(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for a model of static input shapes, the same for the same seed.

    Floats are standard normal and booleans fair coins. Integers that tell an operator its output's shape tell it that
    shape, others index the smallest table that a Gather looks up with them, else they are 0 or 1; divisors, lengths
    of sequences, and masks (inputs so named) are ones.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        shape = static_shape(value)
        if shape is None or value.dtype is None or value.name is None:
            raise ValueError(f"input '{value.name}' has no static shape and type")
        dtype = value.dtype.numpy()
        if value.dtype.is_floating_point():
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        elif (sizes := _sizes(value)) is not None and len(sizes) == np.prod(shape, dtype=int):
            feeds[value.name] = np.array(sizes, dtype).reshape(shape)
        elif "mask" in value.name or any(POSITIVE.get(node.op_type) == index for node, index in value.uses()):
            feeds[value.name] = np.ones(shape, dtype)
        else:
            feeds[value.name] = rng.integers(0, _index_bound(value), shape).astype(dtype)
    return feeds


SHAPE_INPUTS = {"BlackmanWindow": 0, "CenterCropPad": 1, "ConstantOfShape": 0, "Expand": 1, "HammingWindow": 0,
                "HannWindow": 0, "Reshape": 1, "Resize": 3}
"""The input that holds an operator's output shape."""

POSITIVE = {"Div": 1, "Mod": 1, "GRU": 4, "LSTM": 4, "RNN": 4}
"""The input that 0 would make no sense for."""


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    """The shape that the value tells the operators which consume it, if it is one's."""
    for node, position in value.uses():
        if SHAPE_INPUTS.get(node.op_type) == position:
            return static_shape(node.outputs[0])
    return None


def _index_bound(value: ir.Value) -> int:
    """One more than the largest integer that every Gather consuming the value accepts; 2 where none does."""
    bounds = [table[node.attributes.get_int("axis", 0)] for node, position in value.uses()
              if node.op_type == "Gather" and position == 1 and (table := static_shape(node.inputs[0]))]
    return min(bounds, default=2)


def run_onnxruntime(source: str | Path | bytes | onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """The outputs of the model in onnxruntime, on the CPU in float32."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    model = source.SerializeToString() if isinstance(source, onnx.ModelProto) else source
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest |actual - expected| over the largest |expected|; infinite where shapes, NaNs or infinities differ."""
    if actual.shape != expected.shape:
        return float("inf")
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    error, scale = np.abs(a[finite] - b[finite]).max(), np.abs(b[finite]).max()
    return float(error / scale) if scale else float(error)


def compare(names: Sequence[str], actual: Sequence[np.ndarray], expected: Sequence[np.ndarray],
            ) -> tuple[Difference, ...]:
    """The difference of every output, in order."""
    return tuple(Difference(name, relative_error(np.asarray(a), np.asarray(b)))
                 for name, a, b in zip(names, actual, expected, strict=True))
