"""Pruning to a latency, a speed-up, a size, an energy or an error: by the cost model and what layers can bear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sparsec.errors import PruningError, UsageError
from sparsec.graph.compare import Feeds
from sparsec.oneshot import costs, dense, energy, samples
from sparsec.oneshot.clock import Clock, Times
from sparsec.oneshot.dense import Dense, Progress
from sparsec.oneshot.distribution.optimal import Levels, cheapest, least_loss
from sparsec.oneshot.file import Method, Outcome
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import Pruned, prune
from sparsec.oneshot.weights import Left
from sparsec.target import Target

STEP = 0.01
"""Between sparsities that are chosen from; between those that were measured, costs and squared errors are straight."""
ROUNDS = 4
NEAR = 0.03
"""How far below its goal a result may stay."""
TIMED = ("latency", "speedup")
UNITS = {"latency": "us", "speedup": "us", "bytes": "bytes", "energy": "uJ"}


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

    """

    kind: str
    wanted: float
    predicted: float
    measured: float
    dense_us: float | None
    pruned_us: float | None
    sparsities: Mapping[str, float]


@dataclass(frozen=True)
class _Try:
    budget: float
    predicted: float
    measured: float
    pruned: Pruned
    shares: dict[str, float]
    times: Times | None


class _Search:
    """What all tries share: the dense model, what every level of every weight costs, and the clock."""

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Feeds], found: Dense, method: Method, goal: Goal,
                 prices: Mapping[str, np.ndarray], clock: Clock | None, progress: Progress) -> None:
        self.model, self.batches, self.found, self.method, self.goal = model, batches, found, method, goal
        self.clock, self.progress = clock, progress
        self.taken = clock.times(None).dense_us if clock is not None else 0.0
        self.weights = [weight for weight in found.weights if weight.name in prices]
        form = pattern(method.pattern)
        tried = costs.sparsities(form)
        self.sparsities = np.arange(0, tried[-1] + 1e-9, STEP) if form.fixed is None else np.array(tried)
        self.levels = [Levels(
            np.interp(self.sparsities, tried, prices[weight.name]),
            np.interp(self.sparsities, tried, np.square(found.sensitivity[weight.name]))) for weight in self.weights]

    def attempt(self, budget: float) -> _Try:
        """Prune within a budget, of predicted cost or of the sum of squared errors, and measure."""
        by_error = self.goal.kind == "max_error"
        sides = [Levels(each.loss, each.cost) for each in self.levels] if by_error else self.levels
        chosen = least_loss(sides, budget)
        assert chosen is not None  # the caller keeps to what can be reached
        shares = {weight.name: 0.0 for weight in self.found.weights}
        shares |= {weight.name: float(self.sparsities[level])
                   for weight, level in zip(self.weights, chosen, strict=True)}
        pruned = prune(self.model, self.batches, self.found, shares, self.method.criterion,
                       pattern(self.method.pattern), self.progress)
        predicted = sum(float(side.cost[level]) for side, level in zip(sides, chosen, strict=True))
        predicted = predicted**0.5 if by_error else predicted
        self.progress("measuring", 0.0)
        times = self.clock.times(pruned.model) if self.clock else None
        return _Try(budget, predicted, self._measured(pruned, times), pruned, shares, times)

    def _measured(self, pruned: Pruned, times: Times | None) -> float:
        """What the goal limits, of a pruned model."""
        if self.goal.kind == "max_error":
            return pruned.error
        if self.goal.kind == "bytes":
            return costs.measured_bytes(pruned.model, self.weights)
        if self.goal.kind == "energy":
            return energy.microjoules(pruned.model, self.weights, self.batches)
        assert times is not None  # the others are timed
        if self.goal.kind == "speedup":  # the machine may have become slower or faster in the meantime
            return times.pruned_us * self.taken / times.dense_us
        return times.pruned_us


def to_goal(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], goal: Goal, method: Method, target: Target,
            threads: int, progress: Progress) -> tuple[Outcome, Reached]:
    """Prune a model to a goal, with the least error that the cost model and the layers' sensitivities allow.

    Raises:
        PruningError: the goal is out of reach; says what can be reached.
        UsageError: samples, options or target do not fit.

    """
    form = pattern(method.pattern)
    batches = samples.batches(model, arrays)
    dense.weights(model, form, method.keep)
    found = dense.run(model, batches, method.criterion, form, method.keep, costs.sparsities(form), progress)
    one = _one(model, batches[0])
    progress("cost model", 0.0)
    clock = Clock(model, one, {"target": target, "threads": threads}) if goal.kind in TIMED else None
    if goal.kind == "bytes":
        prices = costs.stored_bytes(model, found.weights, form)
    elif goal.kind == "energy":
        prices = energy.curves(model, found.weights, batches, form, costs.sparsities(form))
    else:
        shapes = {name: array.shape for name, array in one.items()}
        prices = costs.microseconds(model, found.weights, shapes, target, threads, form)
    if not prices:
        raise PruningError("the cost model knows none of the layers that can be pruned; give --sparsity")
    search = _Search(model, batches, found, method, goal, prices, clock, progress)
    result, wanted = _by_error(search) if goal.kind == "max_error" else _by_cost(search)
    left = (*found.left, *_dense(search, result.shares, prices))
    times = result.times
    return Outcome(result.pruned, left), Reached(
        "latency" if clock else goal.kind, wanted, result.predicted, result.measured,
        times.dense_us if times else None, times.pruned_us if times else None, result.shares)


