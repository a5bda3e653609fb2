"""Requests of several callers in one run: those that wait while a run is under way are the next one's rows."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsec.errors import SparsecError
from sparsec.runtime.session import InferenceSession
from sparsec.runtime.signature import TensorInfo

Feeds = Mapping[str, np.ndarray]

TOLERANCE = 1e-4
"""By how much, of the largest value, an output of two rows together may differ from that of each by itself."""
PROBED = 4
"""What sizes beside the rows are taken for when rows are run together to see."""
QUICK_S = 5e-4
"""Runs that take less are made by the thread that asks: handing one to another thread takes as long, or, while Python
computes in both, up to its switch interval."""


class QueueFullError(SparsecError):
    """As many requests wait as may."""


class ClosedError(SparsecError):
    """The server takes no more requests."""


@dataclass(frozen=True)
class Limits:
    """What a queue may do.

    Attributes:
        rows: the most that a run takes of several requests together; 1 runs each by itself.
        delay_s: how long the first of them waits for others, at most.
        waiting: requests that may wait; further ones are refused.
        replicas: runs at the same time.

    """

    rows: int = 32
    delay_s: float = 0.0
    waiting: int = 256
    replicas: int = 1


@dataclass(frozen=True)
class Request:
    """Inputs that wait for a run.

    Attributes:
        feeds: the inputs by name.
        rows: their first size.
        kind: what requests of one run have in common: names, types and further sizes.
        since: when it came.
        done: its outputs.

    """

    feeds: Feeds
    rows: int
    kind: tuple[Any, ...]
    since: float
    done: Future[list[np.ndarray]] = field(default_factory=Future)


class Queue:
    """The requests of one session and the threads that run them.

    Args:
        session: whose inputs are rows where runs take several (`why_not_together`).
        limits: what it may do.
        observe: told of every run: its rows, and the seconds that each request took from its coming.
        clock: whose seconds tell how long a run took: the thread's own, whoever else has the core or the interpreter
            meanwhile; sessions that wait for a device take others.

    """

    def __init__(self, session: InferenceSession, limits: Limits,
                 observe: Callable[[int, Sequence[float]], None] = lambda _rows, _seconds: None,
                 clock: Callable[[], float] = time.thread_time) -> None:
        self._session, self._limits, self._observe, self._clock = session, limits, observe, clock
        self._waiting: deque[Request] = deque()
        self._quick = 0  # the most elements of the inputs of a run that was quick
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(limits.replicas)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def submit(self, feeds: Feeds, *, wake: bool = True) -> Future[list[np.ndarray]]:
        """Have a run; the future has the outputs, or the error of `InferenceSession.run`.

        Args:
            feeds: the inputs by name.
            wake: a thread of the queue; else `run_quick` must follow.

        Raises:
            QueueFullError: as many wait as may.
            ClosedError: `close` was called.

        """
        kind = tuple((name, array.dtype.str, array.shape[1:], array.ndim) for name, array in sorted(feeds.items()))
        rows = {len(array) if array.ndim else 0 for array in feeds.values()}
        request = Request(feeds, rows.pop() if len(rows) == 1 else 0, kind, time.monotonic())
        with self._changed:
            if self._closed:
                raise ClosedError("the server is stopping; ask another one")
            if len(self._waiting) >= self._limits.waiting:
                raise QueueFullError(f"{len(self._waiting)} requests wait already; ask again later")
            self._waiting.append(request)
            if wake:
                self._changed.notify()
        return request.done

    def run_quick(self) -> None:
        """Run what waits in this thread while that is quick, by the runs before; leave the rest to the queue's own."""
        while True:
            with self._changed:
                if not self._waiting:
                    return
                together = self._together()
                elements = sum(_elements(each.feeds) for each in together)
                if self._closed or self._limits.delay_s or elements > 2 * self._quick:
                    self._changed.notify()
                    return
                group = self._take(together)
            if group:
                self._run_and_tell(group)

    def close(self, *, wait: bool = True) -> None:
        """Take no more requests; those that wait are run, and have been when this returns, unless it need not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while group := self._next():
            self._run_and_tell(group)

    def _run_and_tell(self, group: list[Request]) -> None:
        self._run(group)
        now = time.monotonic()
        self._observe(sum(each.rows for each in group), [now - each.since for each in group])

    def _next(self) -> list[Request]:
        """The requests of the next run without those that were cancelled, none when all is done; waits for them."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                left = self._waiting[0].since + self._limits.delay_s - time.monotonic()
                together = self._together()
                if left <= 0 or self._closed or sum(each.rows for each in together) >= self._limits.rows:
                    if wanted := self._take(together):
                        return wanted
                    continue
                self._changed.wait(left)

    def _take(self, together: list[Request]) -> list[Request]:
        """Those of some that wait which were not cancelled; none of them waits any more."""
        taken = {id(each) for each in together}
        self._waiting = deque(each for each in self._waiting if id(each) not in taken)
        return [each for each in together if each.done.set_running_or_notify_cancel()]

    def _together(self) -> list[Request]:
        """The first request, and those of its kind that fit into a run with it."""
        first, *others = self._waiting
        chosen, rows = [first], first.rows
        for each in others:
            alike = self._limits.rows > 1 and first.rows > 0 and each.kind == first.kind
            if alike and each.rows + rows <= self._limits.rows:
                chosen.append(each)
                rows += each.rows
        return chosen

    def _run(self, group: list[Request]) -> None:
        """Run requests together, or each by itself where that fails, so that it fails for the one at fault only."""
        try:
            if len(group) == 1:
                group[0].done.set_result(self._timed(group[0].feeds))
                return
            joined = {name: np.concatenate([each.feeds[name] for each in group]) for name in group[0].feeds}
            outputs = self._timed(joined)
            ends = np.cumsum([each.rows for each in group])[:-1]
            for each, parts in zip(group, zip(*(np.split(array, ends) for array in outputs), strict=True), strict=True):
                each.done.set_result(list(parts))
        except Exception as error:  # noqa: BLE001 - it is the caller's, whatever it is
            if len(group) == 1:
                known = isinstance(error, SparsecError)  # its traceback would hold the request's arrays, and itself
                group[0].done.set_exception(error.with_traceback(None) if known else error)
            else:
                for each in group:
                    self._run([each])

    def _timed(self, feeds: Feeds) -> list[np.ndarray]:
        """The outputs of a run, whose time tells how large quick ones are."""
        begin = self._clock()
        outputs = self._session.run(None, feeds)
        elements = _elements(feeds)
        if self._clock() - begin < QUICK_S:
            self._quick = max(self._quick, elements)
        else:
            self._quick = min(self._quick, (elements - 1) // 2)
        return outputs


def _elements(feeds: Feeds) -> int:
    """Of all inputs together."""
    return sum(each.size for each in feeds.values())


def why_not_together(session: InferenceSession) -> str | None:
    """Why requests of several callers cannot be rows of one run, None where they can.

    They can where the first size of all inputs and outputs is one that the run tells, and two rows give together what
    each gives by itself, as a run of both shows.
    """
    if (reason := _other_rows([*session.get_inputs(), *session.get_outputs()])) is not None:
        return reason
    rng = np.random.default_rng(0)
    rows = [{each.name: _row(each.dtype, [PROBED if isinstance(n, str) else n for n in each.shape[1:]], number, rng)
             for each in session.get_inputs()} for number in range(2)]
    try:
        alone = [session.run(None, row) for row in rows]
        both = session.run(None, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    except SparsecError as error:
        return f"two rows could not be tried: {error}"
    for parts, whole in zip(zip(*alone, strict=True), both, strict=True):
        expected = np.concatenate(parts)
        finite = expected[np.isfinite(expected)].astype(np.float64)
        if expected.size and not finite.size:
            return "two rows could not be tried: random inputs give outputs that are no numbers"
        if expected.shape != whole.shape or not np.allclose(  # a mask may hide all of one row, which gives NaN
                expected, whole, rtol=0, atol=TOLERANCE * np.abs(finite).max(initial=1.0), equal_nan=True):
            return "its rows depend on each other"
    return None


def _other_rows(infos: Sequence[TensorInfo]) -> str | None:
    """Why a run cannot choose the first size of all inputs and outputs alike, None where it can."""
    for each in infos:
        size, first = (info.shape[0] if info.shape else None for info in (each, infos[0]))
        if size is None:
            return f"'{each.name}' is one number, without rows"
        if not isinstance(size, str) or "/" in size:
            return (f"the first size of '{each.name}' is {size}, and not one that a run may choose; export the model "
                    "with a symbol for the batch, and compile it without --dim or --shape for that")
        if size == "?":
            return f"nothing tells the first size of '{each.name}' before a run"
        if size != first:
            return f"the first size of '{infos[0].name}' is {first}, that of '{each.name}' {size}"
    return None


def _row(dtype: np.dtype[Any], shape: Sequence[Any], number: int, rng: np.random.Generator) -> np.ndarray:
    """One row of an input: random numbers, or integers that are indices of most tables."""
    if dtype.kind == "f":
        return rng.standard_normal((1, *shape)).astype(dtype)
    return np.full((1, *shape), number, dtype)
