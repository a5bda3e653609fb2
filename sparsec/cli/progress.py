"""How far a command is, on the standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import Progress, ProgressColumn

EVERY_S = 10.0
"""Seconds between two lines; what takes less prints none."""


@contextmanager
def progress_bar(*columns: ProgressColumn) -> Iterator[Progress]:
    """The bar, with rich's own columns where none are given; it leaves no trace, lines in a file or a pipe stay."""
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar as progress, nullcontext() if console.is_terminal else _lines(progress):
        yield progress


@contextmanager
def working(what: str) -> Iterator[None]:
    """The bar of work that does not tell how far it is."""
    with progress_bar() as progress:
        progress.add_task(what, total=None)
        yield


@contextmanager
def _lines(progress: Progress) -> Iterator[None]:
    """Print every `EVERY_S` seconds what is being done."""
    begin, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(EVERY_S):
            try:
                print(_line(progress, time.monotonic() - begin), file=sys.stderr, flush=True)
            except OSError:  # nobody reads it any more, which the command need not mind
                return

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _line(progress: Progress, seconds: float) -> str:
    """Such as "sparsec: tune, 43 %, 20 s so far"."""
    told = [part for task in progress.tasks for part in (
        task.description, f"{task.percentage:.0f} %" if task.total and task.completed else "") if part]
    return f"sparsec: {', '.join((*told, f'{seconds:.0f} s so far'))}"
