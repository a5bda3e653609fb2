"""The explanation of a plan as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from sparsec.report.curves import Point
from sparsec.report.explain import Explanation, Layer
from sparsec.report.figures import to_svg

MANY = 40  # layers whose names still fit below the bars


def render(figures: Explanation, title: str) -> str:
    """The page; with every layer."""
    environment = Environment(loader=PackageLoader("sparsec.report"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True)
    plots = [to_svg(_plot_layers(figures.layers)), to_svg(_plot_sparsity(figures.layers))] \
        if figures.layers else []
    return environment.get_template("explain.html.j2").render(title=title, figures=figures, plots=plots)


def _plot_layers(layers: Sequence[Layer]) -> Figure:
    """The chosen kernel's time beside dense, layer by layer."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes, places = figure.subplots(), range(len(layers))
    axes.bar(places, [layer.dense_us or 0 for layer in layers], width=0.8, color="lightgrey", label="dense")
    axes.bar(places, [layer.candidates[0].predicted_us for layer in layers], width=0.5, label="chosen")
    names = [layer.layer for layer in layers] if len(layers) <= MANY else []
    axes.set_xticks(list(places)[: len(names)], names, rotation=90, fontsize="x-small")
    axes.set(ylabel="predicted time in us", xlabel="" if names else "layer")
    axes.legend()
    return figure


def _plot_sparsity(layers: Sequence[Layer]) -> Figure:
    """All layers together, pruned at random places: the better kernel of each against all dense."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes, curves = figure.subplots(), [layer.curve for layer in layers]
    points = list(zip(*curves, strict=True))
    sparsities = [100 * point[0].sparsity for point in points]
    for kind, pick in (("dense", _dense), ("the better of dense and sparse", _better)):
        axes.plot(sparsities, [sum(map(pick, point)) / 1000 for point in points], marker="o", label=kind)
    axes.set(xlabel="sparsity of every layer in %", ylabel="predicted time in ms")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _dense(point: Point) -> float:
    return float(point.dense_us or 0)


def _better(point: Point) -> float:
    return min(float(time) for time in (point.dense_us, point.sparse_us) if time is not None)
