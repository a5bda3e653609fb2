"""Samples as batches of a model's inputs, checked before they cost time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from sparsec.errors import UsageError
from sparsec.graph.compare import Feeds
from sparsec.graph.samples import Declared, check_samples

FEWEST, MOST = 8, 2048
BATCH = 16
"""Samples of a run where the model takes any number of rows."""


def batches(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> list[Feeds]:
    """The samples in runs: arrays hold n times the rows that the model takes, at most `MOST` samples are used.

    Raises:
        UsageError: an input is missing, has a wrong shape, or holds NaN; or there are fewer than `FEWEST` samples, or
            all are the same.

    """
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    given = [_declared(value) for value in inputs]
    check_samples(given, arrays)
    counts = {each.name: each.rows for each in given}
    samples = {len(arrays[name]) // rows for name, rows in counts.items() if rows}
    if len(samples) > 1:
        many = ", ".join(f"'{name}' {len(arrays[name]) // rows}" for name, rows in counts.items() if rows)
        raise UsageError(f"samples: inputs hold different numbers of samples: {many}")
    number = min(samples.pop() if samples else 1, MOST)
    if number < FEWEST:
        raise UsageError(f"samples: {number} are too few; give at least {FEWEST}, better some hundred")
    if all((arrays[name] == arrays[name][:1]).all() for name, rows in counts.items() if rows):
        raise UsageError("samples: all are the same; give real inputs, some hundred that differ")
    free = all(not value.type.tensor_type.shape.dim[0].HasField("dim_value") for value in inputs if counts[value.name])
    step = BATCH if free else 1
    return [{name: np.ascontiguousarray(arrays[name][start * rows:min(start + step, number) * rows]) if rows
             else arrays[name] for name, rows in counts.items()} for start in range(0, number, step)]


def _declared(value: onnx.ValueInfoProto) -> Declared:
    """An input as the file declares it."""
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return Declared(value.name, shape, dtype, masks=True)  # statistics refuse the infinities that a layer reads
