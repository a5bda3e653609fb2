"""What callers of onnxruntime's `InferenceSession` pass beside the model, and what of it has a meaning here."""

from __future__ import annotations

import functools
import warnings
from numbers import Integral
from typing import Any

from sparsec.machine import cpus
from sparsec.runtime.arguments import wrong_type

THREADS = "intra_op_num_threads"
HERE = "CPUExecutionProvider"
STACK = 5
"""Calls between the caller of a session and the warning."""


def threads_of(threads: Any, sess_options: Any, compiled: int, ignored: dict[str, Any]) -> int | None:
    """The threads that a session is asked for, None where it is not.

    Args:
        threads: a number, or onnxruntime's options, which stand second there.
        sess_options: onnxruntime's options: `intra_op_num_threads`, if not 0, counts as far as the artifact and the
            machine allow.
        compiled: the threads that the artifact was compiled for.
        ignored: further arguments by name; a warning tells of those that are given.

    Raises:
        UsageError: the options are of another type.

    """
    if threads is not None and not isinstance(threads, Integral):
        threads, sess_options = None, threads
    if sess_options is not None and not hasattr(sess_options, THREADS):
        raise wrong_type("threads or sess_options", sess_options, "a number, or onnxruntime's SessionOptions")
    given = [name for name, value in ignored.items() if value and not _is_here(value)]
    if given:
        tell(", ".join(given))
    asked = int(getattr(sess_options, THREADS, 0))
    return min(asked, compiled, cpus.available()) if threads is None and asked > 0 else threads


def providers_of(target: str) -> list[str]:
    """What onnxruntime would call the processors that a program for a target runs on."""
    return [*(["CUDAExecutionProvider"] if target.startswith("cuda") else []), HERE]


def _is_here(value: Any) -> bool:
    """Whether providers are the processor's alone, which every program may use, or options of providers are empty."""
    names = [each[0] if isinstance(each, tuple) else each for each in value] if isinstance(value, list | tuple) else []
    return bool(names) and all(name in (HERE, {}) for name in names)


@functools.cache
def tell(names: str) -> None:
    """Warn once that arguments have no effect."""
    warnings.warn(f"sparsec's sessions ignore {names}: an artifact runs where it was compiled for, as a whole",
                  stacklevel=STACK)
