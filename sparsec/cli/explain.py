"""`sparsec explain`: why every layer of a model runs as it does, and what more pruning would buy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsec import files
from sparsec.cli import options, tables
from sparsec.cli.compile import Precision
from sparsec.cli.progress import progress_bar
from sparsec.cli.sizes import tell_sizes
from sparsec.cli.tables import console
from sparsec.errors import UsageError, counted
from sparsec.target import resolve

if TYPE_CHECKING:  # the compiler takes seconds to import
    from sparsec.report.any_size import AnySize, Outside
    from sparsec.report.explain import Explanation, Layer


MOST_BETWEEN = 5
"""Operators without a choice that are listed."""


def command(
    model: options.ModelFile,
    target: options.Target = "cpu",
    threads: options.Threads = 1,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    dims: options.Dims = [],  # noqa: B006 - as above
    precision: Annotated[Precision | None, typer.Option(
        help="That of `sparsec compile`.", show_default=False)] = None,
    feeds: Annotated[Path | None, typer.Option(
        "--input", "-i", exists=True, dir_okay=False, help="An .npz file of inputs, or an .npy file where there is one "
        "input, in which zeros among activations are counted.")] = None,
    layers: Annotated[list[str], typer.Option(
        "--layer", metavar="NAME", help="Show every candidate of this layer, or of `all`; may be repeated.")] = [],  # noqa: B006 - typer copies it
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a self-contained report.")] = None,
    json: options.JsonFile = None,
) -> None:
    """Explain how each layer would run, and why.

    Structure, candidates, break-even sparsity, and time if pruned further.
    """
    resolved = resolve(target)  # before the compiler is imported, which takes seconds
    options.tell_of_cores(threads)
    from sparsec.report.explain import explain

    with progress_bar() as progress:
        task = progress.add_task("explain", total=1.0)
        figures = explain(model, resolved, threads=threads, shapes=options.parse_shapes(shapes),
                          dims=options.parse_dims(dims), precision=precision,
                          inputs=options.samples_of(feeds, model) if feeds else None, wanted=layers,
                          progress=lambda share: progress.update(task, completed=share))
    chosen = _chosen(figures, layers)
    if figures.sizes:
        tell_sizes(figures.sizes)
    _print_summary(figures)
    if figures.any_size is not None:
        _print_any_size(figures.any_size, figures.sizes)
    for layer in chosen:
        _print_layer(layer)
    options.write_json(json, asdict(figures))
    _write_html(html, figures, model.name)


def _chosen(figures: Explanation, names: list[str]) -> list[Layer]:
    """The layers to show in full."""
    by_name = {layer.layer: layer for layer in figures.layers}
    single = {node: each.operator for each in figures.between for node in each.nodes}
    if alone := [name for name in names if name not in by_name and name != "all"]:
        what = f"is a {single[alone[0]]}, which has one kernel and" if alone[0] in single else "has"
        raise UsageError(f"'{alone[0]}' {what} no candidates")
    return [layer for name, layer in by_name.items() if name in names or "all" in names]


def _print_summary(figures: Explanation) -> None:
    total = figures.total
    console.print(f"target {figures.target}, {counted(figures.threads, 'thread')}\nrates: {figures.machine}\n")
    seen = any(layer.zeros is not None for layer in figures.layers)
    tables.print_table(
        ("layer", "zeros", "structure", "runs as", "time", "dense", "pays from", *["input zeros"] * seen),
        [(*_row(layer), *[_zeros(layer.zeros)] * seen) for layer in figures.layers],
        (f"{total.layers} with weights", tables.percent(total.weights - total.nonzeros, total.weights), "",
         "", tables.duration(total.predicted_us), tables.duration(total.dense_us), "", *[""] * seen))
    if figures.stripped:
        console.print("zeros are those of what stripping leaves; `sparsec inspect` counts the file's")
    if figures.network_us is not None:
        console.print(f"\nthe whole network: {tables.duration(figures.network_us)} predicted, everything between the "
                      f"layers included{tables.overlapping(figures.network_us, total.predicted_us)}")
    for group in figures.between[:MOST_BETWEEN]:
        console.print(f"between the layers: {len(group.nodes)} {group.operator}, {tables.duration(group.predicted_us)}")
    if rest := figures.between[MOST_BETWEEN:]:
        console.print(f"between the layers: {counted(sum(len(group.nodes) for group in rest), 'other')}, "
                      f"{tables.duration(sum(group.predicted_us for group in rest))}")
    console.print(f"\nweights: {tables.nbytes(total.bytes)} as they run, {tables.nbytes(total.smallest_bytes)} "
                  "in the smallest format of each layer")
    if figures.if_pruned and total.layers:
        console.print()
        _print_if_pruned(figures)
    for line in _outside(figures.outside):
        console.print(line)


def _print_if_pruned(figures: Explanation) -> None:
    """The layers alone as they are, beside what they would take if pruned: the same sums, which can be compared."""
    dense = figures.total.dense_us
    times = {"as they are": figures.total.predicted_us, **{
        f"pruned to {100 * each.sparsity:.0f} % everywhere": each.predicted_us for each in figures.if_pruned}}
    columns = f"the {counted(figures.total.layers, 'layer')} alone", "time", *["as fast as dense"] * bool(dense)
    tables.print_table(columns, [
        (what, tables.duration(us), *[f"{dense / max(us, 1e-9):.1f}x"] * bool(dense))
        for what, us in times.items()])


def _print_any_size(found: AnySize, sizes: Mapping[str, int]) -> None:
    """The kernels of an artifact that the run tells the sizes, by the number of rows that they take."""
    from sparsec.compiler.sized.recurrent import STEPS

    counts = sorted(found.call_us)
    cells: dict[str, dict[int, str]] = {}
    for each in found.rows:
        cells.setdefault(each.layer, {})[each.rows] = f"{each.format}, {tables.duration(each.predicted_us)}"
    console.print("\n`sparsec compile` with these options leaves sizes to the run, which pays for that; more rows are "
                  "made of such calls:\n")
    without = _without(found)
    tables.print_table(("layer", *(counted(count, "row") for count in counts)), [
        *((layer, *(row.get(count, "") for count in counts)) for layer, row in cells.items()),
        *((layer, *("no kernel" for _ in counts)) for layer in without)],
        ("the rest" if without or found.recurrent else "a call",
         *(tables.duration(found.call_us[count]) for count in counts)))
    console.print(f"\na call has {counted(found.stages, 'compiled stage')} and {counted(found.operators, 'operator')} "
                  "between them; attention and what numpy multiplies take longer the larger the sizes, and are not in "
                  "it")
    if found.recurrent:
        console.print(f"recurrent layers are priced for {STEPS} steps of so many members of a batch: "
                      f"{', '.join(found.recurrent)}; the rest is without them")
    if times := found.interpreted:
        at = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        console.print(f"ONNX's reference takes, besides, measured at {at}: {tables.duration(sum(times.values()))}"
                      f"{_taken(found)}")
    for line in _outside(found.outside):
        console.print(line)


def _outside(notes: Sequence[Outside]) -> list[str]:
    """What runs without kernels, a line a reason."""
    return tables.outside([{"layer": each.node, "reason": each.text, "operator": each.operator} for each in notes])


def _without(found: AnySize) -> list[str]:
    """Names of what has no kernels: few by their own, many by operator."""
    names = [each.node for each in found.outside]
    return names if len(names) <= tables.SHOWN else tables.kinds_of(each.operator for each in found.outside)


def _taken(found: AnySize) -> str:
    """What ONNX's reference takes by operator, the longest first."""
    kinds = {each.node: each.operator for each in found.outside}
    sums: dict[str, list[float]] = {}
    for node, us in found.interpreted.items():
        sums.setdefault(kinds[node], []).append(us)
    each = sorted(sums.items(), key=lambda pair: -sum(pair[1]))
    return ", " + ", ".join(f"{len(times)} {operator} {tables.duration(sum(times))}" for operator, times in each)


