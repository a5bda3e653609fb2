"""The plots of the study: compression and accuracy as Vysogorets & Kempe (2023) show them, on the digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from sparsec.models.study import Point

TITLES = {"lenet300": "LeNet-300-100", "lenet300-bn": "LeNet-300-100", "lenet5": "LeNet-5"}
NETWORK = "lenet300-bn"


def plot_compression(points: Sequence[Point], network: str = NETWORK) -> Figure:
    """Effective against direct compression: mean over the seeds, and the range as a band."""
    figure, axes = panel("direct compression", "effective compression", network)
    axes.set(yscale="log")
    for method in _methods(points):
        groups = _by_target([point for point in points if point.method == method])
        direct = [mean(point.direct for point in group) for group in groups]
        effective = [[point.effective for point in group] for group in groups]
        (line,) = axes.plot(direct, [mean(values) for values in effective], marker=".", label=method)
        axes.fill_between(direct, [min(v) for v in effective], [max(v) for v in effective], color=line.get_color(),
                          alpha=0.15)
    limits = [f(point.direct for point in points) for f in (min, max)]
    axes.plot(limits, limits, color="grey", linestyle=":", label="equal")
    axes.legend(fontsize="small")
    return figure


def plot_accuracy(points: Sequence[Point], dense: float, network: str = NETWORK) -> Figure:
    """Accuracy against effective (solid) and direct (dashed) compression, means over the seeds."""
    figure, axes = panel("compression: effective (solid), direct (dashed)", "accuracy on the held-out digits", network)
    for method in _methods(points):
        groups = _by_target([point for point in points if point.method == method])
        accuracy = [mean(point.accuracy for point in group) for group in groups]
        solid, dashed = _means(groups, lambda p: p.effective), _means(groups, lambda p: p.direct)
        (line,) = axes.plot(solid, accuracy, marker=".", label=method)
        axes.plot(dashed, accuracy, linestyle="--", linewidth=1, color=line.get_color())
    axes.axhline(dense, color="grey", linestyle=":", label="dense")
    axes.legend(fontsize="small", loc="lower left")
    return figure


def panel(horizontal: str, vertical: str, network: str, scale: str = "log") -> tuple[Figure, Axes]:
    """A figure of one plot."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale=scale, xlabel=horizontal, ylabel=vertical, title=f"{TITLES.get(network, network)}, digits")
    axes.grid(alpha=0.3)
    return figure, axes


def _methods(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.method for point in points))


def _by_target(points: Sequence[Point]) -> list[list[Point]]:
    """The points of one method in groups of equal direct compression, in ascending order."""
    groups: dict[float, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.direct):
        groups.setdefault(round(point.direct, 1), []).append(point)
    return list(groups.values())


def _means(groups: list[list[Point]], value: Callable[[Point], float]) -> list[float]:
    return [mean(value(point) for point in group) for group in groups]
