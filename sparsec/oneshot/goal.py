"""Pruning to a latency, a speed-up, a size, an energy or an error: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.errors import UsageError

TIMED = ("latency", "speedup")


@dataclass(frozen=True)
class Goal:
    """What is to be reached: "latency" in microseconds, "speedup", "bytes", "energy" in microjoules, or "max_error"."""

    kind: str
    value: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.value) or self.value <= 0:
            raise UsageError(f"--{self.kind.replace('_', '-')} {self.value:g}: give a number above 0")


@dataclass(frozen=True)
class Reached:
    """How a goal was met.

    Attributes:
        kind, wanted: the goal, a speed-up as the latency that it means.
        predicted, measured: of the pruned model, in the goal's unit.
        dense_us, pruned_us: microseconds of both compiled models, measured in turns; None where nothing was timed.
        sparsities: by layer.
        as_it_was: whether the file met the goal already, so that nothing was pruned.

    """

    kind: str
    wanted: float
    predicted: float
    measured: float
    dense_us: float | None
    pruned_us: float | None
    sparsities: Mapping[str, float]
    as_it_was: bool = False
