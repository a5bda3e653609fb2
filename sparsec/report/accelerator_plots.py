"""Plots of a network on several accelerators: energy against time, and what their multipliers do."""

from __future__ import annotations

from matplotlib.figure import Figure

from sparsec.backends.accelerators.activity import CAUSES
from sparsec.report.accelerators import Figures


def plot_scatter(figures: Figures) -> Figure:
    """Energy and time of those accelerators that run something, on logarithmic axes."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for each in figures["accelerators"]:
        total = each["total"]
        if total["time_us"] > 0:
            partial = each["refused_share_of_macs"] > 0
            axes.scatter(total["time_us"], total["energy_uj"], marker="o", facecolors="none" if partial else "C0",
                         edgecolors="C0")
            axes.annotate(each["accelerator"], (total["time_us"], total["energy_uj"]), xytext=(5, 3),
                          textcoords="offset points", fontsize="small")
    axes.set(xlabel="time in us", ylabel="energy in uJ", xscale="log", yscale="log",
             title="open circles: a part of the network only")
    return figure


def plot_causes(figures: Figures) -> Figure:
    """What the cycles of all multipliers go to."""
    accelerators = figures["accelerators"]
    figure = Figure(figsize=(10, 1.5 + 0.3 * len(accelerators)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(accelerators)
    for cause, text in CAUSES.items():
        widths = [each["total"]["share_of_multiplier_cycles"][cause] for each in accelerators]
        axes.barh(range(len(accelerators)), widths, left=left, label=text)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set(yticks=list(range(len(accelerators))), yticklabels=[each["accelerator"] for each in accelerators],
             xlabel="share of the multipliers' cycles")
    axes.invert_yaxis()
    axes.legend(fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure
