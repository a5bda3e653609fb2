#!/usr/bin/env python
"""Distributions of zeros at the same predicted latency: the optimum over cost model and sensitivity, and the others.

prune_goals.py [NETWORK ...] prints for each the error and the agreement on held-out samples and the latency in turns.
"""

from __future__ import annotations

import sys

import numpy as np
from prune_cases import CASES
from prune_table import classes

from sparsec.graph.compare import same_class
from sparsec.oneshot import costs, dense, samples
from sparsec.oneshot.clock import Clock
from sparsec.oneshot.distribution.optimal import Levels, cheapest, least_loss
from sparsec.oneshot.file import shared_out
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import prune
from sparsec.report.curves import SPARSITIES
from sparsec.target import resolve

GRID = np.arange(0, SPARSITIES[-1] + 1e-9, 0.01)
SHARES = (0.7, 0.5, 0.4)  # of the time between the dense layers' and the least that all can take


def quiet(_what: str, _share: float) -> None:
    """Tell nobody."""


def main() -> None:
    """Print a table for each network."""
    target, form = resolve("cpu"), pattern("unstructured")
    for name in sys.argv[1:] or CASES:
        proto, arrays, others = CASES[name]()
        batches = samples.batches(proto, arrays)
        found = dense.run(proto, batches, "obs", form, (), SPARSITIES, quiet)
        one = {key: array[:1] for key, array in arrays.items()}
        prices = costs.microseconds(proto, found.weights, {key: array.shape for key, array in one.items()}, target, 1,
                                    form)
        weights = [weight for weight in found.weights if weight.name in prices]
        levels = [Levels(np.interp(GRID, SPARSITIES, prices[weight.name]),
                         np.interp(GRID, SPARSITIES, np.square(found.sensitivity[weight.name]))) for weight in weights]
        clock, expected = Clock(proto, one, {"target": target, "threads": 1}), classes(proto, others)

        def cost(shares: dict[str, float], prices=prices, weights=weights) -> float:
            return sum(float(np.interp(shares[w.name], SPARSITIES, prices[w.name])) for w in weights)

        print(f"\n{name}\n\n| share | distribution | predicted us | x dense | error | agrees |\n|---|---|---|---|---|---|")
        for share in SHARES:
            least, whole = cheapest(levels), sum(each.cost[0] for each in levels)
            budget = least + share * (whole - least)
            chosen = least_loss(levels, budget)
            tried = {"optimal": {w.name: float(GRID[level]) for w, level in zip(weights, chosen, strict=True)}}
            for other in ("uniform", "erk", "global"):
                low, high = 0.0, 0.999
                for _ in range(30):
                    middle = (low + high) / 2
                    low, high = (low, middle) if cost(shared_out(proto, found, other, middle)) <= budget else (
                        middle, high)
                tried[other] = shared_out(proto, found, other, high)
            for label, shares in tried.items():
                whole_shares = {w.name: shares.get(w.name, 0.0) for w in found.weights}
                model = prune(proto, batches, found, whole_shares, "obs", form, quiet).model
                now, times = classes(model, others), clock.times(model)
                error = np.sqrt(np.square(now - expected).sum() / np.square(expected).sum())
                print(f"| {share:.0%} | {label} | {cost(whole_shares):.1f} | {times.dense_us / times.pruned_us:.2f} "
                      f"| {error:.3f} | {same_class(now, expected):.1%} |", flush=True)


if __name__ == "__main__":
    main()