def _row(layer: Layer) -> tuple[str, ...]:
    winner, pays = layer.candidates[0], layer.break_even
    return (layer.layer, tables.percent(layer.weights - layer.nonzeros, layer.weights), layer.structure,
            winner.format, tables.duration(winner.predicted_us),
            "-" if layer.dense_us is None else tables.duration(layer.dense_us),
            "never" if pays is None else f"{100 * pays:.0f} %")


def _zeros(share: float | None) -> str:
    return "" if share is None else tables.percent(share, 1)


def _print_layer(layer: Layer) -> None:
    """The candidates of one layer, the winner first."""
    empty = ", ".join(f"{getattr(layer, f'empty_{what}')} empty {what}" for what in ("rows", "columns", "channels")
                      if getattr(layer, f"empty_{what}"))
    smallest = layer.smallest
    console.print(f"\n{layer.layer}: {layer.operator} {tables.shape(layer.shape)}, {layer.structure}"
                  f"{', ' + empty if empty else ''}; smallest as {smallest.format}, "
                  f"{tables.nbytes(smallest.bytes)}")
    tables.print_table(("format", "kernel", "time", "bytes", "of winner's", "bound by"), [
        (each.format, each.kernel, tables.duration(each.predicted_us), tables.nbytes(each.bytes),
         f"{each.predicted_us / layer.candidates[0].predicted_us:.2f}x", each.bound)
        for each in layer.candidates])
    for name, reason in layer.refused.items():
        console.print(f"not {name}: {reason}")
    if layer.buckets:
        tables.print_table(("tokens", "format", "time", "of dense's"), [
            (str(each.columns), each.format, tables.duration(each.predicted_us),
             "-" if each.dense_us is None else f"{each.predicted_us / each.dense_us:.2f}x") for each in layer.buckets])


def _write_html(path: Path | None, figures: Explanation, title: str) -> None:
    if path is not None:
        from sparsec.report.explain_html import render

        files.write(path, render(figures, title).encode())
