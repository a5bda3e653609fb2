"""Trying budgets: the sparsities of least error within one, the model pruned to them, and what it takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx

from sparsec.errors import PruningError
from sparsec.graph.compare import Feeds
from sparsec.oneshot import costs, dense, energy, samples
from sparsec.oneshot.clock import Clock, Times
from sparsec.oneshot.dense import Dense, Progress
from sparsec.oneshot.distribution.optimal import Levels, least_loss, loss
from sparsec.oneshot.file import Method
from sparsec.oneshot.goal import TIMED, Goal
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import Pruned, prune, unpruned
from sparsec.oneshot.sketch import sketch
from sparsec.target import Target

STEP = 0.01
"""Between sparsities that are chosen from; between those that were measured, costs and squared errors are straight."""
CLOSE, TIMINGS = 0.1, 3
"""How far above a wanted time the dense model's may lie to be measured again, and how often it is at most."""


@dataclass(frozen=True)
class Try:
    """A model pruned within a budget; `measured` is in the goal's unit, a time as a share of the dense model's."""

    budget: float
    predicted: float
    measured: float
    pruned: Pruned
    shares: dict[str, float]
    times: Times | None


@dataclass(frozen=True)
class Search:
    """What all tries share, and goals of one kind.

    Attributes:
        model, batches, found, method: the dense model, the samples, what it is on them, and how it is pruned.
        kind: the goals'; "latency" and "speedup" are one.
        prices: by weight what it costs at every sparsity that was tried.
        clock: None where nothing is timed.
        progress: is told what is going on, and the share that is done.

    """

    model: onnx.ModelProto
    batches: Sequence[Feeds]
    found: Dense
    method: Method
    kind: str
    prices: Mapping[str, np.ndarray]
    clock: Clock | None
    progress: Progress
    _tries: Iterator[int] = field(init=False, default_factory=lambda: itertools.count(1))

    @cached_property
    def weights(self) -> list[dense.Weight]:
        """Those that have a price."""
        return [weight for weight in self.found.weights if weight.name in self.prices]

    @cached_property
    def sparsities(self) -> np.ndarray:
        """Those that are chosen from."""
        tried = self._tried
        return np.arange(0, tried[-1] + 1e-9, STEP) if pattern(self.method.pattern).fixed is None else np.array(tried)

    @cached_property
    def levels(self) -> list[Levels]:
        """Of every weight what each of `sparsities` costs and how much it errs, squared."""
        return [Levels(np.interp(np.maximum(self.sparsities, self.found.sparsity[weight.name]), self._tried,
                                 self.prices[weight.name]),
                       loss(self.sparsities, self._tried, self.found.sensitivity[weight.name],
                            self.found.sparsity[weight.name])) for weight in self.weights]

    @property
    def _tried(self) -> tuple[float, ...]:
        return costs.sparsities(pattern(self.method.pattern))

    @classmethod
    def of(cls, model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], kind: str, method: Method, target: Target,
           threads: int, progress: Progress, answers: dense.Answers | None = None) -> Search:
        """Run the dense model and price its layers.

        Raises:
            PruningError: there is nothing to prune, or nothing that the cost model knows.
            UsageError: samples, options or target do not fit.

        """
        form = pattern(method.pattern)
        batches = samples.batches(model, arrays)
        chosen, _ = dense.weights(model, form, method.keep)
        one = one_sample(model, batches[0])
        progress("cost model", 0.0)
        if kind == "bytes":
            prices = costs.stored_bytes(model, chosen, form)
        elif kind == "energy":
            prices = energy.curves(model, chosen, batches, form, costs.sparsities(form))
        else:
            shapes = {name: array.shape for name, array in one.items()}
            prices = costs.microseconds(model, chosen, shapes, target, threads, form)
        if not prices:
            raise PruningError("the cost model knows none of the layers that can be pruned; give --sparsity")
        if all(each.min() >= each[0] for each in prices.values()):
            raise PruningError(f"pattern '{method.pattern}' pays in no layer on {target.name}, as its cost model "
                               "predicts; `sparsec prune MODEL --advise --target NAME` says which does")
        progress("compiling", 0.0)
        clock = Clock(model, one, {"target": target, "threads": threads}) if kind in TIMED else None
        found = dense.run(model, batches, method.criterion, form, method.keep, costs.sparsities(form), progress,
                          answers)
        return cls(model, batches, found, method, kind, prices, clock, progress)

    def wanted(self, goal: Goal) -> float:
        """What a goal asks of `Try.measured`."""
        if self.clock is None:
            return goal.value
        return 1 / goal.value if goal.kind == "speedup" else goal.value / self.clock.dense_us

    def shares(self, budget: float) -> tuple[dict[str, float], float]:
        """The sparsities of least error within a budget, of cost or of squared errors, and what they are to take."""
        by_error = self.kind == "max_error"
        sides = [Levels(each.loss, each.cost) for each in self.levels] if by_error else self.levels
        chosen = least_loss(sides, budget)
        assert chosen is not None  # the caller keeps to what can be reached
        found = dict(self.found.sparsity)
        found |= {weight.name: max(float(self.sparsities[level]), found[weight.name])
                  for weight, level in zip(self.weights, chosen, strict=True)}
        predicted = sum(float(side.cost[level]) for side, level in zip(sides, chosen, strict=True))
        return found, predicted**0.5 if by_error else predicted

    def attempt(self, budget: float) -> Try:
        """Prune within a budget and measure."""
        shares, predicted = self.shares(budget)
        number = next(self._tries)
        pruned = prune(self.model, self.batches, self.found, shares, self.method.criterion,
                       pattern(self.method.pattern), lambda what, share: self.progress(f"{what}, try {number}", share))
        self.progress("measuring", 0.0)
        times = self._timed(pruned.model) if self.clock else None
        return Try(budget, predicted, self._measured(pruned, times), pruned, shares, times)

    def again(self, tried: Try) -> Try:
        """What was tried, with its time measured once more: the shorter share, since other work of the machine adds."""
        if self.clock is None:
            return tried
        times = self._timed(tried.pruned.model)
        return replace(tried, measured=times.share, times=times) if times.share < tried.measured else tried

    def as_it_is(self, goal: Goal) -> Try | None:
        """The model with nothing pruned, where it meets a goal that is no error; times near it are taken again."""
        if self.kind == "max_error":
            return None
        for _ in range(TIMINGS if goal.kind == "latency" else 0):
            if self.clock is None or not 1 > self.wanted(goal) > 1 / (1 + CLOSE):
                break
            self.progress("measuring", 0.0)
            self.clock.again()
        measured = 1.0 if self.clock else self._size(self.model)
        if measured > self.wanted(goal):
            return None
        before = sum(float(each.cost[0]) for each in self.levels)
        return Try(before, before, measured, unpruned(self.model, self.found), dict(self.found.sparsity),
                   Times(self.clock.dense_us, 1.0) if self.clock else None)

    def sketched(self, budget: float) -> tuple[float, float]:
        """The predicted cost within a budget, and the share of the dense time with zeros at some places."""
        assert self.clock is not None  # only times are looked for so
        shares, predicted = self.shares(budget)
        self.progress("measuring", 0.0)
        model = sketch(self.model, self.found.weights, shares, pattern(self.method.pattern))
        return predicted, self._timed(model).share

    def _timed(self, model: onnx.ModelProto) -> Times:
        """The times of a model, which are told, too."""
        assert self.clock is not None
        times = self.clock.times(model)
        self.progress(f"{1 / times.share:.2f}x as fast", 0.0)
        return times

    def _measured(self, pruned: Pruned, times: Times | None) -> float:
        """What the goal limits, of a pruned model."""
        if self.kind == "max_error":
            return pruned.error
        return times.share if times is not None else self._size(pruned.model)

    def _size(self, model: onnx.ModelProto) -> float:
        """The bytes or microjoules of a model."""
        if self.kind == "bytes":
            return costs.measured_bytes(model, self.weights)
        return energy.microjoules(model, self.weights, self.batches)


def one_sample(model: onnx.ModelProto, batch: Feeds) -> dict[str, np.ndarray]:
    """The inputs of one sample: one row where the model takes any number."""
    free = {value.name for value in model.graph.input if value.type.tensor_type.shape.dim
            and not value.type.tensor_type.shape.dim[0].HasField("dim_value")}
    return {name: array[:1] if name in free else array for name, array in batch.items()}
