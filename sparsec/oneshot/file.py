"""Pruning a file to a sparsity: everything between its path and the pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sparsec.errors import ModelError, UsageError, meant
from sparsec.graph import reader
from sparsec.graph.proto import read_proto
from sparsec.graph.sparse import densify, has_sparse
from sparsec.oneshot import dense, samples
from sparsec.oneshot.criteria import CRITERIA
from sparsec.oneshot.dense import Answers, Dense, Progress
from sparsec.oneshot.distribution import DISTRIBUTIONS
from sparsec.oneshot.distribution.asked import Asked
from sparsec.oneshot.distribution.exact import exact
from sparsec.oneshot.distribution.optimal import Levels, cheapest, least_loss, loss
from sparsec.oneshot.finished import Finished
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.prune import Pruned, check_sparsity, prune
from sparsec.oneshot.weights import Left, constants

SENSITIVITY = "sensitivity"
"""The distribution that asks what error every layer has at some sparsities."""
TRIED, GRID = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995), 200
"""Those sparsities; the number of evenly spaced ones that are chosen from."""


@dataclass(frozen=True)
class Method:
    """How a model is pruned; the names are those of `CRITERIA`, `DISTRIBUTIONS` and patterns.

    Without a distribution `obs` shares out by sensitivity, the others alike among layers.
    """

    criterion: str = "obs"
    pattern: str = "unstructured"
    distribution: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def quota(self) -> str:
        """The distribution, or the usual one of the criterion."""
        return self.distribution or (SENSITIVITY if self.criterion == "obs" else "uniform")

    def __post_init__(self) -> None:
        pattern(self.pattern)
        for kind, name, known in (("criterion", self.criterion, CRITERIA),
                                  ("quota", self.quota, (*DISTRIBUTIONS, SENSITIVITY))):
            if name not in known:
                raise UsageError(f"--{kind} {name}: {meant(name, known)}pruning a file knows {', '.join(known)}")


@dataclass(frozen=True)
class Outcome:
    """A pruned model, and the layers that were left as they are, with the reasons."""

    pruned: Pruned
    left: tuple[Left, ...]


def read(path: Path) -> tuple[onnx.ModelProto, bool]:
    """A model as it stands in its file, with dense weights, and whether these were sparse tensors there.

    It gets the checks of every model to compile.

    Raises:
        ModelError: it is none, or damaged.

    """
    reader.load(path, symbolic=True)
    try:
        model = read_proto(path)
        sparse = has_sparse(model)
        densify(model, path.parent)
    except Exception as error:  # what onnx raises on damaged files has no common base
        raise ModelError(f"{path}: damaged ONNX model: {error}; export it again") from error
    return model, sparse


def to_sparsity(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], sparsity: float | None, method: Method,
                progress: Progress, folder: Path | None = None, answers: Answers | None = None) -> Outcome:
    """Prune a model so that the weights that can be pruned have a sparsity together.

    Args:
        model: the dense model.
        arrays: samples by input, n times the rows that the model takes.
        sparsity: of all weights together; None where the pattern fixes it.
        method: how.
        progress: is told what is going on, and the share that is done.
        folder: keeps finished layers; a run of the same arguments goes on from there.
        answers: finds elsewhere what pruning each layer by itself costs.

    Raises:
        UsageError: samples or options are not those of the model.
        PruningError: there is nothing to prune, or numbers do not allow it.

    """
    form = pattern(method.pattern)
    if form.fixed is not None and sparsity not in (None, form.fixed):
        raise UsageError(f"pattern '{method.pattern}' has sparsity {form.fixed:g}; leave --sparsity out")
    if sparsity is None and form.fixed is None:
        raise UsageError("give --sparsity, such as --sparsity 0.9")
    wanted = form.fixed if form.fixed is not None else sparsity or 0.0
    check_sparsity(wanted)
    by_error = method.quota == SENSITIVITY and form.fixed is None
    if by_error and wanted > TRIED[-1]:
        raise UsageError(f"--quota {SENSITIVITY}, the usual one of obs, takes a sparsity of at most {TRIED[-1]:g}; "
                         "give --quota erk for more")
    if answers is not None and not by_error:
        raise UsageError(f"--on: layers are independent where sensitivity shares out, and --quota {method.quota} of "
                         f"pattern '{method.pattern}' asks for none; leave --on out")
    dense.weights(model, form, method.keep)
    batches = samples.batches(model, arrays)
    found = dense.run(model, batches, method.criterion, form, method.keep, TRIED if by_error else (), progress,
                      answers)
    shares = by_sensitivity(found, wanted) if by_error else shared_out(
        model, found, method.quota if form.fixed is None else "uniform", wanted)
    finished = Finished.of(folder, model, batches, shares, str(method)) if folder else None
    return Outcome(prune(model, batches, found, shares, method.criterion, form, progress, finished), found.left)


def shared_out(model: onnx.ModelProto, found: Dense, distribution: str, sparsity: float) -> dict[str, float]:
    """The sparsity of every weight by a distribution's name."""
    tensors = constants(model.graph)
    firsts = [weight.layers[0] for weight in found.weights]
    asked = [Asked(layer.shape, layer.matrix(numpy_helper.to_array(tensors[layer.weight]))) for layer in firsts]
    return _met(found, DISTRIBUTIONS[distribution](asked, sparsity), sparsity)


def by_sensitivity(found: Dense, sparsity: float) -> dict[str, float]:
    """The sparsities of all weights with the least sum of squared errors of their layers, each pruned by itself.

    That of all together is at most the largest of `TRIED`.
    """
    grid = np.linspace(0, TRIED[-1], GRID)
    had = found.sparsity
    levels = [Levels(weight.size * (1 - np.maximum(grid, had[weight.name])),
                     loss(grid, TRIED, found.sensitivity[weight.name], had[weight.name])) for weight in found.weights]
    chosen = least_loss(levels, max((1 - sparsity) * sum(weight.size for weight in found.weights), cheapest(levels)))
    assert chosen is not None  # the budget is at least what the cheapest levels take
    return _met(found, [float(grid[level]) for level in chosen], sparsity)


def _met(found: Dense, shares: Sequence[float], sparsity: float) -> dict[str, float]:
    """By weight its share, with which all have the sparsity together."""
    met = exact(shares, [weight.size for weight in found.weights], sparsity, TRIED[-1],
                [found.sparsity[weight.name] for weight in found.weights])
    return {weight.name: share for weight, share in zip(found.weights, met, strict=True)}
