"""A few threads that make calls for however many others, each of which waits for its own."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from sparsec.errors import UsageError

PAUSE_S = 1e-4
"""Seconds between two looks at whether others are done."""


@dataclass(eq=False)
class _Task:
    """A call that another thread makes; `done` is released after it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: threading.Lock = field(default_factory=threading.Lock)
    result: Any = None
    error: BaseException | None = None


_Tasks = SimpleQueue[_Task | None]  # None ends a thread


class Workers:
    """At most `most` threads, started when there is work for them; they end with this object.

    Args:
        most: threads.
        begin: what each does before its first call.

    """

    def __init__(self, most: int, begin: Callable[[], None]) -> None:
        self._most, self._begin = most, begin
        self._start()
        _all.add(self)

    def _start(self) -> None:
        self._tasks: _Tasks = SimpleQueue()
        self._pending: set[_Task] = set()
        self._unused = [None] * self._most  # taking one of these is the permission to start a thread
        weakref.finalize(self, _end, self._tasks, self._most)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns or raises, called by one of the threads."""
        if len(self._pending) >= self._most - len(self._unused):
            self._start_thread()
        task = _Task(function, args)
        task.done.acquire()
        self._pending.add(task)
        self._tasks.put(task)
        try:
            task.done.acquire()
        except BaseException:
            while task in self._pending:  # whatever interrupts: the call still uses what it was given
                with suppress(BaseException):
                    time.sleep(PAUSE_S)
            raise
        if task.error is not None:
            raise task.error
        return task.result

    def _start_thread(self) -> None:
        """Start one thread more, if there may be more."""
        with suppress(IndexError):
            self._unused.pop()
            thread = threading.Thread(target=_work, args=(self._tasks, self._begin, self._pending), daemon=True,
                                      name="sparsec")
            try:
                thread.start()
            except RuntimeError as error:  # the system has no more
                self._unused.append(None)
                if len(self._unused) == self._most:
                    raise UsageError("the system allows no more threads; end some, or open the session with "
                                     "threads=1") from error

    def settle(self) -> None:
        """Wait until none is busy; the caller sees to it that there are no new calls."""
        while self._pending:
            time.sleep(PAUSE_S)

    def forget(self) -> None:
        """In a forked child, where none of the threads is."""
        self._start()


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def everybody() -> list[Workers]:
    """All that there are."""
    return list(_all)


def _work(tasks: _Tasks, begin: Callable[[], None], pending: set[_Task]) -> None:
    begin()
    while (task := tasks.get()) is not None:
        try:
            task.result = task.function(*task.args)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            task.error = error
        pending.discard(task)
        task.done.release()
        del task


def _end(tasks: _Tasks, most: int) -> None:
    for _ in range(most):
        tasks.put(None)
