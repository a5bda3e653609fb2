"""Where the time of a model goes: every layer as it runs among the others, beside what the machine allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.backends.job import Job
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import prepare
from sparsec.cost.plan import CHOICE, Choice
from sparsec.errors import UsageError
from sparsec.graph import reader
from sparsec.graph.evaluate import zeros_of
from sparsec.graph.nodes import weight_array
from sparsec.graph.shapes import static_shape
from sparsec.target import lacking


@dataclass(frozen=True)
class Layer:
    """A layer that the plan chose a kernel for.

    Attributes:
        format: how its weight is stored.
        flops: floating-point operations on non-zeros of one run.
        nbytes: bytes that come from beyond the L1 cache of a CPU, or from the memory of a GPU.
        least_s: the seconds that the busiest of arithmetic units, caches and memory needs at least.

    """

    format: str
    flops: float
    nbytes: float
    least_s: float


@dataclass(frozen=True)
class Row:
    """A layer, or a kernel of something else, of which nothing but the times is known.

    Attributes:
        layer: its name.
        us: microseconds of an inference; where a batch runs in shares of its rows, of all of them.
        share: of the time of all.
        format: how the weight is stored.
        gflops: operations on non-zeros, in 1e9 a second.
        bytes: those of `Layer.nbytes`.
        roofline: `Layer.least_s` as a share of the measured time.
        zeros: the share of zeros among the activations that it reads, where real inputs are given.

    """

    layer: str
    us: float
    share: float
    format: str | None = None
    gflops: float | None = None
    bytes: float | None = None
    roofline: float | None = None
    zeros: float | None = None


@dataclass(frozen=True)
class Profile:
    """Where the time of an inference goes: rows in the order of execution; `rates`: where the machine's come from."""

    precision: str
    rates: str
    layers: tuple[Row, ...]
    total_us: float


def profile_layers(model: reader.Source, options: CompileOptions) -> Profile:
    """Compile a model and time its kernels on the real inputs, which calibrate int8, or on random ones.

    Raises:
        UsageError: the target is another machine, or knows no such precision.
        InputError: the real inputs are not the model's.
        SparsecError: as `sparsec.compile`.

    """
    backend, resolved = options.backend, options.resolved_target
    if lacking(resolved) or not backend.profiles:
        raise UsageError(f"kernels for target '{resolved.name}' do not run here; profile with --target cpu")

    def announce(step: str, part: float = 0.0, measuring_s: float = 0.0) -> None:  # noqa: ARG001 - `Announce`
        if options.progress is not None:
            options.progress(step, 0.0 if step == "read" else 0.1 + 0.6 * part)

    prepared = prepare(model, options, divided=True, announce=announce)
    graph, job = prepared.graph, prepared.part
    plan(graph, job, backend, backend.judge(graph, job))
    seconds: dict[str, float] = {}
    for each in backend.profile(graph, job, (*job.real, *job.generated)[0]):
        name = each.node or each.kernel
        seconds[name] = seconds.get(name, 0.0) + each.seconds
    chosen = {node: choice for node in graph.graph if (choice := CHOICE.get(node))}
    zeros = {choice.layer: share for node, share in zeros_of(graph, job.real, chosen).items()
             if (choice := CHOICE.get(node))} if job.real else {}
    layers = {choice.layer: _layer(node, choice, job) for node, choice in chosen.items()}
    total, parts = sum(seconds.values()), 1 if prepared.batch is None else prepared.batch.parts
    rows = tuple(replace(_row(name, layers.get(name), spent, parts, total), zeros=zeros.get(name))
                 for name, spent in seconds.items())
    return Profile(job.precision, job.calibration.source, rows, parts * total * 1e6)


def _layer(node: ir.Node, choice: Choice, job: Job) -> Layer:
    """A layer with what its kernel does, and what the machine's rates make of that."""
    option, flops, machine = choice.winner.option, _flops(node), job.calibration.machine
    return Layer(option.name, flops, machine.nbytes(option.work),
                 machine.least_seconds(option.work, flops, job.target.lanes, job.threads))


def _flops(node: ir.Node) -> float:
    """Two for every non-zero of the weight and every position of the output that it contributes to."""
    weight = weight_array(node)
    positions: int = math.prod(static_shape(node.outputs[0]) or ()) // weight.shape[0]
    return 2.0 * int(np.count_nonzero(weight)) * positions


def _row(name: str, layer: Layer | None, seconds: float, parts: int, total: float) -> Row:
    """What is known of a layer, or of something else, that takes `seconds` of the `total` of one of `parts` shares."""
    row = Row(name, parts * seconds * 1e6, seconds / total)
    return row if layer is None else replace(row, format=layer.format, gflops=layer.flops / seconds / 1e9,
                                             bytes=layer.nbytes, roofline=layer.least_s / seconds)
