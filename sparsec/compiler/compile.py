"""`compile`: from an ONNX model to an artifact, one visible list of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.artifact.file import Artifact
from sparsec.backends.accelerators.eie import build as eie
from sparsec.backends.cpu.build import build
from sparsec.backends.cpu.lower import lower
from sparsec.backends.cpu.remote import Remote, connect
from sparsec.backends.cpu.storage import packed_weights
from sparsec.backends.cuda import driver
from sparsec.backends.program import Program
from sparsec.compiler import planning
from sparsec.compiler.batches import Batch, divide
from sparsec.compiler.buckets import for_every_bucket
from sparsec.compiler.pipeline import SIMPLIFY, SPECIALISE, run_passes
from sparsec.compiler.planning import Job
from sparsec.compiler.verification import tolerance
from sparsec.compiler.verification import verify as verification_of
from sparsec.cost.calibration import calibration_of
from sparsec.cost.option import HALF_PRECISIONS, PRECISIONS
from sparsec.cost.plan import choose
from sparsec.cost.tuning import TuningLog, default_path
from sparsec.errors import UnsupportedOperatorError, UsageError
from sparsec.formats import CODECS
from sparsec.graph import reader
from sparsec.graph.compare import Feeds, random_feeds, split_samples
from sparsec.graph.sizes import Shapes, fixed
from sparsec.machine.turns import one_at_a_time
from sparsec.passes.context import Context, Report
from sparsec.passes.strip import StripReport, as_dict
from sparsec.runtime.session import InferenceSession
from sparsec.target import Target, machine_features, resolve

STEPS = {"read": 0.1, "rewrite": 0.1, "plan": 0.35, "lower": 0.05, "build": 0.3, "pack": 0.0, "verify": 0.1}
"""The steps in order, each with its usual share of the time."""

TUNE = ("off", "measure")
OPTIMIZE = ("latency", "balanced", "size")
MOST_SAMPLES = 16
"""The first samples among real inputs: those that layers are judged and outputs verified on."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN")
"""ONNX's operators that have weights worth pruning."""

_VISIBLE_BYTES = 1024  # larger weights do not go into the artifact's graph

Progress = Callable[[str, float], None]
"""Called with the name of the step that begins or goes on and the estimated share of the work done, 0 to 1."""


