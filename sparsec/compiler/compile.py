"""`compile`: from an ONNX model to an artifact, one visible list of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from sparsec.artifact.file import Artifact
from sparsec.backends.base import Backend, Execute
from sparsec.backends.job import Announce, Job, silent
from sparsec.backends.layer_report import LayerReport
from sparsec.backends.program import Program
from sparsec.compiler.buckets import compile_buckets
from sparsec.compiler.failures import named
from sparsec.compiler.fallback import defects, with_fallback
from sparsec.compiler.options import CompileOptions, Progress, takes
from sparsec.compiler.outside import WEIGHTED, in_bodies, in_floats, is_layer, left_as_operators
from sparsec.compiler.overlap import overlapped_if_faster
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import Prepared, Simplified, simplify, specialise
from sparsec.compiler.report import CompileReport, Narrow, Outside, Skipped, Verification
from sparsec.compiler.sized.build import build as build_sized
from sparsec.compiler.stages import REASON, Stage, has_kernels, in_parts, interpreted_in, program, split
from sparsec.compiler.threads import on_one_if_faster
from sparsec.compiler.verification import Basis, basis_of, verify
from sparsec.cost.precisions import CALIBRATED
from sparsec.errors import UnsupportedOperatorError, counted
from sparsec.graph import reader
from sparsec.graph.annotations import NARROW, OUTSIDE
from sparsec.graph.constants import draws
from sparsec.graph.large import forget, is_large
from sparsec.graph.metadata import metadata_of
from sparsec.graph.nodes import node_name
from sparsec.graph.shapes import SIZED_BY_VALUES, static_shape
from sparsec.graph.sized import SUPPRESSION
from sparsec.graph.sizes import bound_dims, fixed, is_fixed, ranges
from sparsec.machine.turns import one_at_a_time
from sparsec.passes.context import Report, Spared
from sparsec.runtime.session import InferenceSession

STEPS = {"read": 0.1, "rewrite": 0.1, "plan": 0.35, "lower": 0.05, "build": 0.3, "pack": 0.0, "verify": 0.1}
"""The steps in order, each with its usual share of the time."""

_VISIBLE_BYTES = 1024  # larger weights do not go into the artifact's graph


@one_at_a_time
@named
def compile_model(model: reader.Source, options: CompileOptions) -> Artifact:
    """Compile a model.

    Args:
        model: a path, the bytes of an ONNX file, or a ModelProto.
        options: the target and what else there is: the fields of `CompileOptions`, which `sparsec.compile` takes as
            arguments of its own.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UnsupportedOperatorError: nodes cannot be lowered (all are listed), or `strict` refuses them.
        FormatError: the codec cannot hold a weight.
        UsageError: as `CompileOptions`.
        VerificationError: the outputs differ from onnxruntime's by more than `max_error`.

    """
    options.check_together()
    compile_all = compile_one if is_fixed(options.shapes or {}) else compile_buckets(compile_one)
    try:
        return compile_all(model, options)
    finally:
        forget()


compile = takes(CompileOptions)(compile_model)  # noqa: A001 - the name that users know from other compilers


@on_one_if_faster
@overlapped_if_faster
@with_fallback
def compile_one(model: reader.Source, options: CompileOptions, spared: Spared) -> Artifact:
    """The artifact of a model for one size of every input; as `compile`."""
    announce = _announcer(options.progress)
    simplified = simplify(model, options, announce=announce, symbolic=options.backend.sized, spared=spared)
    _refuse_random(simplified.graph.graph)
    if any(static_shape(value) is None for value in simplified.graph.graph.inputs):
        return _compile_sized(model, options, simplified)
    if parts := split(simplified.graph, spared):
        return _compile_stages(model, options, simplified, parts)
    prepared = specialise(simplified, options, divided=True)
    outside = _outside(prepared)
    outside += defects(spared, outside)
    if options.strict and outside:
        _refuse(outside)
    program, layers, network_s = _build(prepared)
    announce("pack")
    report = CompileReport(
        metadata=metadata_of(prepared.graph), precision=prepared.job.precision, optimize=options.optimize,
        codec=options.codec, rates=prepared.job.calibration.source, layers=layers,
        outside=(*outside, *_left_out(prepared.graph)), batch=prepared.batch, passes=prepared.passes,
        network_us=None if network_s is None else network_s * 1e6, narrow=_narrow(prepared.graph))
    outline = _outline(prepared.graph)
    artifact = Artifact.build(program, prepared.job.target, options.threads, outline, report.to_json(), options.codec)
    announce("verify")
    report = replace(report, verification=_verified(
        _basis(model, options, prepared.graph, prepared.job, prepared.passes), artifact, options, prepared.job))
    return replace(artifact, report=report.to_json())


def _compile_stages(model: reader.Source, options: CompileOptions, simplified: Simplified,
                    stages: Sequence[Stage]) -> Artifact:
    """The artifact of a model with sizes that only the run tells: its static stages are compiled one by one."""
    job = simplified.job
    if not options.backend.sized:
        raise UnsupportedOperatorError(f"sizes in the model are known at run time only, and target '{job.target.name}' "
                                       "needs static ones; compile for a cpu")
    device = options.backend.device
    precision = None if options.precision in CALIBRATED and not device else options.precision  # which asks for samples
    part_options = replace(options, shapes=None, dims=None, inputs=None, verify=False, strict=False,
                           precision=precision, dump_ir=None, progress=None,
                           tune_seconds=options.tune_seconds / len(stages))
    spared = simplified.context.spared
    parts = [_with_rows(stage, part_options, spared) if stage.interpreted else compile_one(stage.model, part_options)
             for stage in stages]
    outside, interpreted = _without_kernels(simplified, stages, parts, device)
    if options.strict and outside:
        _refuse(outside)
    outside += interpreted
    report = CompileReport(metadata=metadata_of(simplified.graph), precision=job.precision, optimize=options.optimize,
                           codec=options.codec,
                           rates=job.calibration.source, layers=(), outside=tuple(outside), batch=None,
                           passes=simplified.passes)
    contents = [stage.model.SerializeToString(deterministic=True) if part is None else part.to_bytes()
                for stage, part in zip(stages, parts, strict=True)]
    kinds = [part is None for part in parts]
    artifact = Artifact.build(program(simplified.graph, stages, kinds, contents), job.target, options.threads,
                              _outline(simplified.graph), report.to_json(), options.codec)
    basis = _basis(model, options, simplified.graph, job, simplified.passes)
    compared = _verified(basis, artifact, options, job, parts)
    whole: dict[str, Any] = replace(report, verification=compared).to_json()
    for part in parts:
        if part is not None:
            whole["layers"] += [{**row, "widened": in_parts(row["widened"])} if row.get("widened") else row
                                for row in part.report["layers"]]
            whole["narrow"] += part.report["narrow"]
    return replace(artifact, report=whole)


def _without_kernels(simplified: Simplified, stages: Sequence[Stage], parts: Sequence[Artifact | None],
                     device: str) -> tuple[list[Outside], list[Outside]]:
    """What runs without kernels in a model of stages: what `strict` refuses, on a device everything, and the rest."""
    spared, pairs = simplified.context.spared, list(zip(stages, parts, strict=True))
    told = [Outside(row["layer"], row["operator"], row["reason"]) for part in parts if part is not None
            for row in part.report["outside"]]
    by_parts = {row.layer for row in told} | {
        node.name for stage, part in pairs if device and stage.interpreted and part is not None
        for node in stage.model.graph.node if node.op_type not in SIZED_BY_VALUES}
    found = [(node, reason) for node, reason in interpreted_in(simplified.graph.graph, spared, device)
             if node_name(node) not in by_parts]
    refused = {node for node, _ in found if device or (is_layer(node) and spared.why_interpreted(node) is not None)}
    names = {node_name(node) for node, _ in found}
    outside = [Outside(node.name, node.op_type, REASON) for stage, part in pairs if part is None
               for node in stage.model.graph.node if node.op_type in WEIGHTED and node.name not in names]
    outside += [*told, *(each for node, _ in found for each in in_bodies(node))]
    outside += [Outside(node_name(node), node.op_type, reason) for node, reason in found if node in refused]
    outside += defects(spared, outside)
    return outside, [Outside(node_name(node), node.op_type, reason) for node, reason in found if node not in refused]


def _with_rows(stage: Stage, options: CompileOptions, spared: Spared) -> Artifact | None:
    """The artifact of a stage of computed sizes that has kernels: of rows, as those of experts, or NMS; else None."""
    device = options.backend.device
    if not has_kernels(stage, device):
        return None
    try:
        artifact = _compile_sized(stage.model, options, simplify(stage.model, options, symbolic=True, spared=spared))
    except UnsupportedOperatorError:
        if device:  # which takes fewer kinds of layers at such sizes than the processor interprets
            return None
        raise
    if not artifact.report["layers"] and not any(node.op_type == SUPPRESSION for node in stage.model.graph.node):
        return None
    outside = artifact.report["outside"] if device else [
        {**row, "reason": REASON} for row in artifact.report["outside"] if row["operator"] in WEIGHTED]
    return replace(artifact, report={**artifact.report, "outside": outside})


def _compile_sized(model: reader.Source, options: CompileOptions, simplified: Simplified) -> Artifact:
    """The artifact of a model whose inputs have sizes that only the run tells."""
    job = simplified.job
    sized = build_sized(simplified.graph, job, simplified.context, options.backend, ranges(options.dims or {}))
    outside = (*sized.outside, *defects(simplified.context.spared, sized.outside))
    if options.strict and outside:
        _refuse(outside)
    report = CompileReport(metadata=metadata_of(simplified.graph), precision=job.precision, optimize=options.optimize,
                           codec=options.codec,
                           rates=job.calibration.source, layers=sized.layers, outside=outside, batch=None,
                           passes=(*simplified.passes, *sized.passes))
    artifact = Artifact.build(sized.program, job.target, options.threads, _outline(simplified.graph), report.to_json(),
                              options.codec)
    job.announce("verify")
    basis = _basis(model, options, simplified.graph, job, simplified.passes)
    return replace(artifact, report=replace(report, verification=_verified(basis, artifact, options, job)).to_json())


def _announcer(progress: Progress | None) -> Announce:
    """What tells of the steps as shares of all the work."""
    if progress is None:
        return silent
    steps = list(STEPS)

    def announce(step: str, part: float = 0.0, measuring_s: float = 0.0) -> None:
        more = f", measuring for up to {measuring_s:.0f} s more" if measuring_s >= 1 else ""
        kind, _, of = step.partition(" ")
        first, last = ("plan", "build") if of else (kind, kind)  # numbers of rows are planned and built in turn
        begin, end = steps.index(first), steps.index(last) + 1
        progress(step + more, sum(STEPS[each] for each in steps[:begin])
                 + part * sum(STEPS[each] for each in steps[begin:end]))

    return announce


def _build(prepared: Prepared) -> tuple[Program, tuple[LayerReport, ...], float | None]:
    """The program for all rows, how every layer runs, and the predicted seconds of all."""
    backend, job = prepared.backend, prepared.part
    planned = plan(prepared.graph, job, backend, backend.judge(prepared.graph, job))
    seconds = backend.graph_seconds(prepared.graph.graph, job) if backend.divides else None
    built = backend.build(prepared.graph, job)
    layers = (*planned, *built.layers)
    if prepared.batch is None:
        return built.program, layers, seconds
    parts = prepared.batch.parts
    return built.program.repeated(parts), prepared.batch.layers(layers), None if seconds is None else parts * seconds


def _basis(model: reader.Source, options: CompileOptions, graph: ir.Model, job: Job,
           passes: Sequence[Report]) -> Basis:
    """What the outputs are judged by."""
    restated = any(each.restated for each in passes)
    return basis_of(model, graph, fixed(options.shapes or {}), job.target, restated=restated,
                    dims=bound_dims(options.dims or {}))


def _verified(basis: Basis, artifact: Artifact, options: CompileOptions, job: Job,
              parts: Sequence[Artifact | None] = ()) -> Verification | Skipped | None:
    """The comparison with a reference; int8 is always compared, and no error is too large where it was not asked for.

    Inputs that number formats were chosen for are those that they are judged on.
    """
    backend = options.backend
    if not options.verify and job.precision not in CALIBRATED:
        return None
    for each in (artifact, *parts):
        if each is not None and (absent := backend.missing(each.manifest.needs)) is not None:
            return Skipped(f"here {absent}")
    calibrated = job.precision in CALIBRATED or not backend.limited
    return verify(basis, artifact, lambda: execute(artifact, backend),
                  [] if job.real and calibrated else job.generated, job.real, job.limit if options.verify else None,
                  strict=options.verify)


def execute(artifact: Artifact, backend: Backend) -> Execute:
    """The function of the inputs that an artifact is."""
    run = backend.execute(artifact.constants())
    if run is not None:
        return run
    session = InferenceSession(artifact)
    return lambda feeds: session.run(None, feeds)


def _refuse_random(graph: ir.Graph) -> None:
    if drawn := [f"'{node_name(node)}' ({node.op_type})" for node in graph.all_nodes() if draws(node)]:
        raise UnsupportedOperatorError(f"random numbers are drawn by {', '.join(drawn)}, so that no two runs agree; "
                                       "export the model for inference, or with the numbers as an input")


def _refuse(outside: Sequence[Outside]) -> None:
    listed = "; ".join(f"'{each.layer}': {each.reason}" for each in outside)
    raise UnsupportedOperatorError(f"{counted(len(outside), 'layer')} would run without sparsec's kernels; compile "
                                   f"without strict=True to accept that: {listed}")


def _outside(prepared: Prepared) -> list[Outside]:
    """The layers with a weight of their own that stayed ONNX operators or floats, each with the reason."""
    return [*left_as_operators(prepared.graph.graph, prepared.passes), *in_floats(prepared.passes)]


def _left_out(graph: ir.Model) -> list[Outside]:
    """The operators of sparsec that the lowering found no kernel for."""
    return [Outside(node.name or "", node.op_type, reason) for node in graph.graph if (reason := OUTSIDE.get(node))]


def _narrow(graph: ir.Model) -> tuple[Narrow, ...]:
    """The operators without weights that the lowering gave fewer bits."""
    return tuple(Narrow(node.name or "", node.op_type, precision) for node in graph.graph
                 if (precision := NARROW.get(node)))


def _outline(graph: ir.Model) -> bytes:
    """The final graph as an ONNX file whose larger weights are external data that is nowhere.

    Arrays are taken out of `graph`; what is read when it is asked for stays.
    """
    kept: dict[ir.Value, ir.TensorProtocol] = {}
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _VISIBLE_BYTES:
            if is_large(tensor):
                kept[value] = tensor
            value.const_value = ir.ExternalTensor("omitted", None, None, tensor.dtype, name=value.name or "",
                                                  shape=ir.Shape(tensor.shape.numpy()))
    outline: bytes = ir.to_proto(graph).SerializeToString(deterministic=True)
    for value, tensor in kept.items():
        value.const_value = tensor
    return outline
