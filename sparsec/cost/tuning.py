"""The tuning log: measured times of kernels on this machine, a JSON line each, so that tuning resumes where it stopped.

A kernel that was measured several times takes the median. A line that cannot be read is skipped with a warning; the log
is only ever appended to, a whole line at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparsec import files
from sparsec.cost.option import Option
from sparsec.errors import counted
from sparsec.machine.cpus import shortage
from sparsec.target import LIBRARIES, Target, machine_name

SHARES = "bounded by the largest share"
"""How times of several threads are taken; those that were taken otherwise are no longer read."""
SHARING = 1.1
"""Times its share that a thread takes at most beside others on cores of their own: all share the L3 cache."""
CACHED_BYTES = 32 << 20
"""Bytes of weights that no cache is taken to hold for one network."""


def default_path() -> Path:
    """The log in the user's cache directory."""
    return files.cache_folder() / "tuning.jsonl"


def key(option: Option, target: Target, threads: int, machine: str, network: float | None = None) -> str:
    """What a measured time holds for: machine, target, threads, kernel and (to two digits) the number of non-zeros.

    A library's parameters may be those of a generated kernel, and some kernels are timed with what makes their codes.
    Threads that shared processors while they were measured count as others than those that had one each.
    Where caches hold a network's weights, `network` times this layer's, it holds for networks of that size alone.
    """
    parts: tuple[object, ...] = (machine, target.name, threads, repr(option.params), f"{option.nbytes:.1e}")
    if threads > 1:
        parts = (*parts, SHARES)
    if own := [option.kernel] * (option.kernel in LIBRARIES) + ["codes"] * option.encodes:
        parts = (*parts, *own)
    if missing := shortage(threads):
        parts = (*parts, missing)
    if network is not None and network * option.nbytes < CACHED_BYTES:
        parts = (*parts, f"{network * option.nbytes:.0e}")
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@dataclass
class TuningLog:
    """Measured seconds by key, all measurements of each, in memory and in a file.

    Attributes:
        path: the file; None keeps nothing.
        budget_s: seconds that may still be spent on measuring.
        machine: what measures.

    """

    path: Path | None
    budget_s: float
    machine: str = field(default_factory=machine_name)
    _seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and files.is_own(self.path):
            self._seconds = _read(self.path)

    def time(self, option: Option, target: Target, threads: int, measure: Callable[[Option], float | None],
             network: float | None = None, times: int = 1) -> float | None:
        """The time of an option that is measured as often, less what is logged, while the budget lasts; else None.

        None, too, where `measure` gives that.
        """
        name = key(option, target, threads, self.machine, network)
        while len(self._seconds.get(name, ())) < times and self.budget_s > 0:
            begin = time.perf_counter()
            seconds = measure(option)
            self.budget_s -= time.perf_counter() - begin
            if seconds is None:
                break
            self._add(name, option, seconds)
        return self._median(name)

    def prepare(self, options: Sequence[Option], target: Target, threads: int,
                prepare: Callable[[Sequence[Option]], None], network: float | None = None) -> None:
        """Get the options ready that `time` would measure, where there are several and the budget lasts.

        They are compiled together, so that those of one layer may take what is left of it, and more.
        """
        unknown = [each for each in options if key(each, target, threads, self.machine, network) not in self._seconds]
        if len(unknown) > 1 and self.budget_s > 0:
            begin = time.perf_counter()
            prepare(unknown)
            self.budget_s -= time.perf_counter() - begin

    def logged(self, option: Option, target: Target, threads: int) -> float | None:
        """The logged time of an option, None where it was not measured."""
        return self._median(key(option, target, threads, self.machine))

    def _median(self, name: str) -> float | None:
        """The median of what was measured, None where nothing was."""
        return statistics.median(self._seconds[name]) if name in self._seconds else None

    def _add(self, name: str, option: Option, seconds: float) -> None:
        self._seconds.setdefault(name, []).append(seconds)
        if self.path is None or not _is_time(seconds):
            return
        line = json.dumps({"key": name, "kernel": option.kernel, "detail": option.detail, "seconds": seconds})
        try:
            files.make_own(self.path.parent)
            with os.fdopen(_open_log(self.path), "a", encoding="utf-8") as log:
                log.write(line + "\n")
        except OSError as error:
            warnings.warn(f"the tuning log {self.path} cannot be written ({error}); measurements are not kept",
                          stacklevel=2)
            self.path = None


def _open_log(path: Path) -> int:
    """A descriptor of the log, which none but its owner may write and no pipe can be."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    try:
        files.check_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_time(seconds: float) -> bool:
    """Whether a number can be a measured time."""
    return math.isfinite(seconds) and seconds > 0


def _read(path: Path) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {}
    damaged = 0
    for line in files.read_regular(path).decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            name, found = str(entry["key"]), float(entry["seconds"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            damaged += 1
        else:
            if _is_time(found):
                seconds.setdefault(name, []).append(found)
            else:
                damaged += 1
    if damaged:
        warnings.warn(f"ignored {counted(damaged, 'line')} of the tuning log {path} that cannot be read", stacklevel=3)
    return seconds
