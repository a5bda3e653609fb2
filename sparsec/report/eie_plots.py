"""Plots of simulated inferences and sweeps: those of the paper (Han et al., ISCA 2016, section VI)."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsec.report.eie import CAUSES, Figures

LINES = 12  # more layers than this are drawn as their sum only


def plot_layers(figures: Figures) -> Figure:
    """Time, where the PE-cycles went and energy by unit, layer by layer."""
    layers = figures["layers"]
    names = [layer["layer"] for layer in layers]
    figure = Figure(figsize=(10, 3 + 0.25 * len(layers)), layout="constrained")
    time, cycles, energy = figure.subplots(1, 3, sharey=True)
    rows = range(len(layers))
    time.barh(rows, [layer["time_us"] for layer in layers], label="simulated")
    time.barh(rows, [layer["theory_us"] for layer in layers], height=0.4, label="perfect balance")
    time.set(xlabel="time in us", yticks=list(rows), yticklabels=names)
    _stack(cycles, [layer["share_of_pe_cycles"] for layer in layers], CAUSES)
    cycles.set(xlabel="share of PE-cycles")
    model = next(iter(figures["total"]["energy_uj_by_unit"]))
    _stack(energy, [layer["energy_uj_by_unit"][model] for layer in layers],
           {unit: unit for unit in figures["total"]["energy_uj_by_unit"][model]})
    energy.set(xlabel=f"energy in uJ, {model}")
    time.invert_yaxis()
    for axes in (time, cycles, energy):
        axes.legend(fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def _stack(axes: Axes, rows: list[dict[str, float]], labels: dict[str, str]) -> None:
    left = [0.0] * len(rows)
    for key, label in labels.items():
        widths = [row[key] for row in rows]
        axes.barh(range(len(rows)), widths, left=left, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]


def _speedup(layer: Figures, first: Figures) -> float:
    return float(first["time_us"] / max(layer["time_us"], 1e-9))


def _real_work(layer: Figures, _first: Figures) -> float:
    counters = layer["counters"]
    return float(counters["macs"] / max(1, counters["macs"] + counters["padding"]))


def _weight_energy(layer: Figures, _first: Figures) -> float:
    return float([*layer["energy_uj_by_unit"].values()][-1]["weights"])


PANELS: dict[str, Callable[[Figures, Figures], float]] = {
    "speed-up over the first": _speedup,
    "entries / PE-cycles": lambda layer, _first: float(layer["utilisation"]),
    "entries that are not padding": _real_work,
    "reads of weight SRAM": lambda layer, _first: float(layer["counters"]["weight_reads"]),
    "energy of weight reads in uJ": _weight_energy,
    "energy in uJ": lambda layer, _first: float(layer["energy_uj"]),
}
"""What a sweep shows: (layer, the same layer at the first value) -> number."""


def plot_sweep(sweep: Figures) -> Figure:
    """Speed-up, balance, padding, reads and energy against the values of the parameter."""
    points = sweep["points"]
    values = [point["value"] for point in points]
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, (title, measure) in zip(panels, PANELS.items(), strict=True):
        for name, series in _series(points).items():
            style = {"color": "black", "linewidth": 2} if name == "total" else {"linewidth": 1}
            axes.plot(values, [measure(layer, series[0]) for layer in series], marker=".", label=name, **style)
        axes.set(title=title, xlabel=sweep["parameter"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    panels[0].set_yscale("log", base=2)
    panels[0].legend(fontsize="x-small")
    return figure


def _series(points: list[Figures]) -> dict[str, list[Figures]]:
    """The figures of every layer, point by point, and of the sum."""
    layers = [[*(point["layers"] if len(point["layers"]) <= LINES else []), point["total"]] for point in points]
    return {series[0]["layer"]: list(series) for series in zip(*layers, strict=True)}
