"""Where the time of a model goes: every layer as it runs among the others, beside what the machine allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.lower import lower
from sparsec.backends.cpu.planning import layer_options, measure
from sparsec.backends.cpu.profile import profile
from sparsec.batches import divide
from sparsec.cost.calibration import calibration_of
from sparsec.cost.plan import choose
from sparsec.cost.roofline import Machine
from sparsec.cost.tuning import TuningLog, default_path
from sparsec.errors import InputError, UsageError
from sparsec.graph import reader
from sparsec.graph.compare import Feeds, random_feeds, split_samples
from sparsec.graph.shapes import static_shape
from sparsec.option import Work
from sparsec.passes.context import Context
from sparsec.pipeline import SIMPLIFY, SPECIALISE, run_passes
from sparsec.planning import Job
from sparsec.target import Target, machine_features, resolve

TUNE_SECONDS = 45.0
"""What measuring kernels may take in all, where a compilation has not done it yet."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Layer:
    """A layer that the plan chose a kernel for.

    Attributes:
        format: how its weight is stored.
        flops: floating-point operations on non-zeros of one run.
        work: what the kernel moves.

    """

    format: str
    flops: float
    work: Work

    def least_seconds(self, machine: Machine, lanes: int, threads: int) -> float:
        """The time that the busiest of arithmetic units, L2 cache and memory needs at least."""
        return max(self.flops / (2 * lanes * machine.fmas_per_s * threads),
                   self.work.l2_bytes / (machine.l2_bytes_per_s * threads),
                   self.work.memory_bytes / machine.memory_bytes_per_s)


def profile_layers(model: reader.Source, target: str = "cpu", *, threads: int = 1,
                   shapes: Mapping[str, Sequence[int]] | None = None, feeds: Feeds | None = None,
                   progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Compile a model and time its kernels; `feeds` are random where none are given.

    Returns:
        "rates": where the machine's rates come from; "layers": in the order of execution a row for every layer, and
        for every kernel of something else; "total_us". Where a batch runs in shares of its rows, times are those of all
        of them. The roofline of a layer is `Layer.least_seconds` as a share of the measured time; it and what counts
        weights are None for something else.

    Raises:
        UsageError: the target is not this machine.
        InputError: the feeds are not the model's.
        SparsecError: as `sparsec.compile`.

    """
    resolved = resolve(target)
    if resolved.kind != "cpu" or resolved.features - machine_features():
        raise UsageError(f"kernels for target '{resolved.name}' do not run here; profile with --target cpu")
    progress("read", 0.0)
    graph = reader.load(model, shapes=shapes)
    feeds = feeds or random_feeds(graph)
    calibration, log = calibration_of(resolved, threads), TuningLog(default_path(), TUNE_SECONDS)
    machine = calibration.machine
    assert isinstance(machine, Machine)  # the target is a cpu
    context = Context(resolved)
    run_passes(graph, context, passes=SIMPLIFY)
    _check(feeds, graph)
    job = Job(resolved, threads, "fp32", project_2of4=False, optimize="latency", codec="f32", generated=[feeds],
              real=[], limit=None, log=log, remote=None, calibration=calibration, strict_ieee=False,
              announce=lambda *_: None)
    graph, batch = divide(graph, job, context)
    run_passes(graph, context, passes=SPECIALISE)
    layers = _plan(graph, resolved, threads, machine, log, progress)
    parts = 1 if batch is None else batch.parts
    seconds: dict[str, float] = {}
    progress("profile", 0.7)
    for each in profile(lower(graph, resolved, threads), split_samples(graph, feeds)[0]):
        name = each.node or each.kernel
        seconds[name] = seconds.get(name, 0.0) + each.seconds
    total = sum(seconds.values())
    rows = [{"layer": name, "us": parts * spent * 1e6, "share": spent / total,
             **_rates(layers.get(name), spent, machine, resolved.vector_bits // 32 or 1, threads)}
            for name, spent in seconds.items()]
    return {"rates": calibration.source, "layers": rows, "total_us": parts * total * 1e6}


def _plan(graph: ir.Model, target: Target, threads: int, machine: Machine, log: TuningLog,
          progress: Progress) -> dict[str, Layer]:
    """Choose kernels as a compilation does; the layers by name."""
    layers = {}
    for index, node in enumerate(graph.graph):
        progress("plan", 0.1 + 0.6 * index / len(graph.graph))
        if options := layer_options(node, target, threads):
            timed = partial(measure, node, target=target, threads=threads)
            choice = choose(node.name or node.op_type, options, threads=threads, machine=machine,
                            measure=partial(log.time, target=target, threads=threads, measure=timed))
            node.meta["choice"] = choice
            option = choice.winner.option
            layers[choice.layer] = Layer(option.format, _flops(node), option.work)
    return layers


def _flops(node: ir.Node) -> float:
    """Two for every non-zero of the weight and every position of the output that it contributes to."""
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None  # the plan has options for constant weights only
    weight = value.const_value.numpy()
    positions: int = math.prod(static_shape(node.outputs[0]) or ()) // weight.shape[0]
    return 2.0 * int(np.count_nonzero(weight)) * positions


def _check(feeds: Feeds, graph: ir.Model) -> None:
    expected = {value.name: f"{value.dtype.numpy().name if value.dtype else ''} {list(static_shape(value) or ())}"
                for value in graph.graph.inputs}
    given = {name: f"{array.dtype.name} {list(array.shape)}" for name, array in feeds.items()}
    if given != expected:
        raise InputError(f"the model takes the inputs {expected}; given: {given}")


def _rates(layer: Layer | None, seconds: float, machine: Machine, lanes: int, threads: int) -> dict[str, Any]:
    """What a row says of a layer beside its time."""
    if layer is None:
        return {"format": None, "gflops": None, "bytes": None, "roofline": None}
    return {"format": layer.format, "gflops": layer.flops / seconds / 1e9,
            "bytes": layer.work.l2_bytes + layer.work.memory_bytes,
            "roofline": layer.least_seconds(machine, lanes, threads) / seconds}
