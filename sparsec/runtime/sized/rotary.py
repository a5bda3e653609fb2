"""The step that calls the kernel of rotations, see `kernels.cpu.tensors.sized_rotary`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsec.machine import tvm_runtime
from sparsec.runtime.sized.attention import FLOAT, by_rows, flat


class Rotary:
    """A step.

    Args:
        kernel: the function.

    """

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self._kernel = kernel
        self._share = tvm_runtime.load().from_dlpack

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """Y (batch, heads, tokens, depth), which lies token by token."""
        x, cos, sin = map(by_rows, inputs)
        batch, heads, tokens, depth = x.shape
        out = np.empty((batch, tokens, heads, depth), np.float32)
        if out.size:
            sizes = np.array(rotary_sizes(x, cos, sin, out), np.int64)
            self._kernel(self._share(sizes), *[self._share(flat(each)) for each in (x, cos, sin)],
                         self._share(out.reshape(-1)))
        return [out.transpose(0, 2, 1, 3)]


def rotary_sizes(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> list[int]:
    """The kernel's argument `sizes`: sizes, then strides in elements; `out` lies token by token."""
    lines = [stride // FLOAT for stride in x.strides[:3]]
    for table in (cos, sin):
        several = table.ndim > 3 and table.shape[0] > 1
        lines += [table.strides[0] // FLOAT if several else 0, table.strides[-2] // FLOAT]
    batch_line, token_line, head_line, _ = (stride // FLOAT for stride in out.strides)
    return [*x.shape[:3], *lines, batch_line, head_line, token_line]
