"""The plan: for every layer the option that runs it, and why each other one lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsec.cost.roofline import bound, predict
from sparsec.option import Option

Measure = Callable[[Option], float]


@dataclass(frozen=True)
class Candidate:
    """An option with its predicted and, where it was timed, its measured seconds."""

    option: Option
    predicted_s: float
    measured_s: float | None = None

    @property
    def time_s(self) -> float:
        """The measured time where there is one, else the predicted."""
        return self.predicted_s if self.measured_s is None else self.measured_s


@dataclass(frozen=True)
class Choice:
    """The decision for one layer.

    Attributes:
        layer: the node's name.
        winner: the candidate that runs the layer.
        losers: every other candidate, the fastest first.

    """

    layer: str
    winner: Candidate
    losers: tuple[Candidate, ...]

    def reason(self, candidate: Candidate) -> str:
        """Why a candidate lost, or what bounds the winner."""
        limit = bound(candidate.option.work)
        if candidate is self.winner:
            return f"fastest of {1 + len(self.losers)}, {limit} bound"
        ratio = candidate.time_s / self.winner.time_s
        kind = "measured" if candidate.measured_s is not None else "predicted"
        return f"{kind} {ratio:.2f}x the winner's time, {limit} bound"


def choose(layer: str, options: Sequence[Option], *, threads: int = 1, measure: Measure | None = None,
           trials: int = 4) -> Choice:
    """The fastest option by the roofline; with `measure`, the fastest of the `trials` best predicted ones."""
    candidates = sorted((Candidate(o, predict(o.work, threads=threads)) for o in options), key=lambda c: c.predicted_s)
    if measure is not None and len(candidates) > 1:
        timed = [Candidate(c.option, c.predicted_s, measure(c.option)) for c in candidates[:trials]]
        candidates = [*sorted(timed, key=lambda c: c.time_s), *candidates[trials:]]
    return Choice(layer, candidates[0], tuple(candidates[1:]))
