"""The plan: for every layer the option that runs it, and why each other one lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from sparsec.cost.option import Option
from sparsec.cost.roofline import DEFAULT_MACHINE, Rates
from sparsec.graph.annotations import Annotation

HOPELESS = 1.5  # times the best prediction, from which on a kernel is not worth timing
HOPELESS_DENSE = 2.5  # and a dense one, than which no choice may be slower
SHORT_S, HOPELESS_SHORT = 2e-6, 3.0  # predictions of shorter runs err by more, and timing these takes no time
CLOSE, CLOSE_TRIALS, CLOSE_TIMES = 1.12, 3, 3
"""Times the best measurement, up to which so many kernels are measured so often in all, in turns."""
EVEN = 1.02
"""Times the best measurement, up to which what was predicted to be the fastest is taken: measurements err, too."""


Prepare = Callable[[Sequence[Option]], None]
"""Gets options ready that are timed next."""


class Measure(Protocol):
    """What times an option."""

    def __call__(self, option: Option, *, times: int = 1) -> float | None:
        """Seconds, the median of as many measurements; None where there is no time left for any, or no way to."""
        ...


@dataclass(frozen=True)
class Candidate:
    """An option with its predicted and, where it was timed, its measured seconds."""

    option: Option
    predicted_s: float
    measured_s: float | None = None

    @property
    def measured_us(self) -> float | None:
        """The measured time in microseconds."""
        return None if self.measured_s is None else round(self.measured_s * 1e6, 3)

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
        machine: the rates that times were predicted with.
        predicted: what runs it by predictions alone, where candidates were timed.

    """

    layer: str
    winner: Candidate
    losers: tuple[Candidate, ...]
    machine: Rates = DEFAULT_MACHINE
    predicted: Option | None = None

    @property
    def instead_of(self) -> Option | None:
        """What the winner was found to be faster than by timing, though predictions alone had chosen that kernel."""
        own, other = self.winner.option, self.predicted
        return None if other is None or (own.name, own.kernel) == (other.name, other.kernel) else other

    def reason(self, candidate: Candidate) -> str:
        """Why a candidate lost, or what bounds the winner."""
        limit = self.machine.bound(candidate.option.work)
        if candidate is self.winner:
            near = 1.0 if candidate.measured_s is None else EVEN
            fastest = all(candidate.time_s <= near * each.time_s for each in self.losers)
            careful = candidate.option.is_dense and candidate.measured_s is None
            merit = "fastest" if fastest else "dense, which others hardly beat," if careful else (
                "smallest no slower than dense")
            return f"{merit} of {1 + len(self.losers)}, {limit} bound"
        if math.isinf(candidate.time_s):
            return "it failed where it was timed"
        ratio = candidate.time_s / self.winner.time_s
        kind = "measured" if candidate.measured_s is not None else "predicted"
        return f"{kind} {ratio:.2f}x the winner's time, {limit} bound"


CHOICE = Annotation[Choice]("choice")
"""The decision for a layer of a planned graph."""


