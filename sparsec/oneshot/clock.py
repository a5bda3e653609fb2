"""The time of compiled models on this machine, in turns with that of the dense model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from sparsec.compiler.compile import compile as compile_model
from sparsec.graph.compare import Feeds
from sparsec.runtime.session import InferenceSession

ROUNDS, SECONDS, FEWEST = 9, 0.05, 3
"""Turns, how long each takes, and the runs that it has at least."""


@dataclass(frozen=True)
class Times:
    """Microseconds of one inference: the dense model's, and the pruned one's share of it in turns."""

    dense_us: float
    share: float

    @property
    def pruned_us(self) -> float:
        """The pruned model's."""
        return self.dense_us * self.share


class Clock:
    """Times models beside the dense one, so that a machine that becomes slower or faster does not matter.

    Args:
        dense: the dense model.
        feeds: the inputs of a run.
        options: of `sparsec.compile`.

    Attributes:
        dense_us: the fastest that the dense model has been so far, in a turn: nothing else ran then.

    """

    def __init__(self, dense: onnx.ModelProto, feeds: Feeds, options: Mapping[str, Any]) -> None:
        self._feeds, self._options = dict(feeds), dict(options)
        self._dense = self._runner(dense)
        self.dense_us = np.inf
        self._turns([self._dense])

    def again(self) -> None:
        """Time the dense model once more, so that `dense_us` depends less on what else the machine does."""
        self._turns([self._dense])

    def times(self, model: onnx.ModelProto) -> Times:
        """The times of the dense model and another, in turns."""
        found = self._turns([self._dense, self._runner(model)])
        return Times(float(np.median(found[:, 0])), float(np.median(found[:, 1] / found[:, 0])))

    def _turns(self, runners: Sequence[Callable[[], Any]]) -> np.ndarray:
        """The lower quartiles of every turn (turns, runners), the dense model first."""
        found = np.array([[_low_us(run) for run in runners] for _ in range(ROUNDS)])
        self.dense_us = min(self.dense_us, float(found[:, 0].min()))
        return found

    def _runner(self, model: onnx.ModelProto) -> Callable[[], Any]:
        shapes = {name: array.shape for name, array in self._feeds.items()}
        session = InferenceSession(compile_model(model, shapes=shapes, tune="off", verify=False, **self._options))
        return lambda: session.run(None, self._feeds)


def _low_us(run: Callable[[], Any]) -> float:
    run()
    seconds, until = list[float](), time.perf_counter() + SECONDS
    while len(seconds) < FEWEST or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.quantile(seconds, 0.25)) * 1e6  # what else the machine does only adds
