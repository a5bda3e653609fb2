"""Indices of elements, counted from the beginning of their axes; one outside its axis is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, kernel


@dataclass(frozen=True)
class IndexParams:
    """Rows of indices, one for each of the axes.

    Attributes:
        rows: how many elements are addressed.
        extents: the length of every axis.
        dtype: what the indices arrive in.
        user: whom the error names.

    """

    rows: int
    extents: tuple[int, ...]
    dtype: str
    user: str


def reference(indices: np.ndarray, params: IndexParams) -> np.ndarray:
    """Indices (rows, axes) as int64; the negative ones count from the end.

    Raises:
        IndexError: one lies outside its axis.

    """
    extents = np.array(params.extents)
    if ((indices < -extents) | (indices >= extents)).any():
        raise IndexError(message(params))
    return np.where(indices < 0, indices + extents, indices).astype(np.int64)


def message(params: IndexParams) -> str:
    """The text of the error."""
    return f"{params.user}: an index is outside the tensor, whose axes have {list(params.extents)} elements"


def build(params: IndexParams, isa: Isa) -> Any:  # noqa: ARG001 - few indices need neither vectors nor threads
    """The kernel: indices -> `reference`; the machine raises the IndexError."""
    length = params.rows * len(params.extents)
    return kernel({"indices": (length, params.dtype), "positions": (length, "int64")}, lambda b: _emit(b, params))


def _emit(b: Buffers, p: IndexParams) -> None:
    with T.serial(0, p.rows) as row:
        for axis, extent in enumerate(p.extents):
            at = row * len(p.extents) + axis
            index = T.Bind(T.Cast("int64", b["indices"][at]))
            with T.Assert(T.And(index >= -extent, index < extent), message(p), "IndexError"):
                pass
            T.buffer_store(b["positions"], index + T.Select(index < 0, T.int64(extent), T.int64(0)), [at])
