"""Comparing outputs with those of onnxruntime on the original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from sparsec.graph import ort
from sparsec.graph.shapes import static_shape

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far one output is from the expected one.

    Attributes:
        output: its name.
        relative_error: the largest difference over the expected largest magnitude.
        same_class: share of the rows whose largest element is at the same place, for a matrix of floats.

    """

    output: str
    relative_error: float
    same_class: float | None = None


def random_feeds(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for a model of static input shapes, the same for the same seed.

    Floats are standard normal and booleans fair coins. Integers that tell an operator its output's shape tell it that
    shape, others index the smallest table that a Gather looks up with them, else they are 0 or 1; divisors, lengths
    of sequences, and masks (inputs so named) are ones; masks of booleans have both in every row, since True keeps an
    element in some models and hides it in others.
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
        elif "mask" in value.name and value.dtype == ir.DataType.BOOL and shape and shape[-1] > 1:
            feeds[value.name] = mask = rng.integers(0, 2, shape).astype(dtype)
            mask[..., 0], mask[..., -1] = True, False
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
    return list(ort.session(source).run(None, dict(feeds)))


def split_samples(model: ir.Model, inputs: Feeds) -> list[Feeds]:
    """Inputs with n times the rows that a model of static input shapes takes as n samples; others as they are."""
    counts = set()
    for value in model.graph.inputs:
        shape, array = static_shape(value), inputs.get(value.name or "")
        if not shape or array is None or array.shape[1:] != shape[1:] or not shape[0] or len(array) % shape[0]:
            return [inputs]
        counts.add(len(array) // shape[0])
    if len(counts) != 1 or 0 in counts:
        return [inputs]
    parts = {name: np.split(array, *counts) for name, array in inputs.items()}
    return [dict(zip(parts, sample, strict=True)) for sample in zip(*parts.values(), strict=True)]


CODES = 255
"""The range of 8 bits."""


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest |actual - expected| over the largest |expected|; infinite where shapes, NaNs or infinities differ.

    Integers of 8 bits, which may be codes whose zero point lies anywhere, count by the whole range of their type.
    """
    if actual.shape != expected.shape:
        return float("inf")
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    error, scale = np.abs(a[finite] - b[finite]).max(), np.abs(b[finite]).max()
    if expected.dtype in (np.uint8, np.int8):
        scale = CODES
    return float(error / scale) if scale else float(error)


def same_class(actual: np.ndarray, expected: np.ndarray) -> float | None:
    """The share of rows whose largest element is at the same place; None for what cannot be scores of classes."""
    if expected.dtype.kind != "f" or expected.ndim != 2 or expected.shape != actual.shape or min(expected.shape) == 0:
        return None
    return float(np.mean(actual.argmax(axis=1) == expected.argmax(axis=1))) if expected.shape[1] > 1 else None


def compare(names: Sequence[str], actual: Sequence[np.ndarray], expected: Sequence[np.ndarray],
            ) -> tuple[Difference, ...]:
    """The difference of every output, in order."""
    pairs = [(np.asarray(a), np.asarray(e)) for a, e in zip(actual, expected, strict=True)]
    return tuple(Difference(name, relative_error(*pair), same_class(*pair))
                 for name, pair in zip(names, pairs, strict=True))
