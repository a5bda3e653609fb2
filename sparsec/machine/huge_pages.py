"""Memory in pages of 2 MB, of which a processor translates more at once: advice that Linux may follow or not."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

Allocate: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]
"""Gives a zeroed array of a shape and element type."""

PAGE = 2 << 20
"""Bytes of a huge page; what is smaller keeps ordinary ones."""
ADVICE = 14
"""Linux's MADV_HUGEPAGE."""
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""What Linux gives huge pages to; memory that processes share has none by default."""
VARIABLE = "SPARSEC_HUGE_PAGES"
"""The environment variable that with the value "never" leaves weights, and what programs are compiled, without."""


def wanted() -> bool:
    """Whether nobody has said otherwise."""
    return os.environ.get(VARIABLE) != "never"


def advise(memory: mmap.mmap) -> None:
    """Ask for huge pages for private memory, or for a file that is mapped, where they are wanted and there are such.

    A file has them where it was written many megabytes at a time, or is read after this, on Linux from 6.16 on.
    """
    if wanted() and len(memory) >= PAGE:
        with suppress(OSError):  # a system without them
            memory.madvise(ADVICE)


def allocator(nbytes: int, alignment: int) -> Allocate | None:
    """What gives arrays out of one arena of huge pages, of so many bytes in all when each is filled up to alignment.

    None where that is less than a huge page, or where they are not wanted.

    Raises:
        MemoryError: there is not so much.

    """
    if nbytes < PAGE or not wanted():
        return None
    try:
        memory = mmap.mmap(-1, nbytes + PAGE, PRIVATE)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"no room for {nbytes} bytes") from error
    advise(memory)
    arena = np.frombuffer(memory, np.uint8)
    at = -arena.ctypes.data % PAGE

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        nonlocal at
        begin, size = at, math.prod(shape) * dtype.itemsize
        at += size + -size % alignment
        return arena[begin:begin + size].view(dtype).reshape(shape)

    return allocate
