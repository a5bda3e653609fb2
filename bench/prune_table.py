#!/usr/bin/env python
"""Prunes trained networks without retraining and counts how often they agree with the dense ones on held-out samples.

prune_table.py [NETWORK ...] prints a table in Markdown for each. $SQUEEZENET names the file of SqueezeNet's weights,
whose table has errors of the logits, and divergences of the classes with their standard errors, too.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from prune_cases import CASES
from scipy.special import log_softmax

from sparsec.graph import ort
from sparsec.graph.compare import same_class
from sparsec.oneshot import dense, file
from sparsec.oneshot.file import Method
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import prune
from sparsec.oneshot.samples import batches as samples_in_runs

LEVELS = (0.5, 0.7, 0.8, 0.9)
METHODS = {"magnitude": Method("magnitude"), "LAMP": Method("magnitude", distribution="lamp"), "Wanda": Method("wanda"),
           "OBS, uniform": Method("obs", distribution="uniform"), "OBS, sensitivity": Method("obs")}


def classes(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The outputs, one row a sample."""
    (name, array), = arrays.items()
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(array)
    session = ort.session(model)
    found = [session.run(None, {name: array[i:i + rows]})[0] for i in range(0, len(array), rows)]
    return np.concatenate(found).reshape(len(array), -1)


def logits(model: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What the last node, a Softmax, takes, one row a sample."""
    front = onnx.ModelProto()
    front.CopyFrom(model)
    del front.graph.output[:]
    front.graph.output.append(onnx.ValueInfoProto(name=front.graph.node[-1].input[0]))
    return classes(front, arrays)


def measured(now: np.ndarray, expected: np.ndarray) -> str:
    """The share of the same classes, the relative error, and the mean divergence with its standard error."""
    error = np.sqrt(np.square(now - expected).sum() / np.square(expected).sum())
    a, b = log_softmax(expected.astype(np.float64), axis=1), log_softmax(now.astype(np.float64), axis=1)
    apart = (np.exp(a) * (a - b)).sum(axis=1)
    return (f"{same_class(now, expected):.1%}, {error:.3f}, {apart.mean():.3g} +- "
            f"{apart.std() / len(apart) ** 0.5:.2g}")


def compressed(proto: onnx.ModelProto, samples: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    """The table of a network that has zeros already: by shares that know this, LAMP's and those of OBS's sensitivity."""
    form, expected = pattern("unstructured"), logits(proto, others)
    batches = samples_in_runs(proto, samples)
    found = dense.run(proto, batches, "obs", form, (), file.TRIED, quiet)
    print("\n| sparsity | criterion, shares | agrees, error, KL |\n|---|---|---|")
    for level in LEVELS:
        for criterion, by in (("magnitude", "lamp"), ("magnitude", file.SENSITIVITY), ("wanda", file.SENSITIVITY),
                              ("obs", "lamp"), ("obs", file.SENSITIVITY)):
            shares = (file.by_sensitivity(found, level) if by == file.SENSITIVITY
                      else file.shared_out(proto, found, by, level))
            pruned = prune(proto, batches, found, shares, criterion, form, quiet).model
            print(f"| {level:.0%} | {criterion}, {by} | {measured(logits(pruned, others), expected)} |", flush=True)


def quiet(_what: str, _share: float) -> None:
    """Tells nothing."""


def main() -> None:
    """Print the tables."""
    for name in sys.argv[1:] or CASES:
        if name == "squeezenet":
            compressed(*CASES[name]())
            continue
        proto, samples, others = CASES[name]()
        expected = classes(proto, others)
        print(f"\n{name}\n\n| sparsity | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}")
        for level in LEVELS:
            print(f"| {level:.0%} |", end="", flush=True)
            for method in METHODS.values():
                pruned = file.to_sparsity(proto, samples, level, method, quiet).pruned.model
                print(f" {same_class(classes(pruned, others), expected):.1%} |", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
