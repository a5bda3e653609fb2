#!/usr/bin/env python
"""Goals of `sparsec prune model.onnx` met, and the chosen sparsities beside others at the same measured latency.

prune_goals.py goals RESULTS MODEL CRITERION SAMPLES GOAL...   such as resnet50-0.onnx magnitude 16 1.5x 2x 0.4ms
prune_goals.py distributions RESULTS NETWORK SPEEDUP...        a network of prune_cases.py, such as lenet5 1.5 2 3

RESULTS is a file of lines of JSON; what it holds is not measured again. Both print its tables in Markdown.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from prune_cases import CASES
from prune_table import classes

from sparsec.cli.prune_file import goal_of
from sparsec.graph.compare import same_class
from sparsec.oneshot.clock import Clock
from sparsec.oneshot.distribution.optimal import cheapest
from sparsec.oneshot.file import Method, shared_out
from sparsec.oneshot.goal import Goal
from sparsec.oneshot.line import Line
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import prune
from sparsec.oneshot.reach import NEAR, reach
from sparsec.oneshot.search import Search, one_sample
from sparsec.target import resolve

FORM, TARGET = pattern("unstructured"), resolve("cpu")
OTHERS = ("uniform", "erk", "global")
TRIES, WITHIN = 5, 0.03


def tell(what: str, share: float) -> None:
    """Say what is going on, and when."""
    print(f"{time.strftime('%H:%M:%S')} {what} {share:.0%}", file=sys.stderr, flush=True)


def searched(store: Path, name: str, proto: onnx.ModelProto, arrays: dict[str, np.ndarray], method: Method) -> Search:
    """The dense model and what its layers can bear, kept beside the results; only its time is measured anew."""
    cache = store.with_name(f"{store.name}.{name}.pickle")
    if not cache.exists():
        search = Search.of(proto, arrays, "latency", method, TARGET, 1, tell)
        cache.write_bytes(pickle.dumps(replace(search, clock=None, progress=None)))
        return search
    tell("compiling", 0)
    kept = pickle.loads(cache.read_bytes())  # noqa: S301 - written by this program
    return replace(kept, clock=Clock(proto, one_sample(proto, kept.batches[0]), {"target": TARGET, "threads": 1}),
                   progress=tell)


def random_samples(proto: onnx.ModelProto, number: int) -> dict[str, np.ndarray]:
    """Samples for a network with random weights: numbers, or places in a vocabulary."""
    rng, found = np.random.default_rng(0), {}
    for value in proto.graph.input:
        rows, *rest = (dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        shape = (number * rows, *rest)
        floats = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        found[value.name] = (rng.standard_normal(shape).astype(np.float32) if floats
                             else rng.integers(0, 1000, shape).astype(np.int64))
    return found


def goals(store: Path, known: list[dict], model: str, criterion: str, number: str, *texts: str) -> None:
    """Meet goals, and measure each anew."""
    name, proto = Path(model).stem, onnx.load(model)
    texts = [each for each in texts if not any((row["name"], row.get("goal")) == (name, each) for row in known)]
    if not texts:
        return
    search = searched(store, name, proto, random_samples(proto, int(number)), Method(criterion))
    for text in texts:
        goal = goal_of(None, None, text, None, None, None) if text.endswith("x") else goal_of(
            None, text, None, None, None, None)
        assert isinstance(goal, Goal)
        outcome, _ = reach(search, goal)
        again = search.clock.times(outcome.pruned.model).share
        keep(store, known, {"name": name, "goal": text, "dense_us": search.clock.dense_us, "wanted": search.wanted(goal),
                            "measured": again, "sparsity": outcome.pruned.sparsity})


def distributions(store: Path, known: list[dict], name: str, *speedups: str) -> None:
    """Prune to a time by each distribution, and compare the errors on held-out samples."""
    speedups = [each for each in speedups if not any(
        (row["name"], row.get("speedup"), row.get("by")) == (name, each, OTHERS[-1]) for row in known)]
    proto, arrays, others = CASES[name]()
    search, expected = searched(store, name, proto, arrays, Method()), classes(proto, others)
    for speedup in speedups:
        for by in ("chosen", *OTHERS):
            model, share = pruned_to(search, by, 1 / float(speedup))
            now = classes(model, others)
            error = float(np.sqrt(np.square(now - expected).sum() / np.square(expected).sum()))
            keep(store, known, {"name": name, "speedup": speedup, "by": by, "error": error,
                                "measured": share, "agrees": same_class(now, expected)})


def pruned_to(search: Search, by: str, wanted: float) -> tuple[onnx.ModelProto, float]:
    """The model pruned by a distribution with which it takes a share of the dense time, and what it takes, measured."""
    before, least = sum(float(each.cost[0]) for each in search.levels), cheapest(search.levels)
    line, tried = Line.through(before, 1.0), []
    for _ in range(TRIES):
        budget = line.budget(wanted, least, before)
        shares = search.shares(budget)[0] if by == "chosen" else priced(search, by, budget)
        model = prune(search.model, search.batches, search.found, shares, "obs", FORM, tell).model
        tried.append((model, search.clock.times(model).share))
        if abs(tried[-1][1] / wanted - 1) <= WITHIN:
            break
        line = line.then(cost(search, shares), tried[-1][1], NEAR * before)
    return min(tried, key=lambda each: abs(each[1] / wanted - 1))


def cost(search: Search, shares: dict[str, float]) -> float:
    """The predicted microseconds of all weights that have a price."""
    return sum(float(np.interp(shares[weight.name], search.sparsities, level.cost))
               for weight, level in zip(search.weights, search.levels, strict=True))


def priced(search: Search, by: str, budget: float) -> dict[str, float]:
    """The sparsities of a distribution that take a budget."""
    low, high = 0.0, 0.995
    for _ in range(30):
        middle = (low + high) / 2
        shares = shared_out(search.model, search.found, by, middle)
        low, high = (low, middle) if cost(search, shares) <= budget else (middle, high)
    return shared_out(search.model, search.found, by, high)


def keep(store: Path, known: list[dict], row: dict) -> None:
    """Add a line to the results."""
    known.append(row)
    with store.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def tables(rows: list[dict]) -> None:
    """Print what the results hold."""
    print("\n| model | dense | asked | measured | of it | zeros |\n|---|---|---|---|---|---|")
    for row in (each for each in rows if "goal" in each):
        wanted, measured = (row["dense_us"] * row[key] / 1e3 for key in ("wanted", "measured"))
        print(f"| {row['name']} | {row['dense_us'] / 1e3:.3g} ms | {row['goal']} ({wanted:.3g} ms) | {measured:.3g} ms "
              f"| {measured / wanted:.1%} | {row['sparsity']:.1%} |")
    print("\n| network | asked | by | measured | error | agrees |\n|---|---|---|---|---|---|")
    for row in (each for each in rows if "by" in each):
        print(f"| {row['name']} | {row['speedup']}x | {row['by']} | {1 / row['measured']:.2f}x | {row['error']:.3f} "
              f"| {row['agrees']:.1%} |")


def main() -> None:
    """Measure what is missing, and print the tables."""
    what, store, *rest = sys.argv[1:]
    path = Path(store)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    {"goals": goals, "distributions": distributions}[what](path, known, *rest)
    tables(known)


if __name__ == "__main__":
    main()
