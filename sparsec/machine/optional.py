"""Importing a library without what it loads beside itself where that happens to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Imports inside the block find no module of that name, unless it was imported before.

    TVM imports PyTorch where there is one, for conversions that sparsec does not use: a second and 180 MB.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # which Python's import system takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[name]
