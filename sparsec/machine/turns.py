"""Compilations take turns: TVM and the ONNX packages keep settings of the process while they rewrite a graph.

Two at a time would disturb each other's measurements, too.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from sparsec.errors import ToolchainError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Turn:
    """Whose turn it is.

    Attributes:
        lost: whether this is a child that was forked while another thread was at work, which is not here to finish.

    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    holder: int | None = None
    lost: bool = False


_turn = _Turn()


def one_at_a_time(function: Callable[P, T]) -> Callable[P, T]:
    """The function as one thread calls it at a time; the others wait.

    Raises:
        ToolchainError: this process was forked while another thread was within the function.

    """
    @functools.wraps(function)
    def wait(*args: P.args, **kwargs: P.kwargs) -> T:
        if _turn.lost:
            raise ToolchainError("this process was forked while another thread compiled, and cannot compile; start it "
                                 "by multiprocessing's spawn or forkserver")
        with _turn.lock:
            outer, _turn.holder = _turn.holder, threading.get_ident()
            try:
                return function(*args, **kwargs)
            finally:
                _turn.holder = outer

    return wait


def _forget() -> None:
    """In a forked child."""
    if _turn.holder not in (None, threading.get_ident()):
        _turn.lock, _turn.holder, _turn.lost = threading.RLock(), None, True
    elif _turn.holder is None:
        _turn.lock = threading.RLock()


os.register_at_fork(after_in_child=_forget)
