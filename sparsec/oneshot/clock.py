"""The time of compiled models on this machine, in turns with that of the dense model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from sparsec.compiler.compile import compile as compile_model
from sparsec.graph.compare import Feeds
from sparsec.runtime.session import InferenceSession

ROUNDS, SECONDS = 9, 0.1


@dataclass(frozen=True)
class Times:
    """Medians of the microseconds of one inference."""

    dense_us: float
    pruned_us: float


class Clock:
    """Times models beside the dense one.

    Args:
        dense: the dense model.
        feeds: the inputs of a run.
        options: of `sparsec.compile`.

    """

    def __init__(self, dense: onnx.ModelProto, feeds: Feeds, options: Mapping[str, Any]) -> None:
        self._feeds, self._options = dict(feeds), dict(options)
        self._dense = self._runner(dense)

    def times(self, model: onnx.ModelProto | None) -> Times:
        """The times of the dense model and another, or of the dense one alone, in turns."""
        runners = [self._dense, *([] if model is None else [self._runner(model)])]
        medians = np.array([[_median_us(run) for run in runners] for _ in range(ROUNDS)])
        found = np.median(medians, axis=0)
        return Times(float(found[0]), float(found[-1]))

    def _runner(self, model: onnx.ModelProto) -> Callable[[], Any]:
        shapes = {name: array.shape for name, array in self._feeds.items()}
        session = InferenceSession(compile_model(model, shapes=shapes, tune="off", **self._options))
        return lambda: session.run(None, self._feeds)


def _median_us(run: Callable[[], Any]) -> float:
    run()
    seconds, until = list[float](), time.perf_counter() + SECONDS
    while not seconds or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e6
