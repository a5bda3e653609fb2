"""`sparsec bench`: latency of a compiled model, beside onnxruntime's, or of each of its layers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sparsec.backends.registry import backend_named
from sparsec.bench.engines import onnxruntime_for, own_engines
from sparsec.bench.latency import Latency, measure, ratio, throughput_ratio
from sparsec.cli import options, parts, tables
from sparsec.cli.bench_cluster import bench_elsewhere
from sparsec.cli.bench_formats import bench_formats, bench_sweep
from sparsec.cli.bench_sizes import profile_sizes
from sparsec.cli.compile import Precision, compile_with_progress, show_progress
from sparsec.cli.names import shortened
from sparsec.cli.progress import working
from sparsec.cli.sizes import is_open
from sparsec.cli.tables import console
from sparsec.compiler.options import CompileOptions
from sparsec.errors import UsageError, counted

if TYPE_CHECKING:  # the command imports it, so that others start fast
    import numpy as np

    from sparsec.artifact.file import Artifact


FUSED_NAME = 40
"""Characters of the name of a kernel that stands for no node."""


class Peer(Enum):
    """Engines to compare with."""

    ONNXRUNTIME = "onnxruntime"
    NONE = "none"


def command(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(
        exists=True, dir_okay=False, callback=options.model_or_archive,
        help="An ONNX model or a compiled one; none with --sweep.")] = None,
    against: Annotated[Peer | None, typer.Option(
        help="The engine to compare with; onnxruntime for an ONNX model if not given.")] = None,
    target: options.Target = "cpu",
    threads: Annotated[int | None, typer.Option(
        min=1, help="Threads that one inference may use, here and in onnxruntime; those that an artifact was compiled "
        "for, else 1, if not given.", show_default=False)] = None,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    dims: Annotated[list[str], typer.Option(
        "--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension by its name, which an ONNX model is compiled "
        "for, or its range, as for `sparsec compile`. An artifact for run-time sizes, and --profile, is timed at these "
        "sizes; may be repeated.")] = [],  # noqa: B006 - as above
    batch: Annotated[int | None, typer.Option(
        min=1, help="Rows at once: the size of every input's symbolic first dimension.", show_default=False)] = None,
    precision: Annotated[Precision | None, typer.Option(
        help="That of `sparsec compile`, for an ONNX model and with --profile.", show_default=False)] = None,
    max_error: Annotated[float | None, typer.Option(
        min=0, help="That of `sparsec compile`, for an ONNX model.", show_default=False)] = None,
    tune: Annotated[Literal["measure", "off"] | None, typer.Option(
        help="That of `sparsec compile`, for an ONNX model.", show_default=False)] = None,
    streams: Annotated[int, typer.Option(
        min=1, help="Callers at once, each with --threads: measures the throughput.")] = 1,
    model: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="The ONNX model that an artifact was compiled from, to time onnxruntime on, "
        "beside it.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Measured time per engine.")] = 3.0,
    feeds: Annotated[Path | None, typer.Option(
        "--input", "-i", exists=True, dir_okay=False, help="An .npz file of inputs, or an .npy file where there is one "
        "input; random ones if not given.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Time every layer of an ONNX model instead, or "
                           "every step of an artifact for any size.")] = False,
    formats: Annotated[str | None, typer.Option(
        metavar="all|NAME,…", help="Time these formats of every layer of an ONNX model instead.")] = None,
    sweep: Annotated[str | None, typer.Option(
        metavar="MxKxN", help="Time the formats of a linear layer of this shape at many sparsities instead.")] = None,
    plot: Annotated[Path | None, typer.Option(
        dir_okay=False, help="Plot a sweep's latencies and bytes, as PNG or SVG.")] = None,
    on: parts.On = parts.LOCAL,
    resume: parts.Resume = None,
    json: options.JsonFile = None,
) -> None:
    """Time a model beside onnxruntime, or its layers.

    Engines take turns, each in a process of its own. On a cluster every machine runs the command, on files that lie at
    the same paths there.
    """
    from sparsec.artifact.file import is_artifact

    compiled = file is not None and is_artifact(file)
    _check_model(model, file if compiled and not profile and against is not Peer.NONE else None)
    _check_uses(file, against, precision, sweep, plot, compiled=compiled, profile=profile, formats=formats is not None,
                beside=model is not None)
    _check_calls({"--batch": batch, "--max-error": max_error, "--tune": tune}, streams,
                 model=file is not None and not compiled, timed=not profile and formats is None and sweep is None)
    threads = _threads_of(file, threads) if file is not None and compiled else threads or 1
    if bench_elsewhere(context, on, resume, threads * streams, json):
        return
    if file is None:
        bench_sweep(sweep or "", target, threads, plot, json)
        return
    shapes = [*shapes, *batched(file, batch, options.parse_shapes(shapes))]
    if formats is not None:
        bench_formats(file, formats, target, threads, options.parse_shapes(shapes), json)
        return
    sizes = options.parse_dims(dims)
    chosen = CompileOptions(target, threads=threads, shapes=None if compiled else options.parse_shapes(shapes),
                            dims=None if compiled or profile else sizes, precision=precision, max_error=max_error,
                            tune=tune or CompileOptions.tune)
    if not compiled:
        chosen.backend.require(chosen.resolved_target)
    if profile:
        if sizes or compiled or is_open(file, options.parse_shapes(shapes)):
            profile_sizes(file, json, chosen, sizes, feeds, shapes)
        else:
            _profile(file, json, replace(chosen, inputs=options.samples_of(feeds, file) if feeds else None))
        return
    if feeds is not None and not compiled:
        from sparsec.graph.sizes import bound_dims

        options.arrays_of_model(feeds, file, options.parse_shapes(shapes), bound_dims(sizes))  # before minutes of work
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        artifact = file
        if not compiled:
            artifact = Path(directory) / "model.sparsec"
            compile_with_progress(file, chosen).save(artifact)
        beside = model if compiled else file
        results = _measure(artifact, None if against is Peer.NONE else beside, feeds, threads, seconds, streams=streams,
                           doubted=compiled, shapes=shapes if compiled else (),
                           dims=options.single(sizes) if compiled else None)
    _tell(results, file, threads, streams, precision, json)
    if compiled and model is None and against is None:
        console.print("--model MODEL.onnx, from which it was compiled, times onnxruntime beside it")


def _threads_of(artifact: Path, asked: int | None) -> int:
    """The threads that a session of an artifact takes, by itself where nobody asks; a UsageError where it has fewer."""
    from sparsec.artifact.file import Artifact
    from sparsec.runtime.arguments import allowed_threads

    return allowed_threads(asked, Artifact.load(artifact).manifest.threads)


def _tell(results: Sequence[Latency], file: Path, threads: int, streams: int, precision: Precision | None,
          json: Path | None) -> None:
    """Print and write what was measured, with how many times as fast as its peers sparsec is."""
    engines = [{"engine": each.engine, **asdict(each.summary), "stable": each.stable} for each in results]
    ratios = {each.engine: throughput_ratio(results[0], each) if streams > 1 else ratio(each, results[0])
              for each in _peers(results)}
    options.write_json(json, {"file": str(file), "threads": threads, "streams": streams, "precision": precision,
                              "engines": engines, "ratio": ratios})
    _print(results, counted(threads, "thread") if streams == 1 else f"{streams} streams", ratios)


def _check_uses(file: Path | None, against: Peer | None, precision: Precision | None, sweep: str | None,
                plot: Path | None, *, compiled: bool, profile: bool, formats: bool, beside: bool) -> None:
    """Refuse arguments that have no meaning together."""
    if (file is None) == (sweep is None) or (plot is not None and sweep is None):
        raise UsageError("give a model, or --sweep MxKxN, which --plot belongs to")
    if precision is not None and (file is None or compiled or formats):
        raise UsageError("--precision is for an ONNX model that is compiled first, and for --profile")
    if formats and compiled:
        raise UsageError(f"--formats times the layers of an ONNX model; {file} is compiled")
    if profile and not formats and against not in (None, Peer.NONE):
        raise UsageError("--profile times the layers of a model, without --against")
    if compiled and against is Peer.ONNXRUNTIME and not beside:
        raise UsageError(f"onnxruntime cannot run {file}; give its ONNX model, too, with --model")


def _check_calls(of_compiling: Mapping[str, object], streams: int, *, model: bool, timed: bool) -> None:
    """Refuse what is for compiling where nothing is compiled, and several callers where no model is called."""
    given = [name for name, value in of_compiling.items() if value is not None]
    if given and not model:
        raise UsageError(f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for an ONNX model, which is "
                         "compiled first; --dim and --shape say what sizes of an artifact are timed")
    if streams > 1 and not timed:
        raise UsageError("--streams is for whole models, without --profile, --formats and --sweep")


def batched(file: Path, rows: int | None, known: Mapping[str, Sequence[int]]) -> list[str]:
    """Shapes, as `--shape` takes them, that give a model so many rows; none where nobody asked for rows.

    Raises:
        UsageError: no input has a symbolic first dimension, or one has further dimensions that `known` does not give.

    """
    from sparsec.graph.reader import load

    if rows is None:
        return []
    found = []
    for value in load(file, symbolic=True).graph.inputs:
        shape = list(value.shape or ())
        if value.name in known or not shape or isinstance(shape[0], int):
            continue
        if unbound := [str(size) for size in shape[1:] if not isinstance(size, int)]:
            raise UsageError(f"--batch {rows}: input '{value.name}' has further symbolic dimensions "
                             f"({', '.join(unbound)}); give its whole shape with --shape {value.name}:{rows},…")
        found.append(f"{value.name}:{','.join(map(str, (rows, *shape[1:])))}")
    if not found:
        raise UsageError(f"--batch {rows}: no input of {file} has a symbolic first dimension; export it with one")
    return found


def _measure(path: Path, beside: Path | None, feeds: Path | None, threads: int, seconds: float, *, doubted: bool,
             shapes: Sequence[str], streams: int, dims: Mapping[str, int] | None) -> list[Latency]:
    """Time an artifact, beside onnxruntime where there is a model; where that is doubted, it may be another's."""
    from sparsec.artifact.file import Artifact
    from sparsec.backends.program import SIZED
    from sparsec.compiler.portable import build_once

    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        artifact = Artifact.load(path)
        own = path
        with working("compiling for this machine"):
            built = build_once(artifact)
        if built is not artifact:  # a portable one: what opens it compiles it
            artifact, own = built, Path(directory) / "built.sparsec"
            built.save(own)
        backend = backend_named(artifact.manifest.target)
        backend.check(artifact.manifest.needs)
        alone = streams == 1 and artifact.manifest.entry != SIZED
        files = dict.fromkeys(own_engines(backend, alone=alone), str(own))
        arrays = options.inputs_for(artifact, feeds, shapes, dims)
        for line in tables.single(artifact.report, threads):
            console.print(f"sparsec {line}\n")
        if beside is not None:
            files[onnxruntime_for(backend)] = str(beside)
            if doubted:
                _tell_agreement(artifact, path, beside, arrays)
        return measure(files, arrays, threads=threads, seconds=seconds, streams=streams)


