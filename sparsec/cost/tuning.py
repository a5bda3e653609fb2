"""The tuning log: measured times of kernels on this machine, a JSON line each, so that tuning resumes where it stopped.

A line that cannot be read is skipped with a warning; the log is only ever appended to, a whole line at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sparsec.cost.option import Option
from sparsec.target import Target, machine_name


def default_path() -> Path:
    """The log in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparsec" / "tuning.jsonl"


def key(option: Option, target: Target, threads: int, machine: str) -> str:
    """What a measured time holds for: machine, target, threads, kernel and (to two digits) the number of non-zeros."""
    parts = (machine, target.name, threads, repr(option.params), f"{option.nbytes:.1e}")
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@dataclass
class TuningLog:
    """Measured seconds by key, in memory and in a file.

    Attributes:
        path: the file; None keeps nothing.
        budget_s: seconds that may still be spent on measuring.
        machine: what measures.

    """

    path: Path | None
    budget_s: float
    machine: str = field(default_factory=machine_name)
    _seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self._seconds = _read(self.path)

    def time(self, option: Option, target: Target, threads: int, measure: Callable[[Option], float]) -> float | None:
        """The logged time of an option, else a measured one while the budget lasts, else None."""
        name = key(option, target, threads, self.machine)
        if name not in self._seconds:
            if self.budget_s <= 0:
                return None
            begin = time.perf_counter()
            self._add(name, option, measure(option))
            self.budget_s -= time.perf_counter() - begin
        return self._seconds[name]

    def logged(self, option: Option, target: Target, threads: int) -> float | None:
        """The logged time of an option, None where it was not measured."""
        return self._seconds.get(key(option, target, threads, self.machine))

    def _add(self, name: str, option: Option, seconds: float) -> None:
        self._seconds[name] = seconds
        if self.path is None:
            return
        line = json.dumps({"key": name, "kernel": option.kernel, "detail": option.detail, "seconds": seconds})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as log:
                log.write(line + "\n")
        except OSError as error:
            warnings.warn(f"the tuning log {self.path} cannot be written ({error}); measurements are not kept",
                          stacklevel=2)
            self.path = None


def _read(path: Path) -> dict[str, float]:
    seconds = {}
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            seconds[str(entry["key"])] = float(entry["seconds"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            damaged += 1
    if damaged:
        warnings.warn(f"{damaged} line(s) of the tuning log {path} cannot be read and are ignored", stacklevel=3)
    return seconds
