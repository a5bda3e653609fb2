"""The threads of the BLAS that numpy multiplies with: no more than a session has, while it computes.

OpenBLAS listens to the first thread alone that gives it a number: what others ask for has no effect there.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from sparsec.machine.optional import needed

P = ParamSpec("P")
T = TypeVar("T")


def within(threads: int, function: Callable[P, T]) -> Callable[P, T]:
    """A function that BLAS has at most so many threads in; the last of several calls at once gives back the others."""
    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        _limits.enter(threads)
        try:
            return function(*args, **kwargs)
        finally:
            _limits.leave()

    return limited


class _Limits:
    """Those that hold, and what they hide: BLAS has one number of threads for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[int] = []

    def enter(self, threads: int) -> None:
        with self._lock:
            libraries = _libraries()
            if not self._inside:
                self._before = [each.get_num_threads() for each in libraries]
            self._inside += 1
            for library, most in zip(libraries, self._before, strict=True):
                library.set_num_threads(min(threads, most))

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for library, before in zip(_libraries(), self._before, strict=True):
                    library.set_num_threads(before)


_limits = _Limits()


@functools.cache
def _libraries() -> list[Any]:
    """The libraries that numpy has loaded by then."""
    found = needed("threadpoolctl", "threadpoolctl", "a product between compiled stages").ThreadpoolController()
    return [each for each in found.lib_controllers if each.user_api == "blas"]