def _tell_agreement(artifact: Artifact, path: Path, model: Path, feeds: Mapping[str, np.ndarray]) -> None:
    """Print how near an artifact's outputs are to a model's; a VerificationError where they are another network's."""
    from sparsec.bench.agreement import check_agreement

    if (error := check_agreement(artifact, path, model, feeds)) is not None:
        console.print(f"outputs match onnxruntime's: largest relative error {tables.error(error)}\n")


def _check_model(model: Path | None, artifact: Path | None) -> None:
    """Refuse a model that an artifact cannot have been compiled from, and one where no artifact is timed beside it."""
    if model is None:
        return
    if artifact is None:
        raise UsageError("--model is what onnxruntime is timed on beside an artifact; an ONNX model is itself that")
    from sparsec.artifact.file import Artifact
    from sparsec.graph.reader import load

    taken = {str(value.name) for value in load(model, symbolic=True).graph.inputs}
    own = {spec.name for spec in Artifact.load(artifact).manifest.inputs}
    if taken != own:
        raise UsageError(f"{artifact} was compiled from another model than {model}: it takes the inputs "
                         f"{', '.join(sorted(own))}, and that {', '.join(sorted(taken))}")


def _profile(file: Path, json: Path | None, chosen: CompileOptions) -> None:
    """The table of the layers."""
    from sparsec.bench.profile import profile_layers

    figures = show_progress(lambda progress: profile_layers(file, replace(chosen, progress=progress)))
    options.write_json(json, {"file": str(file), "threads": chosen.threads, **asdict(figures)})
    device = chosen.backend.device
    console.print(f"{chosen.target if device else counted(chosen.threads, 'thread')}; "
                  f"rates: {figures.rates}\n")
    seen = any(row.zeros is not None for row in figures.layers)
    tables.print_table(
        ("layer", "format", "time", "share", "GFLOP/s", "bytes", "roofline", *["input zeros"] * seen),
        [(_named(row.layer), row.format or "", tables.duration(row.us), tables.percent(row.share, 1),
          "" if row.gflops is None else f"{row.gflops:.1f}", "" if row.bytes is None else tables.nbytes(row.bytes),
          "" if row.roofline is None else tables.percent(min(row.roofline, 1), 1),
          *["" if row.zeros is None else tables.percent(row.zeros, 1)] * seen) for row in figures.layers],
        ("total", "", tables.duration(figures.total_us), "", "", "", "", *[""] * seen))
    console.print(f"\nGFLOP/s count non-zeros; bytes come from {'its memory' if device else 'beyond the L1 cache'}; "
                  "roofline is the\nleast time that the rates allow as a share of the measured, at most all of it")


