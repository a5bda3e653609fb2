"""`sparsec simulate`: what a sparse accelerator would do with a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from sparsec.artifact.file import is_artifact
from sparsec.backends.accelerators.eie.architecture import PARAMETERS
from sparsec.cli import options, simulate_tables
from sparsec.cli.flags import Flag, taking
from sparsec.cli.progress import progress_bar
from sparsec.cli.sizes import with_usual
from sparsec.compiler.options import CompileOptions
from sparsec.errors import UsageError

Item = TypeVar("Item")

OptionalFile = Annotated[Path | None, typer.Argument(
    exists=True, dir_okay=False, help="An ONNX model, or one compiled with --target eie, for that alone.")]
Input = Annotated[Path | None, typer.Option(
    "--input", "-i", exists=True, dir_okay=False, help="An .npz file of inputs, or an .npy file where there is "
    "one, whose sizes those that the model leaves open become; random ones if not given.")]
Sweeps = Annotated[list[str], typer.Option(
    "--sweep", metavar="NAME=V,V,…", help="Vary a parameter, such as units=16,64,256, or pes=… of EIE alone; may be "
    "repeated.")]


Settings = Annotated[list[str], typer.Option(
    "--config", metavar="NAME=VALUE", help="Change a parameter of all accelerators that have it, or of one: "
    "scnn.units=32; may be repeated. `sparsec accelerators --explain NAME` lists them.")]


class Codebook(Enum):
    """Where the shared weights come from: the keys of `backends.accelerators.eie.layer.CODEBOOKS`."""

    CLUSTER = "cluster"
    KEEP = "keep"


def _parameter(text: str) -> Flag:
    return Flag(Annotated[int | None, typer.Option(help=f"{text}; the paper's, or the artifact's, if not given.",
                                                   show_default=False)])


def _written(text: str) -> Any:
    return typer.Option(dir_okay=False, help=text)


@taking({name: _parameter(text) for name, text in PARAMETERS.items()})
def command(
    file: OptionalFile = None,
    target: Annotated[str, typer.Option(help="The accelerators: eie, scnn,sparten,eie, or all.")] = "eie",
    settings: Settings = [],  # noqa: B006 - typer copies it
    paper: Annotated[bool, typer.Option("--paper", help="Simulate the nine layers of EIE's paper.")] = False,
    codebook: Annotated[Codebook, typer.Option(help="EIE's shared weights: by k-means, or the few that there are.")] = (
        Codebook.CLUSTER),
    feeds: Input = None,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    dims: Annotated[list[str], typer.Option(
        "--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension by its name; may be repeated.",
        )] = [],  # noqa: B006 - as above
    sweeps: Sweeps = [],  # noqa: B006 - as above
    beside_cpu: Annotated[bool, typer.Option("--beside-cpu", help="Time the model on this CPU too.")] = False,
    plot: Annotated[Path | None, _written("Plot EIE's layers, or each sweep, as PNG or SVG.")] = None,
    html: Annotated[Path | None, _written("Write a self-contained report.")] = None,
    trace: Annotated[Path | None, _written("Write EIE's events of a product in Chrome's format, for Perfetto.")] = None,
    trace_layer: Annotated[str | None, typer.Option(help="The layer to trace; the slowest if not given.")] = None,
    json: options.JsonFile = None,
    **given: int | None,
) -> None:
    """Simulate sparse accelerators on a model, side by side.

    Time, stalls, bytes and energy; of EIE alone area, accuracy and traces, too.
    """
    parameters = {name: value for name, value in given.items() if value is not None}
    requested = [_parse_sweep(text) for text in sweeps]
    bound = CompileOptions("eie", shapes=options.parse_shapes(shapes), dims=options.single(options.parse_dims(dims)))
    arrays = None if feeds is None else _arrays(feeds, file, bound)
    if arrays is not None and file is not None and not is_artifact(file):
        bound = replace(bound, shapes={name: array.shape for name, array in arrays.items()}, dims={})
    elif file is not None and not is_artifact(file):
        known, sizes = with_usual(file, options.parse_shapes(shapes), bound.dims or {})
        bound = replace(bound, shapes=known, dims=sizes)
    if target != "eie" or settings:
        own = {"--paper": paper, "--trace": trace, "--trace-layer": trace_layer, "--plot": plot,
               "--codebook": codebook is not Codebook.CLUSTER,
               **{f"--{name.replace('_', '-')}": True for name in parameters}}
        if options_of_eie := [name for name, value in own.items() if value]:
            raise UsageError(f"{options_of_eie[0]} is for --target eie alone; use --config, --sweep, --html or --json")
        _compare(file, target, settings, arrays, bound, requested, html, json, beside_cpu=beside_cpu)
        return
    from sparsec.cli import simulate_steps as steps

    if paper == (file is not None):
        raise UsageError("give a model to simulate, or --paper for the paper's layers")
    if plot and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: name a .png or .svg file")
    with progress_bar() as progress:
        def watch(items: Sequence[Item], text: str) -> Iterable[Item]:
            return progress.track(items, description=text)

        if file is None:
            subject = steps.simulate_paper(target, parameters, watch)
        else:
            subject = steps.simulate_file(file, target, parameters, codebook.value, bound,
                                          arrays, watch, beside_cpu=beside_cpu)
        swept = [steps.sweep(subject, *each, watch) for each in requested]
    simulate_tables.print_report(subject.figures)
    for each in swept:
        simulate_tables.print_sweep(each)
    options.write_json(json, {**subject.figures, "sweeps": swept})
    steps.write_plots(plot, subject.figures, swept)
    steps.write_html(html, subject, swept)
    steps.write_trace(trace, subject, trace_layer)


def _arrays(feeds: Path, file: Path | None, bound: CompileOptions) -> dict[str, np.ndarray]:
    """The inputs, checked against the model's where it is not compiled."""
    if file is None:
        raise UsageError("--input is for a model; --paper has activations of its own")
    if is_artifact(file):
        return options.read_arrays(feeds)
    from sparsec.graph.sizes import bound_dims, fixed

    return options.arrays_of_model(feeds, file, fixed(bound.shapes or {}), bound_dims(bound.dims or {}))


