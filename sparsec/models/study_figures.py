"""Figures of papers, measured anew on the LeNets and the digits: by name what is run, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from sparsec.models.schedules.task import Progress
from sparsec.models.study import Plan, run
from sparsec.models.study_effective import effective
from sparsec.models.study_layers import layers
from sparsec.models.study_plots import plot_accuracy
from sparsec.models.study_sparsity import Speed, sparsity

Drawn = tuple[Mapping[str, Figure], Mapping[str, Any]]
"""Figures by name, and the numbers in them."""
COMPRESSIONS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class Asked:
    """A network, the compressions, the seeds and epochs of every training, and what times a network beside another."""

    network: str
    compressions: Sequence[float]
    seeds: Sequence[int]
    epochs: int
    speed: Speed
    progress: Progress


def compared(name: str, *methods: str) -> Callable[[Asked], Drawn]:
    """A figure of accuracy over compression."""

    def draw(asked: Asked) -> Drawn:
        plan = Plan(methods, asked.compressions, asked.seeds, asked.epochs, asked.network)
        dense, points = run(plan, asked.progress)
        return {name: plot_accuracy(points, dense, asked.network)}, {
            "dense_accuracy": dense, "points": [vars(point) for point in points]}

    return draw


FIGURES: dict[str, Callable[[Asked], Drawn]] = {
    "quotas": compared("quotas", "SNIP", "GraSP", "SynFlow", "random, as SNIP", "random, as GraSP",
                       "random, as SynFlow"),
    "layers": lambda asked: layers(asked.network, asked.compressions, asked.seeds[0], asked.epochs),
    "random": compared("random", "random, uniform", "random, uniform+", "random, ERK", "random, IGQ", "SynFlow"),
    "magnitude": compared("magnitude", "magnitude", "LAMP", "magnitude, uniform", "magnitude, uniform+",
                          "magnitude, ERK", "magnitude, IGQ"),
    "effective": lambda asked: effective(asked.network, asked.compressions, asked.seeds[0], asked.epochs,
                                         asked.progress),
    "sparsity": lambda asked: sparsity(asked.network, asked.seeds[0], asked.epochs, asked.speed, asked.progress),
}
"""Figures 5, 7, 8, 9 and 10 of Vysogorets & Kempe (2023); then figure 4, and what 8.7 and 8.8 are about, of Hoefler et
al. (2021)."""