def _named(layer: str) -> str:
    """A layer as it is called; a kernel that TVM has fused, whose name lists all that it does, without its middle."""
    return shortened([layer], FUSED_NAME)[0] if layer.startswith("fused_") else layer


def _peers(results: Sequence[Latency]) -> list[Latency]:
    """The engines that are not sparsec."""
    return [each for each in results if not each.engine.startswith("sparsec")]


def _print(results: Sequence[Latency], how: str, ratios: Mapping[str, float]) -> None:
    """The table, the ratios, and a warning where the rounds disagree."""
    rows = []
    for each in results:
        summary = each.summary
        times = [tables.duration(time) for time in (summary.p50_us, summary.p90_us, summary.p99_us)]
        rows.append((each.engine, *times, f"{summary.per_second:.0f}", f"{summary.open_ms:.0f} ms",
                     tables.nbytes(summary.peak_bytes)))
    tables.print_table((f"engine, {how}", "p50", "p90", "p99", "per second", "opens in", "memory"), rows)
    for name, faster in ratios.items():
        console.print(f"sparsec is {faster:.2f}x as fast as {name}, in the median of the rounds' ratios")
    if unstable := [each.engine for each in results if not each.stable]:
        console.print(f"warning: the rounds of {', '.join(unstable)} differ by more than 10 %; "
                      "quieten the machine or measure longer with --seconds")
