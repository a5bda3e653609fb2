"""Importing libraries that may be missing, and without what they load beside themselves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsec.errors import ToolchainError


def needed(module: str, package: str, purpose: str) -> Any:
    """A module that few artifacts need, so that `sparsec-runtime` does not require its package.

    Raises:
        ToolchainError: it is not installed.

    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ToolchainError(f"{purpose} needs the package {package}; pip install '{package}'") from error


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
