"""Latency of several engines, side by side: each in a process of its own, one at a time, round by round."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from sparsec.backends.job import Feeds
from sparsec.bench.engines import ENGINES, Timer
from sparsec.errors import SparsecError

ROUNDS = 5
WARM_UP_SECONDS = 0.2
FEWEST_RUNS = 3  # per round
PAUSE_SECONDS = 0.1  # for the worker threads of the engine before to go to sleep
STABLE_SPREAD = 1.1
"""A measurement is stable if no round's median exceeds another's by more than this factor."""


@dataclass(frozen=True)
class Summary:
    """Percentiles of an inference's microseconds, inferences per second, and how many were timed."""

    p50_us: float
    p90_us: float
    p99_us: float
    per_second: float
    runs: int


@dataclass(frozen=True)
class Latency:
    """Seconds per inference of one engine, for every run of every round."""

    engine: str
    rounds: tuple[np.ndarray, ...]

    @property
    def medians(self) -> np.ndarray:
        """The median of each round."""
        return np.array([np.median(each) for each in self.rounds])

    @property
    def stable(self) -> bool:
        """Whether the rounds agree."""
        return bool(self.medians.max() <= STABLE_SPREAD * self.medians.min())

    @property
    def summary(self) -> Summary:
        """All rounds together."""
        runs = np.concatenate(self.rounds)
        p50, p90, p99 = (float(value) * 1e6 for value in np.percentile(runs, (50, 90, 99)))
        return Summary(p50, p90, p99, float(1 / runs.mean()), len(runs))


def ratio(slower: Latency, faster: Latency) -> float:
    """How many times longer `slower` takes: the median over the rounds of the ratio of medians."""
    return float(np.median(slower.medians / faster.medians))


def measure(files: Mapping[str, str], feeds: Feeds, *, threads: int = 1, seconds: float = 3.0) -> list[Latency]:
    """Time engines, for about `seconds` each.

    Args:
        files: engine, a key of `ENGINES`, -> the file that it runs.
        feeds: inputs by name.
        threads: threads that each may use.
        seconds: time per engine, split into `ROUNDS`.

    Raises:
        SparsecError: an engine cannot open its file or run it; names both.

    """
    with ExitStack() as stack:
        workers = [_Worker(engine, file, feeds, threads) for engine, file in files.items()]
        for worker in workers:
            stack.callback(worker.close)
        for worker in workers:
            worker.time(WARM_UP_SECONDS)
        rounds = [[worker.time(seconds / ROUNDS) for worker in workers] for _ in range(ROUNDS)]
    return [Latency(engine, tuple(each)) for engine, each in zip(files, zip(*rounds, strict=True), strict=True)]


class _Worker:
    """A process that holds one engine and times it on demand."""

    def __init__(self, engine: str, file: str, feeds: Feeds, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = f"{engine} on {file}"
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, file, dict(feeds), threads), daemon=True)
        self._process.start()
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def time(self, seconds: float) -> np.ndarray:
        """Seconds of every run in a period."""
        try:
            with suppress(BrokenPipeError):  # of a worker that has already said why it ended
                self._connection.send(seconds)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = f"its process ended with code {self._process.exitcode}"
        if isinstance(answer, str):
            raise SparsecError(f"cannot measure {self._name}: {answer}")
        time.sleep(PAUSE_SECONDS)
        return np.asarray(answer)


def _serve(connection: Connection, engine: str, file: str, feeds: Feeds, threads: int) -> None:
    """In the worker: answer every period received with the times of its runs, or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that asks ends this one
    try:
        timer = ENGINES[engine](file, feeds, threads)
        while True:
            connection.send(_time(timer, connection.recv()))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is the answer
        connection.send(str(error))


def _time(timer: Timer, seconds: float) -> np.ndarray:
    """Seconds of each of the runs that fit in a period."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < FEWEST_RUNS:
        times.append(timer())
    return np.array(times)
