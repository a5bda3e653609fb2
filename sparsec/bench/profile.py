"""Where the time of a model goes: every layer as it runs among the others, beside what the machine allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.relax.timing import KernelTime
from sparsec.compiler.compile import check_choices
from sparsec.compiler.pipeline import SIMPLIFY, SPECIALISE, run_passes
from sparsec.compiler.planning import Job, observed, plan
from sparsec.cost.calibration import calibration_of
from sparsec.cost.gpu import Device
from sparsec.cost.option import GpuWork, Work
from sparsec.cost.plan import choose
from sparsec.cost.roofline import Machine
from sparsec.cost.tuning import TuningLog, default_path
from sparsec.errors import InputError, UsageError
from sparsec.graph import reader
from sparsec.graph.compare import Feeds, random_feeds
from sparsec.graph.shapes import static_shape
from sparsec.passes.context import Context
from sparsec.target import machine_features, resolve

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
    work: Work | GpuWork

    @property
    def nbytes(self) -> float:
        """Bytes that come from beyond the L1 cache of a CPU, or from the memory of a GPU."""
        return self.work.nbytes if isinstance(self.work, GpuWork) else (
            self.work.l2_bytes + self.work.l3_bytes + self.work.memory_bytes)

    def least_seconds(self, job: Job) -> float:
        """The time that the busiest of arithmetic units, caches and memory needs at least."""
        machine, threads = job.calibration.machine, job.threads
        if isinstance(self.work, GpuWork):
            assert isinstance(machine, Device)
            return max(machine.memory(self.work), self.flops / (2 * machine.mma_per_s))
        assert isinstance(machine, Machine)
        return max(self.flops / (2 * (job.target.lanes or 1) * machine.fmas_per_s * threads),
                   self.work.l2_bytes / (machine.l2_bytes_per_s * threads),
                   self.work.l3_bytes / machine.l3_bytes_per_s + self.work.memory_bytes / machine.memory_bytes_per_s)


def profile_layers(model: reader.Source, target: str = "cpu", *, threads: int = 1,
                   shapes: Mapping[str, Sequence[int]] | None = None, feeds: Feeds | None = None,
                   precision: str | None = None, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Compile a model and time its kernels; `feeds` are random where none are given, and calibrate int8 where they are.

    Returns:
        "precision"; "rates": where the machine's rates come from; "layers": in the order of execution a row for every
        layer, and for every kernel of something else; "total_us". Where a batch runs in shares of its rows, times are
        those of all of them. The roofline of a layer is `Layer.least_seconds` as a share of the measured time; it and
        what counts weights are None for something else.

    Raises:
        UsageError: the target is another machine, or knows no such precision.
        InputError: the feeds are not the model's.
        SparsecError: as `sparsec.compile`.

    """
    resolved = resolve(target)
    if resolved.features - machine_features() or resolved.kind not in PROFILES:
        raise UsageError(f"kernels for target '{resolved.name}' do not run here; profile with --target cpu")
    backend = check_choices(resolved, threads=threads, precision=precision)
    precision = precision or next(iter(backend.precisions))
    progress("read", 0.0)
    graph = reader.load(model, shapes=shapes)
    context = Context(resolved)
    run_passes(graph, context, passes=SIMPLIFY)
    if feeds is not None:
        _check(feeds, graph)
    generated, calibration = random_feeds(graph), calibration_of(resolved, threads)
    job = Job(resolved, threads, precision, project_2of4=False, optimize="latency", codec="f32", generated=[generated],
              real=[] if feeds is None else [feeds], limit=backend.precisions[precision],
              log=TuningLog(default_path(), TUNE_SECONDS), remote=None, calibration=calibration, strict_ieee=False,
              announce=lambda step, share=0.0: progress(step, 0.1 + 0.6 * share))
    graph, batch = backend.divide(graph, job, context)
    run_passes(graph, context, passes=SPECIALISE)
    parts = 1 if batch is None else batch.parts
    job = job if batch is None else batch.job(graph, job)
    seconds: dict[str, float] = {}
    for each in PROFILES[resolved.kind](graph, job, (*job.real, *job.generated)[0]):
        name = each.node or each.kernel
        seconds[name] = seconds.get(name, 0.0) + each.seconds
    layers = {choice.layer: Layer(choice.winner.option.name, _flops(node), choice.winner.option.work)
              for node in graph.graph if (choice := node.meta.get("choice"))}
    total = sum(seconds.values())
    rows = [{"layer": name, "us": parts * spent * 1e6, "share": spent / total, **_rates(layers.get(name), spent, job)}
            for name, spent in seconds.items()]
    return {"precision": precision, "rates": calibration.source, "layers": rows, "total_us": parts * total * 1e6}


def _profile_cpu(graph: ir.Model, job: Job, feeds: Feeds) -> list[KernelTime]:
    """Choose kernels as a compilation does, and time them."""
    from sparsec.backends.cpu.lower import lower
    from sparsec.backends.cpu.profile import profile

    plan(graph, job, observed(graph, job) if job.precision != "fp32" else {})
    lowered = lower(graph, job.target, job.threads, job.precision)
    job.announce("profile", 1.0)
    return profile(lowered, feeds)


def _profile_cuda(graph: ir.Model, job: Job, feeds: Feeds) -> list[KernelTime]:
    """Choose kernels as a compilation does, and time them."""
    from sparsec.backends.cuda.lower import lower
    from sparsec.backends.cuda.model import plan as plan_gpu
    from sparsec.backends.cuda.profile import profile

    plan_gpu(graph, job.target, job.precision, partial(choose, machine=job.calibration.machine), job.announce)
    lowered = lower(graph, job.target, job.precision)
    job.announce("profile", 1.0)
    return profile(lowered, feeds)


PROFILES: dict[str, Callable[[ir.Model, Job, Feeds], list[KernelTime]]] = {"cpu": _profile_cpu, "cuda": _profile_cuda}
"""By the kind of target: plans a rewritten graph and times its kernels."""


def _flops(node: ir.Node) -> float:
    """Two for every non-zero of the weight and every position of the output that it contributes to."""
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None  # the plan has options for constant weights only
    weight = value.const_value.numpy()
    positions: int = math.prod(static_shape(node.outputs[0]) or ()) // weight.shape[0]
    return 2.0 * int(np.count_nonzero(weight)) * positions


def _check(feeds: Feeds, graph: ir.Model) -> None:
    expected = {value.name: f"{value.dtype.numpy().name} {list(static_shape(value) or ())}"
                for value in graph.graph.inputs if value.dtype is not None}
    given = {name: f"{array.dtype.name} {list(array.shape)}" for name, array in feeds.items()}
    if given != expected:
        raise InputError(f"the model takes the inputs {expected}; given: {given}")


def _rates(layer: Layer | None, seconds: float, job: Job) -> dict[str, Any]:
    """What a row says of a layer beside its time."""
    if layer is None:
        return {"format": None, "gflops": None, "bytes": None, "roofline": None}
    return {"format": layer.format, "gflops": layer.flops / seconds / 1e9, "bytes": layer.nbytes,
            "roofline": layer.least_seconds(job) / seconds}
