"""Indices of elements, counted from the beginning of their axes; one outside its axis is an error."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel
from sparsec.kernels.tensors import IndexParams


def build(params: IndexParams, isa: Isa) -> Kernel:  # noqa: ARG001 - few indices need neither vectors nor threads
    """The kernel: indices -> those of `IndexParams.counted`; the machine raises the IndexError."""
    length = params.rows * len(params.extents)
    return kernel({"indices": (length, params.dtype), "positions": (length, "int64")}, lambda b: _emit(b, params))


def _emit(b: Buffers, p: IndexParams) -> None:
    with T.serial(0, p.rows) as row:
        for axis, extent in enumerate(p.extents):
            at = row * len(p.extents) + axis
            index = T.Bind(T.Cast("int64", b["indices"][at]))
            with T.Assert(T.And(index >= -extent, index < extent), p.message, "IndexError"):
                pass
            T.buffer_store(b["positions"], index + T.Select(index < 0, T.int64(extent), T.int64(0)), [at])
