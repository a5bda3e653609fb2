"""How kernels of run-time sizes divide their work among a GPU's threads where each computes an element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.tir import Expr

THREADS = 256
"""Threads of a block."""
RANK = 5
"""Dimensions of what is addressed by strides; those in front may be 1."""


@contextmanager
def own_element(total: Expr) -> Iterator[Expr]:
    """The number of this thread's element; the threads behind the last of them do nothing."""
    with (T.launch_thread("blockIdx.x", (total + (THREADS - 1)) // THREADS) as block,
          T.launch_thread("threadIdx.x", THREADS) as thread):
        number = T.Bind(block * THREADS + thread)
        with T.If(number < total), T.Then():
            yield number


def places(number: Expr, sizes: Sequence[Expr]) -> list[Expr]:
    """Where an element of an array in C order lies along each of its axes."""
    found, left = [], number
    for size in reversed(sizes):
        found.append(T.Bind(left % size))
        left = T.Bind(left // size)
    return found[::-1]