def choose(layer: str, options: Sequence[Option], *, threads: int = 1, measure: Measure | None = None,
           trials: int = 6, machine: Rates = DEFAULT_MACHINE, smallest: bool = False,
           workers: int = 1, prepare: Prepare | None = None) -> Choice:
    """The fastest option by the roofline, or a dense one hardly slower; with `measure`, the fastest of those timed.

    With `smallest`, the one of the fewest bytes among those at least as fast as the best dense one.

    Timed are first the best predicted options of the `trials` most promising kernels, then half as many more of the one
    that won: tilings of one kernel differ less than the predictions of two kernels err. The best dense
    option is among the first unless it is hopeless. Those that come close to the fastest, and what was predicted to be
    it, are timed again, in turns, and the prediction decides between equals. `workers` calls of `measure` are made at
    once; before it is called for several options, `prepare` may get them all ready.
    """
    candidates = sorted((Candidate(o, machine.seconds(o.work, threads)) for o in options), key=lambda c: c.predicted_s)
    predicted = None
    if measure is not None and len(candidates) > 1:
        predicted = None if smallest else _careful(candidates, machine).option
        kernels = _by_kernel(candidates)
        timed = _timed(_finalists(kernels, trials), measure, workers, prepare)
        fastest = _ranked(timed)[0]
        timed += _timed(kernels[_kernel(fastest)][1:1 + trials // 2], measure, workers, prepare)
        rest = [c for c in candidates if all(c.option is not t.option for t in timed)]
        candidates = _even(_settled(_ranked(timed), measure, workers)) + rest
    winner = _smallest(candidates) if smallest else candidates[0]
    if measure is None and not smallest:
        winner = _careful(candidates, machine)
    return Choice(layer, winner, tuple(each for each in candidates if each is not winner), machine, predicted)


def _careful(candidates: Sequence[Candidate], machine: Rates) -> Candidate:
    """The first of candidates in the order of their predictions, or a dense one that is hardly slower."""
    near = machine.error * candidates[0].predicted_s
    return next((each for each in candidates if each.option.is_dense and each.predicted_s < near), candidates[0])


def _smallest(candidates: Sequence[Candidate]) -> Candidate:
    dense = min((each.time_s for each in candidates if each.option.is_dense), default=float("inf"))
    eligible = [each for each in candidates if each.time_s <= dense]
    return min(eligible, key=lambda each: (each.option.nbytes, each.time_s))


def hopeless(best_s: float) -> float:
    """The predicted seconds from which on a kernel is not worth timing, by the best prediction."""
    return best_s * (HOPELESS if best_s > SHORT_S else HOPELESS_SHORT)


def best_by_format(choice: Choice) -> list[Candidate]:
    """The fastest candidate of every format, the winner first."""
    best: dict[str, Candidate] = {}
    for candidate in (choice.winner, *choice.losers):
        best.setdefault(candidate.option.name, candidate)
    return list(best.values())


def _kernel(candidate: Candidate) -> tuple[str, str]:
    """What tilings differ within: how the weight is stored, and the kernel with its mode."""
    return candidate.option.name, candidate.option.kernel


def _by_kernel(candidates: Sequence[Candidate]) -> dict[tuple[str, str], list[Candidate]]:
    """The candidates that are not hopeless by kernel, those of each and the kernels themselves the best first."""
    kernels: dict[tuple[str, str], list[Candidate]] = {}
    limit = hopeless(candidates[0].predicted_s)
    for candidate in candidates:
        if candidate.predicted_s < limit * (HOPELESS_DENSE / HOPELESS if candidate.option.is_dense else 1):
            kernels.setdefault(_kernel(candidate), []).append(candidate)
    return kernels


def _finalists(kernels: Mapping[tuple[str, str], list[Candidate]], trials: int) -> list[Candidate]:
    """The best of the first kernels and the best dense one."""
    best = [members[0] for members in kernels.values()]
    dense = next((c for c in best[trials:] if c.option.is_dense), None)
    if dense is None or any(c.option.is_dense for c in best[:trials]):
        return best[:trials]
    return [*best[:trials], dense]


def _ranked(timed: Sequence[Candidate]) -> list[Candidate]:
    """The fastest first; what there was no time to measure comes last."""
    return sorted(timed, key=lambda c: (c.measured_s is None, c.time_s))


def _settled(ranked: Sequence[Candidate], measure: Measure, workers: int) -> list[Candidate]:
    """The candidates with those timed again that come close to the fastest, or were predicted to be it.

    A single time of several threads may be several times too long, and then the prediction is worth more.
    """
    measured = [c for c in ranked if c.measured_s is not None]
    if len(measured) < 2:
        return list(ranked)
    close = [c for c in measured if c.time_s < CLOSE * ranked[0].time_s][:CLOSE_TRIALS]
    likely = min(measured, key=lambda c: c.predicted_s)
    close += [likely] if all(c is not likely for c in close) else []
    if len(close) < 2:
        return list(ranked)
    others = [c for c in ranked if all(c is not each for each in close)]
    for times in range(2, CLOSE_TIMES + 1):
        close = _timed(close, partial(measure, times=times), workers)
    return _ranked([*close, *others])


def _even(ranked: list[Candidate]) -> list[Candidate]:
    """The candidates with that of the least prediction first among those that are as good as the fastest."""
    equals = [c for c in ranked if c.measured_s is not None and c.measured_s <= EVEN * ranked[0].time_s]
    first = min(equals, key=lambda c: c.predicted_s, default=ranked[0])
    return [first, *(c for c in ranked if c is not first)]


def _timed(candidates: Sequence[Candidate], measure: Callable[[Option], float | None], workers: int,
           prepare: Prepare | None = None) -> list[Candidate]:
    """The candidates with their measured times."""
    if prepare is not None:
        prepare([c.option for c in candidates])
    if workers == 1:
        seconds = [measure(c.option) for c in candidates]
    else:
        with ThreadPoolExecutor(workers) as pool:
            seconds = list(pool.map(measure, (c.option for c in candidates)))
    return [replace(c, measured_s=each) for c, each in zip(candidates, seconds, strict=True)]
