"""A copy of a tensor, for results that must own their memory."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel


@dataclass(frozen=True)
class CopyParams:
    """How many elements of which type."""

    size: int
    dtype: str


def build(params: CopyParams, isa: Isa) -> Kernel:  # noqa: ARG001 - bound by memory whatever the vectors
    """The kernel: (x) -> y."""
    def emit(b: Buffers) -> None:
        with T.serial(0, params.size) as i:
            T.buffer_store(b["y"], b["x"][i], [i])

    tensor = (params.size, params.dtype)
    return kernel({"x": tensor, "y": tensor}, emit)