def _compare(file: Path | None, target: str, settings: Sequence[str], feeds: Mapping[str, np.ndarray] | None,
             bound: CompileOptions, requested: Sequence[tuple[str, list[int]]], html: Path | None, json: Path | None, *,
             beside_cpu: bool) -> None:
    """Several accelerators, or one other than EIE, side by side."""
    from sparsec.cli import simulate_accelerators as steps

    chosen = steps.choose(target)
    changed = steps.configure(chosen, settings)
    for parameter, values in requested:
        steps.check_sweep(chosen, changed, parameter, values)
    if file is None:
        raise UsageError("give a model to simulate")
    with progress_bar() as progress:
        def watch(items: Sequence[Item], text: str) -> Iterable[Item]:
            return progress.track(items, description=text)

        network, arrays = steps.load(file, bound, feeds, watch)
        results = steps.run(network, chosen, changed, watch)
        swept = [steps.sweep(network, chosen, changed, *each, watch) for each in requested]
    figures = steps.figures_of(file, bound, arrays, network, results, beside_cpu=beside_cpu)
    steps.print_report(figures)
    for each in swept:
        steps.print_sweep(each)
    options.write_json(json, {**figures, "sweeps": swept})
    steps.write_html(html, figures, swept, file.stem)


def _parse_sweep(text: str) -> tuple[str, list[int]]:
    name, _, values = text.partition("=")
    try:
        return name.replace("-", "_"), [int(value) for value in values.split(",")]
    except ValueError as error:
        raise UsageError(f"--sweep {text}: give a parameter and its values, such as pes=16,64,256") from error
