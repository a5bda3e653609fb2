"""How much of every layer is left at a compression (Vysogorets & Kempe 2023, figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sparsec.errors import CollapseError
from sparsec.models.study import METHODS, Start
from sparsec.models.study_plots import TITLES

SHOWN = ("SynFlow", "random, IGQ", "LAMP")


def layers(network: str, compressions: Sequence[float], seed: int, epochs: int,
           ) -> tuple[Mapping[str, Figure], Mapping[str, Any]]:
    """The compression of every layer over that of all, of three methods."""
    start, rows = Start.of(network, epochs, seed), list[dict[str, Any]]()
    figure = Figure(figsize=(10, 4), layout="constrained")
    plots = figure.subplots(1, len(SHOWN), sharey=True)
    for method, axes in zip(SHOWN, plots, strict=True):
        for compression in compressions:
            try:
                masks = start.pruned(METHODS[method], 1 - 1 / compression)[1].masks
            except CollapseError:
                continue
            rows += [{"method": method, "compression": compression, "layer": name,
                      "layer_compression": mask.numel() / max(int(mask.sum()), 1)} for name, mask in masks.items()]
        own = [row for row in rows if row["method"] == method]
        for layer in dict.fromkeys(row["layer"] for row in own):
            axes.plot(*([row[key] for row in own if row["layer"] == layer]
                        for key in ("compression", "layer_compression")), marker=".", label=layer)
        axes.set(xscale="log", yscale="log", xlabel="compression", title=f"{TITLES.get(network, network)}, {method}")
        axes.grid(alpha=0.3)
    plots[0].set_ylabel("compression of the layer")
    plots[-1].legend(fontsize="small")
    return {"layers": figure}, {"layers": rows}