@one_at_a_time
@for_every_bucket
def compile(  # noqa: A001 - the name that users know from other compilers
    model: reader.Source,
    target: str | Target = "cpu",
    *,
    threads: int = 1,
    shapes: Shapes | None = None,
    verify: bool = True,
    inputs: Feeds | None = None,
    strict: bool = False,
    strict_ieee: bool = False,
    tune: str = "measure",
    tune_seconds: float = 45.0,
    measure_on: str | None = None,
    precision: str | None = None,
    project_2of4: bool = False,
    optimize: str = "latency",
    codec: str = "f32",
    max_error: float | None = None,
    dump_ir: str | Path | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model.

    Args:
        model: a path, the bytes of an ONNX file, or a ModelProto.
        target: what to compile for; `sparsec targets` lists the names.
        threads: the threads that one inference may use.
        shapes: the full shape of every input with symbolic dimensions, by name. A size may be several, as text such as
            "1..8" or "1/8/32": the artifact then has a bucket for every combination, and a session takes the one that
            has the shapes of its inputs.
        verify: compare the outputs with onnxruntime's on random inputs, and on `inputs` where given. Without it int8 is
            compared, too, but reported only.
        inputs: real inputs by name, for the comparison and to calibrate int8, which is compared on nothing else then;
            arrays with n times the rows that the model takes are n samples, of which the first 16 count.
        strict_ieee: let zeros of weights make NaN of infinities and NaN, as IEEE 754 has it: nothing is stripped, and
            layers stay dense. Without it, a zero weight that is skipped hides what it would have multiplied.
        strict: refuse a model with a weighted layer that sparsec's own kernels cannot take.
        tune: "measure" times the best few kernels of every layer here and keeps the times in the user's cache;
            "off" trusts the cost model.
        tune_seconds: what measuring may take in all.
        measure_on: "rpc://HOST:PORT/KEY" measures on the servers of a key behind TVM's RPC tracker, on all of them at
            once, instead of here; the target must be named, not "cpu".
        precision: on CPUs the fewest bits that a layer may compute with, one of `PRECISIONS`, fp32 if not given; each
            layer takes the fastest kernel that this allows. On GPUs what weights and activations are stored in: fp16,
            or bf16 for values beyond 65504; sums are float32.
        project_2of4: on GPUs, keep the two largest of every four weights only, whatever that costs in accuracy; the
            report gives every layer's error.
        optimize: "latency" takes the fastest kernels and stores weights as they read them; "balanced" takes the same
            kernels and stores every weight in its smallest format, but those of kernels on 8-bit integers; "size" takes
            the smallest kernels that are no slower than dense, too.
        codec: how values are stored where formats are: a key of `sparsec.formats.CODECS`. A lossy one changes the
            weights before anything is chosen.
        max_error: the largest error of an output relative to its largest magnitude; without it, the precision's and the
            codec's own; codecs of shared weights have none: the error is reported.
        dump_ir: a directory for the graph after every pass.
        progress: told of every step.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UnsupportedOperatorError: nodes cannot be lowered (all are listed), or `strict` refuses them.
        FormatError: the codec cannot hold a weight.
        UsageError: an unknown target, precision, goal, codec or way of tuning, or a target that nothing can be compiled
            for.
        VerificationError: the outputs differ from onnxruntime's by more than `max_error`.

    """
    def announce(step: str, part: float = 0.0) -> None:
        if progress is not None:
            steps = list(STEPS)
            progress(step, sum(STEPS[each] for each in steps[:steps.index(step)]) + part * STEPS[step])

    resolved = resolve(target)
    backend = check_choices(resolved, threads=threads, precision=precision, optimize=optimize, codec=codec, tune=tune)
    precision = precision or next(iter(backend.precisions))
    if max_error is not None and not max_error >= 0:
        raise UsageError(f"max_error={max_error}; give a number from 0 on")
    if project_2of4 and "fp16" not in backend.precisions:
        raise UsageError(f"project_2of4=True on target '{resolved.name}'; 2:4 weights are for tensor cores, compile "
                         "for a cuda target")
    announce("read")
    graph = reader.load(model, shapes=fixed(shapes or {}))
    generated, real = random_feeds(graph), split_samples(graph, inputs)[:MOST_SAMPLES] if inputs else []
    remote = _remote(measure_on, tune, resolved)
    log = _tuning_log(tune, tune_seconds, resolved, remote)
    rates = calibration_of(resolved, threads)
    error = backend.precisions[precision]
    limit = (tolerance(error, codec) if max_error is None else max_error) if backend.limited else None
    job = Job(resolved, threads, precision, project_2of4, optimize, codec, [generated], real, limit, log, remote, rates,
              strict_ieee, announce)
    announce("rewrite")
    context = Context(resolved, strict_ieee)
    passes = run_passes(graph, context, dump_ir, SIMPLIFY)
    graph, batch = backend.divide(graph, job, context)
    passes += run_passes(graph, context, dump_ir, SPECIALISE)
    outside = _outside(graph, passes)
    if strict and outside:
        listed = "\n  ".join(f"'{each['layer']}': {each['reason']}" for each in outside)
        raise UnsupportedOperatorError(f"{len(outside)} layer(s) would run without sparsec's kernels; compile without "
                                       f"strict to accept that:\n  {listed}")
    program, layers = backend.build(graph, job if batch is None else batch.job(graph, job))
    if batch is not None:
        program, layers = program.repeated(batch.parts), batch.layers(layers)
    outside += [{"layer": node.name or "", "operator": node.op_type, "reason": node.meta["outside"]}
                for node in graph.graph if "outside" in node.meta]
    announce("pack")
    report = {"precision": precision, "optimize": optimize, "codec": codec, "rates": rates.source,
              "layers": layers, "outside": outside, "batch": batch and batch.as_dict(),
              "passes": [_row(each) for each in passes], "verification": None,
              "strip": next((as_dict(each) for each in passes if isinstance(each, StripReport)), None)}
    artifact = Artifact.build(program, resolved, threads, _outline(graph), report, codec)
    announce("verify")
    if not verify and precision != "int8":
        return artifact
    if (absent := backend.missing()) is not None:
        return replace(artifact, report={**report, "verification": {"skipped": f"here {absent}"}})
    # Inputs that number formats were chosen for are those that they are judged on.
    checked = [] if real and (precision == "int8" or not backend.limited) else [generated]
    verification = verification_of(model, artifact, backend.execute, checked, real, limit if verify else None,
                                   strict=verify)
    return replace(artifact, report={**report, "verification": verification})


def check_choices(target: Target, *, threads: int = 1, precision: str | None = None, optimize: str = "latency",
                  codec: str = "f32", tune: str = "measure") -> Backend:
    """The backend that compiles for a target.

    Raises:
        UsageError: there is none, or an argument of `compile` is none of its values.

    """
    backend = BACKENDS.get(target.kind)
    if backend is None:
        raise UsageError(f"nothing can be compiled for target '{target.name}'; its kind is {target.kind}, "
                         f"models compile for {', '.join(BACKENDS)}")
    if threads < 1:
        raise UsageError(f"threads={threads}; give a number from 1 on")
    if precision is not None and precision not in backend.precisions:
        raise UsageError(f"precision='{precision}' on target '{target.name}'; choose one of "
                         f"{', '.join(backend.precisions)}")
    if optimize == "latency" and codec in CODECS and codec != "f32":
        raise UsageError(f"codec='{codec}' with optimize='latency', which stores weights as kernels read them; "
                         "choose optimize='balanced' or 'size'")
    if optimize not in OPTIMIZE or codec not in CODECS:
        raise UsageError(f"optimize='{optimize}', codec='{codec}'; optimize for one of {', '.join(OPTIMIZE)}, "
                         f"and store values with one of {', '.join(CODECS)}, which for latency is f32")
    if tune not in TUNE:
        raise UsageError(f"tune='{tune}'; choose one of {', '.join(TUNE)}")
    return backend


@dataclass(frozen=True)
class Backend:
    """How models are compiled for the targets of one kind.

    Attributes:
        build: from the planned graph to the program and the report's row of every layer.
        execute: from the artifact to a function of its inputs, for the verification.
        precisions: what layers may compute with and the error of an output that this may cause; the first is the
            default.
        limited: the error of an output has a limit; not where the target computes with few bits of its own, so that
            the error is reported and never refused.
        divide: from the simplified graph to the one for as many rows as run at once, with the reason; None where rows
            are not divided.
        missing: why this machine cannot execute what was compiled, None if it can.

    """

    build: Callable[[ir.Model, Job], tuple[Program, list[dict[str, Any]]]]
    execute: Callable[[Artifact], Callable[[Feeds], Sequence[np.ndarray]]]
    precisions: Mapping[str, float]
    limited: bool = True
    divide: Callable[[ir.Model, Job, Context], tuple[ir.Model, Batch | None]] = lambda model, *_: (model, None)
    missing: Callable[[], str | None] = lambda: None


def _build_cpu(graph: ir.Model, job: Job) -> tuple[Program, list[dict[str, Any]]]:
    seen = planning.observed(graph, job) if job.precision != "fp32" else {}
    layers = planning.plan(graph, job, seen)
    job.announce("lower")
    lowered = lower(graph, job.target, job.threads, job.precision)
    job.announce("build")
    program = build(lowered)
    if job.optimize != "latency":
        program = replace(program, packed=packed_weights(graph, lowered.constants))
    return program, layers


def _build_eie(graph: ir.Model, job: Job) -> tuple[Program, list[dict[str, Any]]]:
    job.announce("build")
    return eie.build(graph, (*job.generated, *job.real)[-1], job.target.name)


def _build_cuda(graph: ir.Model, job: Job) -> tuple[Program, list[dict[str, Any]]]:
    from sparsec.backends.cuda.model import build_model

    if job.optimize != "latency":
        raise UsageError(f"optimize='{job.optimize}' on target '{job.target.name}'; GPUs store weights as their "
                         "kernels read them, compile with optimize='latency'")
    return build_model(graph, job.target, job.precision, partial(choose, machine=job.calibration.machine), job.announce,
                       projected=job.project_2of4, dense=job.strict_ieee)


def _execute(artifact: Artifact) -> Callable[[Feeds], Sequence[np.ndarray]]:
    session = InferenceSession(artifact)
    return lambda feeds: session.run(None, feeds)


BACKENDS = {
    "cpu": Backend(_build_cpu, _execute, PRECISIONS, divide=divide),
    "cuda": Backend(_build_cuda, _execute, HALF_PRECISIONS, missing=lambda: driver.missing(driver.probe())),
    "eie": Backend(_build_eie, lambda artifact: eie.execute(artifact.constants()), {"fp32": 0.0}, limited=False),
}
"""By the kind of target."""


def _row(report: Report) -> dict[str, Any]:
    """A pass's report as JSON's types."""
    return {"name": report.name, "modified": report.modified, "counts": dict(report.counts),
            "notes": [asdict(note) for note in report.notes]}


def _outside(graph: ir.Model, passes: Sequence[Report]) -> list[dict[str, str]]:
    """The layers with a weight of their own that stayed ONNX operators, each with the reason."""
    reasons = {note.node: note.text for report in passes for note in report.notes}
    layers = []
    for node in graph.graph:
        weighted = any(value is not None and value.const_value is not None and len(value.const_value.shape) > 1
                       for value in node.inputs)
        if node.domain == "" and node.op_type in WEIGHTED and weighted:
            name = node.name or node.outputs[0].name or ""
            reason = reasons.get(name, f"{node.op_type} has no kernel of sparsec's own")
            layers.append({"layer": name, "operator": node.op_type, "reason": reason})
    return layers


def _remote(url: str | None, tune: str, target: Target) -> Remote | None:
    """The machines that measure, None for this one."""
    if url is None:
        return None
    if tune == "off" or target.kind != "cpu":
        raise UsageError(f"measure_on='{url}' needs tune='measure' and a cpu target")
    return connect(url)


def _tuning_log(tune: str, seconds: float, target: Target, remote: Remote | None) -> TuningLog | None:
    """Where measured times are kept, None where nothing is measured: on request, or on a machine of another kind."""
    if remote is not None:
        return TuningLog(default_path(), seconds, remote.address)
    return TuningLog(default_path(), seconds) if tune == "measure" and target.features <= machine_features() else None


def _outline(graph: ir.Model) -> bytes:
    """The final graph as an ONNX file whose larger weights are external data that is nowhere; changes `graph`."""
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _VISIBLE_BYTES:
            value.const_value = ir.ExternalTensor("omitted", None, None, tensor.dtype, name=value.name or "",
                                                  shape=ir.Shape(tensor.shape.numpy()))
    outline: bytes = ir.to_proto(graph).SerializeToString(deterministic=True)
    return outline
