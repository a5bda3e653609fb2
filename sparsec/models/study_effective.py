"""Effective compression of pruning to direct targets and to effective ones (Vysogorets & Kempe 2023, figure 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from sparsec.errors import PruningError
from sparsec.models.schedules.task import Progress
from sparsec.models.study import METHODS, Start
from sparsec.models.study_plots import panel

SHOWN = ("SNIP", "GraSP", "SynFlow", "LAMP", "random, uniform", "random, ERK", "random, IGQ")


def effective(network: str, compressions: Sequence[float], seed: int, epochs: int, progress: Progress,
              ) -> tuple[Mapping[str, Figure], Mapping[str, Any]]:
    """The effective compression over the target, of pruning to a direct (dashed) and to an effective one (solid)."""
    start, rows = Start.of(network, epochs, seed), list[dict[str, Any]]()
    figure, axes = panel("target", "effective compression", network)
    axes.set_yscale("log")
    jobs = [(method, exact, compression) for method in SHOWN for exact in (False, True) for compression in compressions]
    for done, (method, exact, compression) in enumerate(jobs, start=1):
        progress(method, done, len(jobs))
        try:
            pruned = start.pruned(replace(METHODS[method], effective=exact), 1 - 1 / compression)[1]
        except PruningError:  # every path is cut, or no direct sparsity comes near to the effective one
            continue
        rows.append({"method": method, "to_effective": exact, "target": compression,
                     "effective": 1 / (1 - pruned.effective_sparsity)})
    for method in SHOWN:
        colour = None
        for exact in (True, False):
            own = [row for row in rows if (row["method"], row["to_effective"]) == (method, exact)]
            (line,) = axes.plot([row["target"] for row in own], [row["effective"] for row in own], marker=".",
                                linestyle="-" if exact else "--", color=colour, label=method if exact else None)
            colour = line.get_color()
    axes.plot([compressions[0], compressions[-1]], [compressions[0], compressions[-1]], color="grey", linestyle=":")
    axes.legend(fontsize="small")
    return {"effective": figure}, {"effective": rows}
