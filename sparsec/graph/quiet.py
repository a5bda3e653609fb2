"""Keeping libraries from writing to the user's terminal what sparsec reports itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("onnx_ir", "onnxscript", "torch.onnx")


@contextmanager
def quiet() -> Iterator[None]:
    """Mutes the libraries' loggers: they warn of every conversion, skipped constant and failed inference."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
