"""A session's virtual machines, and how a fork waits until none of them is at work.

TVM's allocator has a lock. A child that is forked while another thread holds it would wait for it for ever. So before a
fork, every virtual machine of every session is taken, which calls in flight give back when they are done; new calls
find none and wait at the gate. A call that finds one pays nothing for this.
"""

from __future__ import annotations

import dis
import functools
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import numpy as np

from sparsec.errors import UsageError
from sparsec.machine import tvm_runtime
from sparsec.machine.memory import Recorded
from sparsec.machine.workers import PAUSE_S, everybody

gate = threading.RLock()
"""Held while sessions are opened and closed, virtual machines made, and the process forked."""


@dataclass(frozen=True, eq=False)
class Engine:
    """One virtual machine with its own input buffers; it serves one call at a time.

    Attributes:
        call: the entry function with the constants bound.
        buffers: aligned arrays that the inputs of one part are copied into.
        tensors: tensors of the same contents, where the program runs.
        reserved: addresses of buffers and constants, which a caller must not get as outputs.
        recorded: the program as it is recorded for a device, where it is; `call` runs it unrecorded.
        direct: what does the same as `call` without a virtual machine; None where the library has no such function.

    """

    call: Callable[..., Any]
    buffers: list[np.ndarray]
    tensors: list[Any]
    reserved: frozenset[int]
    recorded: Recorded | None = None
    direct: Direct | None = None


@dataclass(frozen=True, eq=False)
class Direct:
    """A function that runs a program in memory that stays the same.

    Attributes:
        call: takes the table.
        table: a tensor of the addresses of all memory.
        outputs: where the results are after a call.
        kept: what else the addresses are of.

    """

    call: Callable[[Any], Any]
    table: Any
    outputs: tuple[np.ndarray, ...]
    kept: tuple[Any, ...]


class _Stopped(list["Engine"]):
    """In place of a list of idle engines: takes them, and gives none."""

    def pop(self, _index: Any = -1) -> Engine:
        """Nothing."""
        raise IndexError


class Engines:
    """The virtual machines of a session.

    Attributes:
        idle: those that no call uses; a call takes one from the end and puts it back.
        number: how many were made before; calls of later ones may make calls of earlier ones.

    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.number = next(_numbers)
        self._make: Callable[[], Engine] | None = make
        self._made: list[Engine] = []
        self.idle: list[Engine] = []
        self.idle.append(self.another())
        _all.add(self)

    def another(self) -> Engine:
        """One that is idle by now, or a new one.

        Raises:
            UsageError: the session is closed.

        """
        with gate:
            if self._make is None:
                raise UsageError("the session is closed; open another one")
            engines = self
            try:
                engine = engines.idle.pop()
            except IndexError:
                engine = self._make()
                self._made.append(engine)
            return engine

    def provide(self, count: int) -> None:
        """Make as many as so many calls at once take, so that none of them has to wait at the gate for another."""
        with gate:
            while self._make is not None and len(self._made) < count:
                engine = self._make()
                self._made.append(engine)
                self.idle.append(engine)

    def part(self) -> Engine:
        """One that is idle, and is from now on none of these."""
        engine = self.idle.pop()
        self._made.remove(engine)
        return engine

    def close(self) -> None:
        """Wait for the calls in flight, and let go of every virtual machine; there will be no more."""
        with gate:
            self.stop()
            self._make = None
            self._made.clear()
            _all.discard(self)

    def stop(self) -> None:
        """Wait for the calls in flight, but not for those that this thread is in the midst of; none can begin.

        Such are below a signal handler, which Python calls between two steps of the call and never within TVM.
        """
        idle, stopped = self.idle, _Stopped()
        self.idle = stopped
        frames = list(_frames())
        own = {id(engine) for engine in _own_engines(frames)}
        taken = _just_taken(frames, self)
        while len({id(engine) for engine in self._made} - {id(engine) for engine in (*idle, *stopped)} - own) > taken:
            time.sleep(PAUSE_S)
        self.idle.extend(idle)

    def go_on(self) -> None:
        """Let calls begin again."""
        self.idle = [*self.idle]


_all: weakref.WeakSet[Engines] = weakref.WeakSet()
_numbers = itertools.count()

calls: set[CodeType] = set()
"""The functions that have an engine in their variable `engine` while they use it, of the `Engines` in `engines`."""


def _frames() -> Iterator[tuple[FrameType, CodeType | None]]:
    """Those of `calls` on this thread's stack, each with the function that it is in the midst of calling."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - there is no public name for it
    inner = None
    while frame is not None:
        if frame.f_code in calls:
            yield frame, inner
        inner, frame = frame.f_code, frame.f_back


def _own_engines(frames: Iterable[tuple[FrameType, CodeType | None]]) -> list[Engine]:
    """The engines that calls further down this thread's stack use."""
    held = (frame.f_locals.get("engine") for frame, _ in frames)
    return [engine for engine in held if isinstance(engine, Engine)]


def _just_taken(frames: Iterable[tuple[FrameType, CodeType | None]], engines: Engines) -> int:
    """How many of some engines this thread has taken and not named yet: a signal's handler runs before it could."""
    return sum(frame.f_locals.get("engines") is engines and "engine" not in frame.f_locals
               and frame.f_lineno in _takes(frame.f_code) and inner not in _TAKING for frame, inner in frames)


@functools.cache
def _takes(code: CodeType) -> frozenset[int]:
    """The lines on which a function takes an engine from those that are idle, or asks for another."""
    return frozenset(step.positions.lineno for step in dis.get_instructions(code)
                     if step.argval in ("pop", "another") and step.positions and step.positions.lineno)


_TAKING = (_Stopped.pop.__code__, Engines.another.__code__)
"""What has not given an engine yet while it runs."""
calls.add(Engines.another.__code__)


def _before_fork() -> None:
    gate.acquire()
    for engines in sorted(_all, key=lambda each: each.number, reverse=True):  # calls of stages end before the stages
        engines.stop()
    for workers in everybody():
        workers.settle()


def _after_fork() -> None:
    for each in list(_all):
        each.go_on()
    gate.release()


def _after_fork_in_child() -> None:
    tvm_runtime.forget()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
