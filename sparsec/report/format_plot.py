"""Latency and bytes of the formats of one layer shape against its sparsity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

Points = Sequence[dict[str, Any]]


def plot_formats(points: Points, title: str) -> Figure:
    """The points are those of `bench.formats.sweep`; latency of formats with a kernel, bytes of all that are stored."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    latency, nbytes = figure.subplots(1, 2)
    for axes, key, runs in ((latency, "measured_us", True), (nbytes, "stored_bytes", False)):
        for name, (sparsities, values) in _series(points, key, runs=runs).items():
            axes.plot(sparsities, values, marker=".", label=name)
        axes.set(xlabel="sparsity in %", yscale="log")
        axes.legend(fontsize="x-small", ncols=2)
    latency.set(ylabel="latency in us")
    nbytes.set(ylabel="bytes stored")
    figure.suptitle(title)
    return figure


def _series(points: Points, key: str, *, runs: bool) -> dict[str, tuple[list[float], list[float]]]:
    series: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for point in points:
        for form in point["formats"]:
            if form[key] is not None and (not runs or form["runs_as"] == form["format"]):
                series[form["format"]][0].append(100 * point["sparsity"])
                series[form["format"]][1].append(form[key])
    return series
