"""Arguments of sessions: taken as callers mean them, or refused by name with what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from sparsec.errors import InputError, UsageError, counted
from sparsec.machine import cpus


def allowed_threads(asked: int | None, compiled: int) -> int:
    """The threads to use; by default what was compiled for, as far as this process may use as many cores."""
    if asked is None:
        return min(compiled, cpus.available())
    if isinstance(asked, bool) or not isinstance(asked, Integral):
        raise wrong_type("threads", asked, f"a number from 1 to {compiled}, or None")
    if not 1 <= asked <= compiled:
        cores = cpus.available()
        way = ("give a number from 1 on" if asked < 1 else f"compile the model with threads={asked}"
               if asked <= cores else f"this process may use {counted(cores, 'core')}" + (
                   f", compile the model with threads={cores} for all" if compiled < cores else ""))
        few = "1 thread" if compiled == 1 else f"1 to {compiled}"
        raise UsageError(f"threads={asked}, but the artifact was compiled for {few}; {way}")
    return int(asked)


def as_array(name: str, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """A feed as an array."""
    try:
        return np.asarray(feeds[name])
    except Exception as error:  # of whatever the caller's object does
        raise InputError(f"input '{name}' is not an array: {error}; give a numpy array") from error


def wrong_type(argument: str, value: object, expected: str) -> UsageError:
    """The error of an argument of another type."""
    return UsageError(f"{argument} is {value if value is None else type(value).__name__}; give {expected}")
