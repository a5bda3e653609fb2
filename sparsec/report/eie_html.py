"""A simulated inference as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader

from sparsec.report.eie import CAUSES, Figures
from sparsec.report.eie_plots import plot_layers, plot_sweep
from sparsec.report.figures import to_svg


def render(figures: Figures, sweeps: Sequence[Figures], title: str) -> str:
    """The page; `figures` are those of `report.eie.describe_inference`, `sweeps` those of `describe_sweep`."""
    environment = Environment(loader=PackageLoader("sparsec.report"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True)
    plots = [to_svg(plot_layers(figures)), *(to_svg(plot_sweep(sweep)) for sweep in sweeps)]
    return environment.get_template("eie.html.j2").render(title=title, figures=figures, causes=CAUSES, plots=plots)