def _one(model: onnx.ModelProto, batch: Feeds) -> dict[str, np.ndarray]:
    """The inputs of one sample: one row where the model takes any number."""
    free = {value.name for value in model.graph.input if value.type.tensor_type.shape.dim
            and not value.type.tensor_type.shape.dim[0].HasField("dim_value")}
    return {name: array[:1] if name in free else array for name, array in batch.items()}


def _by_cost(search: _Search) -> tuple[_Try, float]:
    """Tries until what is measured is near the goal: measured = slope predicted + rest, from the last two."""
    before = sum(float(each.cost[0]) for each in search.levels)
    wanted, slope, rest = search.goal.value, 1.0, 0.0
    last = (before, before)
    if search.clock is not None:
        taken = search.taken
        wanted = taken / wanted if search.goal.kind == "speedup" else wanted
        slope, rest = min(taken / before, 1.0), max(taken - before, 0.0)
        last = (before, taken)
    least, tries = cheapest(search.levels), list[_Try]()
    for _ in range(ROUNDS):
        budget = min(max((wanted - rest) / slope, least), before)
        if tries and abs(budget - tries[-1].budget) < 1e-3 * tries[-1].budget:
            break
        tries.append(search.attempt(budget))
        now = tries[-1]
        if wanted * (1 - NEAR) <= now.measured <= wanted or (now.measured <= wanted and budget >= before):
            break
        if abs(now.predicted - last[0]) > NEAR * before and (now.measured - last[1]) * (now.predicted - last[0]) > 0:
            slope = (now.measured - last[1]) / (now.predicted - last[0])
        rest, last = now.measured - slope * now.predicted, (now.predicted, now.measured)
    if not (good := [each for each in tries if each.measured <= wanted * (1 + NEAR)]):
        tries.append(search.attempt(least))
        best = min(tries, key=lambda each: each.measured)
        if best.measured <= wanted * (1 + NEAR):
            return best, wanted
        raise PruningError(f"{search.goal.kind} {search.goal.value:g} is out of reach: the best reachable is "
                           f"{best.measured:.4g} {UNITS[search.goal.kind]}, with an error of {best.pruned.error:.2g}"
                           f"{_faster(search, best)}")
    return min(good, key=lambda each: (each.pruned.error, each.measured)), wanted


def _faster(search: _Search, best: _Try) -> str:
    return f", {search.taken / best.measured:.2f}x as fast as dense" if search.clock is not None else ""


def _by_error(search: _Search) -> tuple[_Try, float]:
    """Tries until the error of the outputs is near the goal; the one of least predicted time among those within."""
    wanted, tries = search.goal.value, list[_Try]()
    allowed = wanted
    for _ in range(ROUNDS + 2):
        tries.append(search.attempt(allowed**2))
        error = tries[-1].measured
        if wanted * (1 - 4 * NEAR) <= error <= wanted:
            break
        allowed *= min(wanted / error, 4.0) * (0.97 if error > wanted else 1.0) if error else 4.0
    good = [each for each in tries if each.measured <= wanted]
    if not good:
        best = min(tries, key=lambda each: each.measured)
        raise PruningError(f"max_error {wanted:g} is out of reach: the least that was reached is {best.measured:.2g}")
    return max(good, key=lambda each: each.budget), wanted


def _dense(search: _Search, shares: Mapping[str, float], prices: Mapping[str, np.ndarray]) -> list[Left]:
    """The weights that stay dense, with the reasons."""
    left = []
    for weight in search.found.weights:
        if shares[weight.name]:
            continue
        if weight.name not in prices:
            reason = "the cost model has no layer of this name"
        elif prices[weight.name].min() >= prices[weight.name][0]:
            reason = "no sparsity that was tried pays in the cost model"
        else:
            reason = "the goal is met without it"
        left.append(Left(weight.name, f"dense: {reason}"))
    return left
