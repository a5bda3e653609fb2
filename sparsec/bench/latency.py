"""Latency and throughput of several engines, side by side: each in a process of its own, one at a time, in rounds."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from sparsec.backends.job import Feeds
from sparsec.bench.engines import ENGINES, Timer
from sparsec.errors import InputError, SparsecError

ROUNDS = 5
WARM_UP_SECONDS = 0.2
FEWEST_RUNS = 3  # per round
LOOK_SECONDS = 0.1  # between looks whether who asked still waits
PAUSE_SECONDS = 0.1  # for the worker threads of the engine before to go to sleep
STABLE_SPREAD = 1.1
"""A measurement is stable if no round's median exceeds another's by more than this factor."""


@dataclass(frozen=True)
class Round:
    """The runs of a period: the seconds of each, and of all of them by the clock; with several callers that is less."""

    runs: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Summary:
    """Percentiles of the microseconds, inferences per second, how many were timed, and what the process took."""

    p50_us: float
    p90_us: float
    p99_us: float
    per_second: float
    runs: int
    open_ms: float
    peak_bytes: int


@dataclass(frozen=True)
class Latency:
    """What one engine takes.

    Attributes:
        engine: its name.
        rounds: the runs.
        open_seconds: opening its file, the import of what it needs included.
        peak_bytes: most memory that its process has held, Python included.

    """

    engine: str
    rounds: tuple[Round, ...]
    open_seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def medians(self) -> np.ndarray:
        """The median of each round."""
        return np.array([np.median(each.runs) for each in self.rounds])

    @property
    def stable(self) -> bool:
        """Whether the rounds agree."""
        return bool(self.medians.max() <= STABLE_SPREAD * self.medians.min())

    @property
    def summary(self) -> Summary:
        """All rounds together."""
        runs = np.concatenate([each.runs for each in self.rounds])
        p50, p90, p99 = (float(value) * 1e6 for value in np.percentile(runs, (50, 90, 99)))
        return Summary(p50, p90, p99, len(runs) / sum(each.seconds for each in self.rounds), len(runs),
                       self.open_seconds * 1e3, self.peak_bytes)


def ratio(slower: Latency, faster: Latency) -> float:
    """How many times longer `slower` takes: the median over the rounds of the ratio of medians."""
    return float(np.median(slower.medians / faster.medians))


def throughput_ratio(engine: Latency, other: Latency) -> float:
    """How many times as many inferences `engine` makes in the same time."""
    return engine.summary.per_second / other.summary.per_second


def measure(files: Mapping[str, str], feeds: Feeds, *, threads: int = 1, seconds: float = 3.0,
            streams: int = 1) -> list[Latency]:
    """Time engines, for about `seconds` each.

    Args:
        files: engine, a key of `ENGINES`, -> the file that it runs.
        feeds: inputs by name.
        threads: threads that each may use.
        seconds: time per engine, split into `ROUNDS`.
        streams: callers at once, each in a thread of its own, on one session.

    Raises:
        InputError: the inputs are not the model's.
        SparsecError: an engine cannot open its file or run it; names both.

    """
    with ExitStack() as stack:
        workers = [_Worker(engine, file, feeds, threads, streams) for engine, file in files.items()]
        for worker in workers:
            stack.callback(worker.close)
        for worker in workers:
            worker.time(WARM_UP_SECONDS)
        rounds = [[worker.time(seconds / ROUNDS) for worker in workers] for _ in range(ROUNDS)]
        return [Latency(engine, tuple(each), worker.open_seconds, worker.peak_bytes)
                for engine, each, worker in zip(files, zip(*rounds, strict=True), workers, strict=True)]


@dataclass(frozen=True)
class _Answer:
    """What a worker says of a period."""

    round: Round
    open_seconds: float
    peak_bytes: int


class _Worker:
    """A process that holds one engine and times it on demand."""

    def __init__(self, engine: str, file: str, feeds: Feeds, threads: int, streams: int) -> None:
        self.open_seconds, self.peak_bytes = 0.0, 0
        context = multiprocessing.get_context("spawn")
        self._name = f"{engine} on {file}"
        self._connection, theirs = context.Pipe()
        arguments = (theirs, engine, file, dict(feeds), threads, streams)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        resource_tracker.ensure_running()  # which would let signals through again, were it started by the process
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the process starts with what is held here
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def time(self, seconds: float) -> Round:
        """The runs of a period."""
        try:
            with suppress(ConnectionError):  # of a worker that has already said why it ended
                self._connection.send(seconds)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = f"its process ended with code {self._process.exitcode}"
        if isinstance(answer, InputError):
            raise answer
        if isinstance(answer, str):
            way = "; --against none measures sparsec alone" if self._name.startswith("onnxruntime") else ""
            raise SparsecError(f"cannot measure {self._name}: {' '.join(answer.split())}{way}")
        time.sleep(PAUSE_SECONDS)
        self.open_seconds, self.peak_bytes = answer.open_seconds, answer.peak_bytes
        found: Round = answer.round
        return found


def _serve(connection: Connection, engine: str, file: str, feeds: Feeds, threads: int, streams: int) -> None:
    """In the worker: answer every period received with the times of its runs, or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that asks ends this one
    try:
        begin = time.perf_counter()
        timer = ENGINES[engine](file, feeds, threads)
        opened = time.perf_counter() - begin
        with ThreadPoolExecutor(streams) as callers:
            while True:
                seconds = connection.recv()
                measured = _time(partial(_runs, timer, seconds, connection.poll), callers, streams)
                connection.send(_Answer(measured, opened, _peak_bytes()))
    except (EOFError, ConnectionError):  # who asked has ended, with or without answers that it never read
        return
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is the answer
        with suppress(ConnectionError):
            connection.send(error if isinstance(error, InputError) else str(error))


def _time(runs_of_one: Callable[[], np.ndarray], callers: ThreadPoolExecutor, streams: int) -> Round:
    """The runs of all callers in a period; one caller is this thread."""
    begin = time.perf_counter()
    if streams == 1:
        runs = [runs_of_one()]
    else:
        runs = [each.result() for each in [callers.submit(runs_of_one) for _ in range(streams)]]
    return Round(np.concatenate(runs), time.perf_counter() - begin)


def _peak_bytes() -> int:
    """Most memory that this process has held, by Linux's count; `getrusage` counts the parent's before `exec`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _runs(timer: Timer, seconds: float, called: Callable[[], bool]) -> np.ndarray:
    """Seconds of each of the runs that fit in a period, which ends early where who asked calls or is gone."""
    times: list[float] = []
    now = time.perf_counter()
    end, look = now + seconds, now + LOOK_SECONDS
    while now < end or len(times) < FEWEST_RUNS:
        times.append(timer())
        now = time.perf_counter()
        if now > look:
            if called():
                break
            look = now + LOOK_SECONDS
    return np.array(times)
