"""A network on several accelerators as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader

from sparsec.backends.accelerators.activity import CAUSES
from sparsec.report.accelerator_plots import plot_causes, plot_scatter
from sparsec.report.accelerators import Figures
from sparsec.report.figures import to_svg


def render(figures: Figures, sweeps: Sequence[Figures], title: str) -> str:
    """The page; `figures` are those of `report.accelerators.describe`, `sweeps` those of `describe_sweep`."""
    environment = Environment(loader=PackageLoader("sparsec.report"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True)
    plots = [to_svg(plot_scatter(figures)), to_svg(plot_causes(figures))]
    return environment.get_template("accelerators.html.j2").render(
        title=title, figures=figures, causes=CAUSES, plots=plots, sweeps=sweeps)
