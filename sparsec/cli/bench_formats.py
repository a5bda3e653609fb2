"""`sparsec bench --formats` and `--sweep`: latency and bytes of every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsec.cli import options, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.sizes import with_usual
from sparsec.cli.tables import console
from sparsec.errors import UsageError, counted
from sparsec.target import resolve

if TYPE_CHECKING:  # the compiler takes seconds to import
    from sparsec.bench.formats import Form, Layer

TRIALS = 6  # best predicted options that a choice is compared with


def bench_formats(file: Path, formats: str, target: str, threads: int, shapes: dict[str, tuple[int, ...]],
                  json: Path | None) -> None:
    """Time the formats of every layer of a model; `formats` is "all" or names with commas between."""
    wanted = _wanted(formats)
    from sparsec.bench.formats import regret, time_model
    from sparsec.graph.sizes import bound_dims

    resolved = resolve(target)
    known, sizes = with_usual(file, shapes, {})
    with progress_bar() as progress:
        task = progress.add_task("timing", total=1.0)
        layers = time_model(file, resolved, threads=threads, shapes=known, dims=bound_dims(sizes), trials=TRIALS,
                            progress=lambda share: progress.update(task, completed=share))
    if not layers:
        raise UsageError(f"{file} has no layer with a constant weight that sparsec's kernels take")
    layers = [replace(layer, formats=tuple(each for each in layer.formats if wanted is None or each.format in wanted))
              for layer in layers]
    _print_layers(layers)
    _print_totals(layers)
    figures = regret(layers) if wanted is None else None
    if figures is not None:
        console.print(f"\nthe model's choice takes {figures.mean:.2f}x the fastest kernel's time on average, "
                      f"{figures.worst:.2f}x at worst, and at most {figures.never_slower:.2f}x dense's;\n"
                      f"median error of predictions {100 * figures.prediction_error:.0f} %")
    options.write_json(json, {"file": str(file), "threads": threads, "layers": list(map(asdict, layers)),
                             "regret": figures and asdict(figures)})


def bench_sweep(text: str, target: str, threads: int, plot: Path | None, json: Path | None) -> None:
    """Time the formats of a linear layer at many sparsities; `text` is MxKxN."""
    try:
        outputs, inputs, rows = (int(size) for size in text.split("x"))
    except ValueError as error:
        raise UsageError(f"--sweep {text}: give outputs x inputs x rows, such as 1024x1024x784") from error
    if min(outputs, inputs, rows) < 1:
        raise UsageError(f"--sweep {text}: sizes begin at 1")
    from sparsec.bench.formats import sweep

    resolved = resolve(target)
    with progress_bar() as progress:
        task = progress.add_task("timing", total=1.0)
        points = sweep((outputs, inputs, rows), resolved, threads=threads,
                       progress=lambda share: progress.update(task, completed=share))
    _print_layers(points)
    if plot is not None:
        from sparsec.bench.format_plot import plot_formats
        from sparsec.report.figures import save

        save(plot_formats(points, f"{text}, {counted(threads, 'thread')}"), plot)
    options.write_json(json, {"sweep": [outputs, inputs, rows], "threads": threads,
                             "points": list(map(asdict, points))})


def _wanted(formats: str) -> set[str] | None:
    """The names asked for, None for all."""
    from sparsec.formats import FORMATS

    names = set(formats.split(","))
    if unknown := sorted(names - set(FORMATS) - {"all"}):
        raise UsageError(f"--formats {formats}: no format '{unknown[0]}'; the formats are all, {', '.join(FORMATS)}")
    return None if "all" in names else names


def _print_layers(layers: Sequence[Layer]) -> None:
    """A column for every format with a kernel, the fastest of a layer marked."""
    names = list(dict.fromkeys(form.format for layer in layers for form in layer.formats
                               if form.runs_as == form.format))
    rows = []
    for layer in layers:
        times = {form.format: form.measured_us for form in layer.formats if form.format in names}
        best = min(times.values(), default=0.0)
        rows.append((layer.layer, *(_time(times.get(name), best) for name in names)))
    tables.print_table(("us per layer", *names), rows)


def _time(microseconds: float | None, best: float) -> str:
    if microseconds is None:
        return "-"
    return f"{'*' if microseconds == best else ''}{microseconds:.3g}"


def _print_totals(layers: Sequence[Layer]) -> None:
    """Every format, stored and run wherever it accepts the weight."""
    by_name: dict[str, list[Form]] = {}
    for layer in layers:
        for form in layer.formats:
            by_name.setdefault(form.format, []).append(form)
    console.print()
    tables.print_table(("format", "layers", "bytes stored", "time", "runs as"), [
        (name, len(forms), _bytes(forms), tables.duration(sum(form.measured_us for form in forms)),
         ", ".join(dict.fromkeys(form.runs_as for form in forms))) for name, forms in by_name.items()])


def _bytes(forms: Sequence[Form]) -> str:
    stored = [form.stored_bytes for form in forms if form.stored_bytes is not None]
    return tables.nbytes(sum(stored)) if stored else "-"
