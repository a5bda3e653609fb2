"""Accuracy, speed, and what single classes lose over sparsity (Hoefler et al. 2021, figure 4, sections 8.7 and 8.8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from sparsec.models.dataset import digits
from sparsec.models.masks import kept
from sparsec.models.networks import network
from sparsec.models.pruning import Options
from sparsec.models.schedules.task import Progress
from sparsec.models.study import Start, fitted
from sparsec.models.study_plots import panel

SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
Speed = Callable[[nn.Module, nn.Module, torch.Tensor], float]
"""From a dense network, another and an input: how many times as fast the other is, compiled."""


@dataclass(frozen=True)
class Level:
    """A network pruned by magnitude and trained again; accuracies on the held-out digits, of all and by class."""

    sparsity: float
    weights: int
    accuracy: float
    classes: tuple[float, ...]
    speedup: float


def sparsity(name: str, seed: int, epochs: int, speed: Speed, progress: Progress,
             levels: Sequence[float] = SPARSITIES) -> tuple[Mapping[str, Figure], Mapping[str, Any]]:
    """The figures "hill", "parameters" and "classes"."""
    start, rows = Start.of(name, epochs, seed), list[Level]()
    example = network(name).example()
    for done, level in enumerate(levels, start=1):
        model, pruned = start.pruned(Options("magnitude"), level)
        model = fitted(start.trained, pruned.masks, name, epochs, seed)
        whole, classes = by_class(model, name)
        rows.append(Level(pruned.sparsity, kept(pruned.active), whole, classes, speed(start.trained, model, example)))
        progress("sparsity", done, len(levels))
    figures = {"hill": _hill(rows, name), "parameters": _parameters(rows, name), "classes": _classes(rows, name)}
    return figures, {"levels": [asdict(row) for row in rows]}


def by_class(model: nn.Module, name: str) -> tuple[float, tuple[float, ...]]:
    """The accuracy of all held-out digits, and of each."""
    inputs, labels = digits()
    model.eval()
    with torch.no_grad():
        found = model(torch.from_numpy(inputs).reshape(-1, *network(name).shape)).argmax(1).numpy()
    right = found == labels
    return float(right.mean()), tuple(float(right[labels == each].mean()) for each in np.unique(labels))


def _hill(rows: Sequence[Level], name: str) -> Figure:
    figure, axes = panel("sparsity", "error on the held-out digits, %", name, "linear")
    sparsities = [row.sparsity for row in rows]
    (error,) = axes.plot(sparsities, [100 * (1 - row.accuracy) for row in rows], marker=".", color="C2", label="error")
    other = axes.twinx()
    other.set_ylabel("times as fast as dense, one thread")
    (fast,) = other.plot(sparsities, [row.speedup for row in rows], marker=".", color="C3", label="speed")
    axes.legend(handles=[error, fast], loc="upper left")
    return figure


def _parameters(rows: Sequence[Level], name: str) -> Figure:
    figure, axes = panel("weights on a path from an input to an output", "accuracy per 1,000 weights, %", name)
    axes.set_yscale("log")
    axes.plot([row.weights for row in rows], [1e5 * row.accuracy / row.weights for row in rows], marker=".")
    return figure


def _classes(rows: Sequence[Level], name: str) -> Figure:
    figure, axes = panel("sparsity", "change of accuracy, percentage points", name, "linear")
    for each in range(len(rows[0].classes)):
        axes.plot([row.sparsity for row in rows],
                  [100 * (row.classes[each] - rows[0].classes[each]) for row in rows], linewidth=1, label=str(each))
    axes.plot([row.sparsity for row in rows], [100 * (row.accuracy - rows[0].accuracy) for row in rows], color="black",
              linewidth=2, label="all")
    axes.legend(fontsize="small", ncols=2, loc="lower left")
    return figure
