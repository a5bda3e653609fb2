"""Which interpreters TVM's runtime works in: one per process, whose threads take turns."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress

from sparsec.errors import ToolchainError


def check() -> None:
    """Refuse interpreters whose calls nothing keeps apart.

    Raises:
        ToolchainError: this is not the main interpreter of the process, or it has no global lock.

    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ToolchainError("sparsec relies on Python's global lock; start Python with PYTHON_GIL=1, or one that is "
                             "not free-threaded")
    if not is_main():
        raise ToolchainError("sparsec runs in the main interpreter of a process only; use threads or processes in "
                             "place of subinterpreters")


def is_main() -> bool:
    """Whether this is the first interpreter of the process."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # what Python 3.13 and 3.11 call it
        with suppress(ImportError):
            module = importlib.import_module(name)
            current, main = module.get_current(), module.get_main()
            return bool((current[0] if isinstance(current, tuple) else current) ==
                        (main[0] if isinstance(main, tuple) else main))
    return True
