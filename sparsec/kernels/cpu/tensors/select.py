"""Where the true elements of a mask lie."""

from __future__ import annotations

import numpy as np
from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Buffers, Kernel, kernel
from sparsec.kernels.tensors import SelectParams


def reference(mask: np.ndarray, params: SelectParams) -> np.ndarray:
    """Positions (count,) of the first true elements; 0 where there are too few."""
    return np.resize(np.append(np.flatnonzero(mask), np.zeros(params.count, np.int64)), params.count)


def build(params: SelectParams, isa: Isa) -> Kernel:  # noqa: ARG001 - a scan has no use for vectors or threads
    """The kernel: (mask as uint8) -> positions as int64."""
    return kernel({"mask": (params.length, "uint8"), "positions": (params.count, "int64")}, lambda b: _emit(b, params))


def _emit(b: Buffers, p: SelectParams) -> None:
    found = T.alloc_buffer((1,), "int32")
    T.buffer_store(found, 0, [0])
    with T.serial(0, p.count) as i:
        T.buffer_store(b["positions"], T.int64(0), [i])
    with (T.serial(0, p.length) as i,
          T.If(T.And(b["mask"][i] != T.uint8(0), found[0] < p.count)), T.Then()):  # a mask may hold more than was asked
        T.buffer_store(b["positions"], T.Cast("int64", i), [found[0]])
        T.buffer_store(found, found[0] + 1, [0])
