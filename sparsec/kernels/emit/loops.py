"""Loops of kernels: shares for threads, and short ones written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tvm.tirx.script.builder import ir as T

from sparsec.kernels.emit.isa import Isa
from sparsec.kernels.emit.tir import Expr

UNROLL = 8  # vectors of a row that are written out rather than looped over
ALONE = 1 << 16  # bytes that one thread has gone through by the time that others have been woken


@contextmanager
def shared(count: int, isa: Isa) -> Iterator[Expr]:
    """A loop over `count` independent pieces, in equal contiguous shares for the kernel's threads."""
    if isa.threads == 1:
        with T.serial(0, count) as i:
            yield i
    else:
        with (T.parallel(0, isa.threads) as part,
              T.serial(part * count // isa.threads, (part + 1) * count // isa.threads) as i):
            yield i


def alone(isa: Isa, nbytes: int) -> Isa:
    """The processor for a pass over so many bytes, with one thread where waking the others takes longer."""
    return replace(isa, threads=1) if nbytes <= ALONE else isa


def each(first: int, end: int, body: Callable[[Expr], None], unroll: int = UNROLL) -> None:
    """`body(i)` for i in [first, end): written out, with i a Python int, where that is at most `unroll` times."""
    if end - first <= unroll:
        for i in range(first, end):
            body(i)
    else:
        with T.serial(first, end) as i:
            body(i)


def along(count: int, first: int, end: int, body: Callable[[Expr], None], unroll: int = UNROLL) -> None:
    """`body(i)` for i in [0, count), as `each`; i is a Python int wherever it is outside of [first, end)."""
    first = min(first, count)
    end = min(count, max(first, end))
    for i in (*range(first), *range(end, count)):
        body(i)
    each(first, end, body, unroll)
