"""Where the time of a model goes: every layer as it runs among the others, beside what the machine allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.job import Job
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import prepare
from sparsec.cost.plan import CHOICE, Choice
from sparsec.errors import UsageError
from sparsec.graph import reader
from sparsec.graph.nodes import weight_array
from sparsec.graph.shapes import static_shape
from sparsec.target import machine_features


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


def profile_layers(model: reader.Source, options: CompileOptions) -> dict[str, Any]:
    """Compile a model and time its kernels on the real inputs, which calibrate int8, or on random ones.

    Returns:
        "precision"; "rates": where the machine's rates come from; "layers": in the order of execution a row for every
        layer, and for every kernel of something else; "total_us". Where a batch runs in shares of its rows, times are
        those of all of them. The roofline of a layer is `Layer.least_s` as a share of the measured time; it and what
        counts weights are None for something else.

    Raises:
        UsageError: the target is another machine, or knows no such precision.
        InputError: the real inputs are not the model's.
        SparsecError: as `sparsec.compile`.

    """
    backend, resolved = options.backend, options.resolved_target
    if resolved.features - machine_features() or not backend.profiles:
        raise UsageError(f"kernels for target '{resolved.name}' do not run here; profile with --target cpu")

    def announce(step: str, part: float = 0.0) -> None:
        if options.progress is not None:
            options.progress(step, 0.0 if step == "read" else 0.1 + 0.6 * part)

    prepared = prepare(model, options, divided=True, announce=announce)
    graph, job = prepared.graph, prepared.part
    plan(graph, job, backend, backend.judge(graph, job))
    seconds: dict[str, float] = {}
    for each in backend.profile(graph, job, (*job.real, *job.generated)[0]):
        name = each.node or each.kernel
        seconds[name] = seconds.get(name, 0.0) + each.seconds
    layers = {choice.layer: _layer(node, choice, job) for node in graph.graph if (choice := CHOICE.get(node))}
    total, parts = sum(seconds.values()), 1 if prepared.batch is None else prepared.batch.parts
    rows = [{"layer": name, "us": parts * spent * 1e6, "share": spent / total, **_rates(layers.get(name), spent)}
            for name, spent in seconds.items()]
    return {"precision": job.precision, "rates": job.calibration.source, "layers": rows,
            "total_us": parts * total * 1e6}


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


def _rates(layer: Layer | None, seconds: float) -> dict[str, Any]:
    """What a row says of a layer beside its time."""
    if layer is None:
        return {"format": None, "gflops": None, "bytes": None, "roofline": None}
    return {"format": layer.format, "gflops": layer.flops / seconds / 1e9, "bytes": layer.nbytes,
            "roofline": layer.least_s / seconds}
