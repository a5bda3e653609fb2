"""Indices of elements, counted from the beginning of their axes; one outside its axis is an error."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel
from sparsec.kernels.tensors import IndexParams

ASSERTS = "sparsec.asserts"
"""Attribute of kernels that assert something of what they are given."""


def build(params: IndexParams, isa: Isa) -> Kernel:  # noqa: ARG001 - few indices need neither vectors nor threads
    """The kernel: indices -> those of `IndexParams.counted`; the machine raises the IndexError."""
    length = params.rows * len(params.extents)
    arguments = {"indices": (length, params.dtype), "positions": (length, "int64")}
    return kernel(arguments, lambda b: _emit(b, params)).with_attr(ASSERTS, True)


def _emit(b: Buffers, p: IndexParams) -> None:
    with T.serial(0, p.rows) as row:
        for axis, extent in enumerate(p.extents):
            at = row * len(p.extents) + axis
            index = T.Bind(T.Cast("int64", b["indices"][at]))
            with T.Assert(T.And(index >= -extent, index < extent), p.message, "IndexError"):
                pass
            T.buffer_store(b["positions"], index + T.Select(index < 0, T.int64(extent), T.int64(0)), [at])
