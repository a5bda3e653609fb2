"""The sparsities that err least within a budget: dynamic programming over the levels of every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 2000
"""Parts of a budget; what a level takes is rounded up to whole ones."""


@dataclass(frozen=True)
class Levels:
    """Of a weight at each of some sparsities, 0 among them: what it costs, and the loss that it brings."""

    cost: np.ndarray
    loss: np.ndarray


def loss(levels: np.ndarray, tried: Sequence[float], errors: Sequence[float], had: float) -> np.ndarray:
    """The squared errors at some sparsities, straight between those that were tried; none up to that which there is."""
    return np.where(levels <= had, 0.0, np.interp(levels, tried, np.square(errors)))


def cheapest(weights: Sequence[Levels]) -> float:
    """The least that all weights together can cost."""
    return float(sum(weight.cost.min() for weight in weights))


def least_loss(weights: Sequence[Levels], budget: float) -> list[int] | None:
    """The level of every weight with the least sum of losses among those whose costs add up to the budget at most.

    None where no choice fits. The result is exact for costs rounded up to `STEPS` parts of the budget above the least
    that each weight can cost.
    """
    spare = budget - cheapest(weights)
    if spare < 0:
        return None
    part = max(spare / STEPS, 1e-12)  # without anything to spare only the cheapest levels take none of it
    best = np.zeros(STEPS + 1)  # the least loss of the weights so far for each number of parts
    chosen: list[np.ndarray] = []
    for weight in weights:
        parts = np.ceil((weight.cost - weight.cost.min()) / part - 1e-9).clip(0, STEPS + 1).astype(np.int64)
        tried = np.full((len(parts), STEPS + 1), np.inf)
        for level, used in enumerate(parts):
            if used <= STEPS:
                tried[level, used:] = best[:STEPS + 1 - used] + weight.loss[level]
        chosen.append(tried.argmin(axis=0))
        best = tried.min(axis=0)
    left, levels = STEPS, list[int]()
    for weight, choice in zip(reversed(weights), reversed(chosen), strict=True):
        level = int(choice[left])
        left -= int(np.ceil((weight.cost[level] - weight.cost.min()) / part - 1e-9))
        levels.append(level)
    return levels[::-1]
