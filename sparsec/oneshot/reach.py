"""Pruning to a goal: predicted by the cost model, measured, and corrected.

Times do not depend on which weights are zero, but on how many in which layer: sparsities are found with the smallest
weights set to zero, which takes no samples, and the criterion prunes once they are known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from sparsec.errors import PruningError
from sparsec.oneshot.dense import Answers, Progress
from sparsec.oneshot.distribution.optimal import cheapest
from sparsec.oneshot.file import Method, Outcome
from sparsec.oneshot.goal import Goal, Reached
from sparsec.oneshot.line import Line
from sparsec.oneshot.search import Search, Try
from sparsec.oneshot.weights import Left
from sparsec.target import Target

SKETCHES, ROUNDS = 4, 4
"""Tries with the smallest weights set to zero, and with the criterion."""
NEAR = 0.03
"""How far below its goal a result may stay, and how far a time may lie from where it is aimed at."""
AIM = 0.98
"""The share of a wanted time that is aimed at: measured anew it may be longer."""
ASKED = {"latency": " us", "speedup": "x", "bytes": "", "energy": " uJ"}
UNITS = {"latency": "us", "speedup": "us", "bytes": "bytes", "energy": "uJ"}


def to_goal(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], goal: Goal, method: Method, target: Target,
            threads: int, progress: Progress, answers: Answers | None = None) -> tuple[Outcome, Reached]:
    """Prune a model to a goal, with the least error that the cost model and the layers' sensitivities allow.

    Raises:
        PruningError: the goal is out of reach; says what can be reached.
        UsageError: samples, options or target do not fit.

    """
    return reach(Search.of(model, arrays, goal.kind, method, target, threads, progress, answers), goal)


def reach(search: Search, goal: Goal) -> tuple[Outcome, Reached]:
    """The model pruned to a goal of the search's kind.

    Raises:
        PruningError: the goal is out of reach; says what can be reached.

    """
    as_it_was = search.as_it_is(goal)
    result = as_it_was or (_by_error(search, goal) if goal.kind == "max_error" else _by_cost(search, goal))
    outcome = Outcome(result.pruned, (*search.found.left, *_dense(search, result.shares)))
    clock, times = search.clock, result.times
    unit = clock.dense_us if clock is not None else 1.0
    return outcome, Reached(
        "latency" if clock else goal.kind, search.wanted(goal) * unit, result.predicted, result.measured * unit,
        unit if times else None, result.measured * unit if times else None, result.shares,
        as_it_was is not None)


def _by_cost(search: Search, goal: Goal) -> Try:
    """Tries until what is measured is near the goal."""
    before, least = sum(float(each.cost[0]) for each in search.levels), cheapest(search.levels)
    line, tries = Line.through(before, before), list[Try]()
    if search.clock is not None:
        line = _sketched(search, goal, least, before)
    for _ in range(ROUNDS):
        budget = line.budget(_aim(search, goal), least, before)
        if tries and abs(budget - tries[-1].budget) < 1e-3 * tries[-1].budget:
            break
        tries.append(search.attempt(budget))
        now, wanted = tries[-1], _aim(search, goal)
        most = search.wanted(goal)
        if wanted * (1 - NEAR) <= now.measured <= most or (now.measured <= most and budget >= before):
            break
        line = line.then(now.predicted, now.measured, NEAR * before)
    most = search.wanted(goal) * (1 + NEAR)
    if not (good := [each for each in tries if each.measured <= most]):
        best = min([*tries, search.attempt(least)], key=lambda each: each.measured)
        best = best if best.measured <= most else search.again(best)
        if best.measured <= most:
            return best
        raise PruningError(_out_of_reach(search, goal, best))
    return min(good, key=lambda each: (each.pruned.error, each.measured))


def _sketched(search: Search, goal: Goal, least: float, before: float) -> Line:
    """How the times of models with as many zeros as their budgets allow follow from what is predicted."""
    line = Line.through(before, 1.0)
    for _ in range(SKETCHES):
        predicted, measured = search.sketched(line.budget(_aim(search, goal), least, before))
        line = line.then(predicted, measured, NEAR * before)
        if abs(measured / _aim(search, goal) - 1) <= NEAR or predicted <= least * (1 + NEAR):
            break
    return line


def _aim(search: Search, goal: Goal) -> float:
    return search.wanted(goal) * (AIM if search.clock is not None else 1.0)


def _out_of_reach(search: Search, goal: Goal, best: Try) -> str:
    unit = search.clock.dense_us if search.clock else 1.0
    faster = f", {1 / best.measured:.2f}x as fast as dense" if search.clock else ""
    asked = f"{goal.value:g}{ASKED[goal.kind]}"
    return (f"{goal.kind} {asked} is out of reach: the best reachable is {best.measured * unit:.4g} "
            f"{UNITS[goal.kind]}, with an error of {best.pruned.error:.2g}{faster}")


def _by_error(search: Search, goal: Goal) -> Try:
    """Tries until the error of the outputs is near the goal; the one of least predicted time among those within."""
    wanted, tries = goal.value, list[Try]()
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
    return max(good, key=lambda each: each.budget)


def _dense(search: Search, shares: Mapping[str, float]) -> list[Left]:
    """The weights that stay dense, with the reasons."""
    left = []
    for weight in search.found.weights:
        if shares[weight.name]:
            continue
        prices = search.prices.get(weight.name)
        if prices is None:
            reason = "the cost model has no layer of this name"
        elif prices.min() >= prices[0]:
            reason = "no sparsity that was tried pays in the cost model"
        else:
            reason = "the goal is met without it"
        left.append(Left(weight.name, f"dense: {reason}"))
    return left
