"""Latency and bytes of the formats of one layer shape against its sparsity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from sparsec.bench.formats import Form, Layer

Points = Sequence[Layer]


def plot_formats(points: Points, title: str) -> Figure:
    """The points are those of `bench.formats.sweep`; latency of formats with a kernel, bytes of all that are stored."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    latency, nbytes = figure.subplots(1, 2)
    for axes, value in ((latency, _latency), (nbytes, _bytes)):
        for name, (sparsities, values) in _series(points, value).items():
            axes.plot(sparsities, values, marker=".", label=name)
        axes.set(xlabel="sparsity in %", yscale="log")
        axes.legend(fontsize="x-small", ncols=2)
    latency.set(ylabel="latency in us")
    nbytes.set(ylabel="bytes stored")
    figure.suptitle(title)
    return figure


def _latency(form: Form) -> float | None:
    return form.measured_us if form.runs_as == form.format else None


def _bytes(form: Form) -> float | None:
    return form.stored_bytes


def _series(points: Points, value: Callable[[Form], float | None]) -> dict[str, tuple[list[float], list[float]]]:
    """By format the percentages of zeros and the values at them, of the points that have one."""
    series: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for point in points:
        for form in point.formats:
            if (found := value(form)) is not None:
                series[form.format][0].append(100 * (point.sparsity or 0))
                series[form.format][1].append(found)
    return series
