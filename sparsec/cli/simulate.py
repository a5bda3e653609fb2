"""`sparsec simulate`: what a sparse accelerator would do with a model."""

from __future__ import annotations

import json as json_library
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from sparsec.cli import options, simulate_tables
from sparsec.errors import UsageError

if TYPE_CHECKING:  # they import scipy and onnx, which `sparsec --help` does not need
    from sparsec.backends.eie.accelerator import Accelerator
    from sparsec.backends.eie.architecture import Architecture
    from sparsec.backends.eie.layer import Layer
    from sparsec.backends.eie.network import Network

PAPER_SEED = 0


class Codebook(Enum):
    """Where the shared weights come from."""

    CLUSTER = "cluster"
    KEEP = "keep"


def _parameter(text: str) -> Any:
    return typer.Option(help=f"{text}; the paper's if not given.", show_default=False)


def command(  # noqa: PLR0914 - one local a parameter of the accelerator
    file: Annotated[Path | None, typer.Argument(
        exists=True, dir_okay=False, help="An ONNX model, or one compiled with --target eie.")] = None,
    target: Annotated[str, typer.Option(help="The accelerator.")] = "eie",
    paper: Annotated[bool, typer.Option("--paper", help="Simulate the nine layers of the paper beside its times.")] = False,
    pes: Annotated[int | None, _parameter("Processing elements")] = None,
    fifo: Annotated[int | None, _parameter("Activations in a queue")] = None,
    clock_mhz: Annotated[int | None, _parameter("Clock")] = None,
    index_bits: Annotated[int | None, _parameter("Bits of a zero run")] = None,
    codebook_bits: Annotated[int | None, _parameter("Bits of an index into the shared weights")] = None,
    value_bits: Annotated[int | None, _parameter("Bits of weights, activations and accumulators")] = None,
    weight_sram_bytes: Annotated[int | None, _parameter("Weight SRAM of a PE")] = None,
    weight_read_bits: Annotated[int | None, _parameter("Width of the weight SRAM")] = None,
    pointer_sram_bytes: Annotated[int | None, _parameter("Pointer SRAM of a PE")] = None,
    pointer_bits: Annotated[int | None, _parameter("Bits of a pointer")] = None,
    activation_sram_bytes: Annotated[int | None, _parameter("Activation SRAM of a PE")] = None,
    registers: Annotated[int | None, _parameter("Activations in a PE's register file: the batch, over the PEs")] = None,
    codebook: Annotated[Codebook, typer.Option(help="Cluster the weights by k-means, or keep their few values.")] = (
        Codebook.CLUSTER),
    feeds: Annotated[Path | None, typer.Option(
        "--input", "-i", exists=True, dir_okay=False, help="An .npz file of inputs; random ones if not given.")] = None,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    sweeps: Annotated[list[str], typer.Option(
        "--sweep", metavar="NAME=V,V,…", help="Vary a parameter, such as pes=16,64,256; may be repeated.")] = [],  # noqa: B006
    beside_cpu: Annotated[bool, typer.Option("--beside-cpu", help="Time sparsec and onnxruntime on this CPU too.")] = False,
    plot: Annotated[Path | None, typer.Option(
        dir_okay=False, help="Plot the layers, or each sweep, to this .png or .svg file.")] = None,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a self-contained report to this file.")] = None,
    trace: Annotated[Path | None, typer.Option(
        dir_okay=False, help="Write an event trace of one product in Chrome's format, for Perfetto.")] = None,
    trace_layer: Annotated[str | None, typer.Option(help="Which layer to trace; the slowest if not given.")] = None,
    json: options.JsonFile = None,
) -> None:
    """Simulate a sparse accelerator cycle by cycle on a model: time, stalls, energy, area and accuracy."""
