"""`sparsec simulate`: what a sparse accelerator would do with a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsec.cli import options, simulate_tables
from sparsec.cli.progress import progress_bar
from sparsec.errors import UsageError

OptionalFile = Annotated[Path | None, typer.Argument(
    exists=True, dir_okay=False, help="An ONNX model, or one compiled with --target eie.")]
Input = Annotated[Path | None, typer.Option(
    "--input", "-i", exists=True, dir_okay=False, help="An .npz file of inputs; random ones if not given.")]
Sweeps = Annotated[list[str], typer.Option(
    "--sweep", metavar="NAME=V,V,…", help="Vary a parameter, such as pes=16,64,256; may be repeated.")]


class Codebook(Enum):
    """Where the shared weights come from: the keys of `backends.eie.layer.CODEBOOKS`."""

    CLUSTER = "cluster"
    KEEP = "keep"


def _parameter(text: str) -> Any:
    return typer.Option(help=f"{text}; the paper's, or the artifact's, if not given.", show_default=False)


def _written(text: str) -> Any:
    return typer.Option(dir_okay=False, help=text)


def command(
    file: OptionalFile = None,
    target: Annotated[str, typer.Option(help="The accelerator.")] = "eie",
    paper: Annotated[bool, typer.Option("--paper", help="Simulate the nine layers of the paper instead.")] = False,
    pes: Annotated[int | None, _parameter("Processing elements")] = None,
    fifo: Annotated[int | None, _parameter("Activations in a queue")] = None,
    clock_mhz: Annotated[int | None, _parameter("Clock")] = None,
    index_bits: Annotated[int | None, _parameter("Bits of a zero run")] = None,
    codebook_bits: Annotated[int | None, _parameter("Bits of an index of a shared weight")] = None,
    value_bits: Annotated[int | None, _parameter("Bits of weights, activations and accumulators")] = None,
    weight_sram_bytes: Annotated[int | None, _parameter("Weight SRAM of a PE")] = None,
    weight_read_bits: Annotated[int | None, _parameter("Width of the weight SRAM")] = None,
    pointer_sram_bytes: Annotated[int | None, _parameter("Pointer SRAM of a PE")] = None,
    pointer_bits: Annotated[int | None, _parameter("Bits of a pointer")] = None,
    activation_sram_bytes: Annotated[int | None, _parameter("Activation SRAM of a PE")] = None,
    activation_read_bits: Annotated[int | None, _parameter("Width of the activation SRAM")] = None,
    registers: Annotated[int | None, _parameter("Activations of a batch in a PE's register file")] = None,
    codebook: Annotated[Codebook, typer.Option(help="Share weights by k-means, or keep the few values they have.")] = (
        Codebook.CLUSTER),
    feeds: Input = None,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    sweeps: Sweeps = [],  # noqa: B006 - typer copies it
    beside_cpu: Annotated[bool, typer.Option("--beside-cpu", help="Time the model on this CPU too.")] = False,
    plot: Annotated[Path | None, _written("Plot the layers, or each sweep, as PNG or SVG.")] = None,
    html: Annotated[Path | None, _written("Write a self-contained report.")] = None,
    trace: Annotated[Path | None, _written("Write the events of one product in Chrome's format, for Perfetto.")] = None,
    trace_layer: Annotated[str | None, typer.Option(help="The layer to trace; the slowest if not given.")] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate a sparse accelerator cycle by cycle: time, stalls, energy, area and accuracy."""
    parameters = {name: value for name, value in locals().items() if name in PARAMETERS and value is not None}
    from sparsec.cli import simulate_steps as steps

    requested = [_parse_sweep(text) for text in sweeps]
    if paper == (file is not None):
        raise UsageError("give a model to simulate, or --paper for the paper's layers")
    if plot and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: name a .png or .svg file")
    with progress_bar() as progress:
        def watch(items: Sequence[Any], text: str) -> Iterable[Any]:
            return progress.track(items, description=text)

        if file is None:
            subject = steps.simulate_paper(target, parameters, watch)
        else:
            subject = steps.simulate_file(file, target, parameters, codebook.value, options.parse_shapes(shapes),
                                          options.read_arrays(feeds) if feeds else None, watch, beside_cpu=beside_cpu)
        swept = [steps.sweep(subject, *each, watch) for each in requested]
    simulate_tables.print_report(subject.figures)
    for each in swept:
        simulate_tables.print_sweep(each)
    options.write_json(json, {**subject.figures, "sweeps": swept})
    steps.write_plots(plot, subject.figures, swept)
    steps.write_html(html, subject, swept)
    steps.write_trace(trace, subject, trace_layer)


PARAMETERS = frozenset({
    "pes", "fifo", "clock_mhz", "index_bits", "codebook_bits", "value_bits", "weight_sram_bytes", "weight_read_bits",
    "pointer_sram_bytes", "pointer_bits", "activation_sram_bytes", "activation_read_bits", "registers",
})  # fmt: skip
"""The options that are fields of `backends.eie.architecture.Architecture`."""


def _parse_sweep(text: str) -> tuple[str, list[int]]:
    name, _, values = text.partition("=")
    try:
        return name.replace("-", "_"), [int(value) for value in values.split(",")]
    except ValueError as error:
        raise UsageError(f"--sweep {text}: give a parameter and its values, such as pes=16,64,256") from error
