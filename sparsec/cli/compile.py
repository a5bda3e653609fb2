"""`sparsec compile`: from an ONNX model to an artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparsec.cli import options, tables
from sparsec.cli.progress import progress_bar
from sparsec.target import resolve

T = TypeVar("T")


class Goal(Enum):
    """What to optimise for."""

    LATENCY = "latency"
    BALANCED = "balanced"
    SIZE = "size"


class Tuning(Enum):
    """Ways to choose kernels."""

    MEASURE = "measure"
    OFF = "off"


class Precision(Enum):
    """The keys of `PRECISIONS` and `HALF_PRECISIONS` in `sparsec.cost.option`."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


def command(
    model: options.ModelFile,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", dir_okay=False, help="The artifact; MODEL.sparsec in this directory if not given.")] = None,
    target: options.Target = "cpu",
    threads: options.Threads = 1,
    shapes: options.Sizes = [],  # noqa: B006 - typer copies it
    inputs: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False,
        help="An .npz file of real inputs, to verify on besides random ones and to calibrate int8; arrays with n times "
        "the rows that the model takes are n samples.")] = None,
    tune: Annotated[Tuning, typer.Option(
        help="Time the best few kernels of every layer, or trust the cost model.")] = Tuning.MEASURE,
    tune_seconds: Annotated[float, typer.Option(min=0, help="What measuring may take in all.")] = 45.0,
    precision: Annotated[Precision | None, typer.Option(
        help="On CPUs the fewest bits that a layer may compute with, fp32 if not given; on GPUs fp16 or bf16, what "
        "activations are stored in. Sums are float32.", show_default=False)] = None,
    project_2of4: Annotated[bool, typer.Option(
        "--project-2of4", help="On GPUs, drop all but the two largest of every four weights, and say what that costs.",
        )] = False,
    optimize: Annotated[Goal, typer.Option(
        help="Fastest; the same with weights in the smallest formats; or smallest that is no slower than dense.")] = (
        Goal.LATENCY),
    codec: Annotated[str, typer.Option(
        help="How balanced and size store values; `sparsec formats` lists the codecs.")] = "f32",
    max_error: Annotated[float | None, typer.Option(
        min=0, help="Largest error of an output relative to its largest magnitude; else 1e-4, bf16 2e-2, int8 5e-2, "
                    "and none for codebooks.",
        )] = None,
    measure_on: Annotated[str | None, typer.Option(
        metavar="rpc://HOST:PORT/KEY", help="Measure on the servers of a key behind TVM's RPC tracker.")] = None,
    verify: Annotated[bool, typer.Option(help="Compare the outputs with onnxruntime's.")] = True,
    strict: Annotated[bool, typer.Option(help="Refuse layers that sparsec's own kernels cannot take.")] = False,
    strict_ieee: Annotated[bool, typer.Option(
        "--strict-ieee", help="Let zero weights make NaN of infinities and NaN: strip nothing, keep layers dense.",
        )] = False,
    dump_ir: Annotated[Path | None, typer.Option(
        file_okay=False, help="Write the graph after every pass to this directory.")] = None,
    sign: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="Sign the artifact with this private Ed25519 key in PEM.")] = None,
    portable: Annotated[bool, typer.Option(
        "--portable", help="Write no native code: the machine that opens the artifact compiles it.")] = False,
    json: options.JsonFile = None,
) -> None:
    """Compile a model and check its outputs against onnxruntime's."""
    from sparsec.artifact import signing
    from sparsec.machine.files import write_atomic
    from sparsec.report.describe import describe_artifact

    output = output or Path(model.with_suffix(".sparsec").name)
    options.check_folder(output)
    if sign:
        signing.sign(b"", sign)  # a key that cannot be read is better known before compiling
    artifact = (pack if portable else compile_with_progress)(
        model, target=target, threads=threads, shapes=options.parse_sizes(shapes),
        inputs=options.read_arrays(inputs) if inputs else None, verify=verify, strict=strict, strict_ieee=strict_ieee,
        tune=tune.value, tune_seconds=tune_seconds, measure_on=measure_on,
        precision=precision and precision.value, project_2of4=project_2of4, optimize=optimize.value, codec=codec,
        max_error=max_error, dump_ir=dump_ir)
    artifact.save(output)
    if sign:
        write_atomic(signing.signature_path(output), signing.sign(artifact.to_bytes(), sign))
    description = describe_artifact(artifact, output.stat().st_size)
    options.write_json(json, description)
    print_summary(description, str(output), model.stat().st_size)


def pack(model: Path, *, inputs: Any, measure_on: str | None, dump_ir: Path | None, **arguments: Any) -> Any:
    """`sparsec.compiler.portable.pack`, which has no use for what belongs to the machine that compiles."""
    from sparsec.compiler.portable import pack as pack_model
    from sparsec.errors import UsageError

    if inputs is not None or measure_on is not None or dump_ir is not None:
        raise UsageError("--portable compiles nothing: --inputs, --measure-on and --dump-ir belong to the machine that "
                         "does")
    return pack_model(model, **arguments)


def compile_with_progress(model: Path, *, target: str, **arguments: Any) -> Any:
    """`sparsec.compile` with a progress bar on the standard error."""
    resolved = resolve(target)  # before the compiler is imported, which takes seconds
    from sparsec.compiler.compile import compile as compile_model

    return show_progress(lambda progress: compile_model(model, resolved, progress=progress, **arguments))


def show_progress(work: Callable[[Callable[[str, float], None]], T]) -> T:
    """The result of some work, with a progress bar on the standard error meanwhile."""
    columns = TextColumn("{task.description:>8}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with progress_bar(*columns) as progress:
        task = progress.add_task("read", total=1.0)
        return work(lambda step, done: progress.update(task, description=step, completed=done))


def print_summary(description: dict[str, Any], path: str, model_bytes: int) -> None:
    """The table by format, the verification and the sizes."""
    def row(name: str, sums: dict[str, Any]) -> tuple[str, ...]:
        return (name, str(sums["layers"]), tables.percent(sums["nonzeros"], sums["weights"]),
                tables.nbytes(sums["bytes"]), tables.duration(sums["predicted_us"]))

    tables.print_buckets(description)
    tables.print_table(("format", "layers", "weights kept", "bytes", "predicted"),
                       [row(sums["format"], sums) for sums in description["formats"]],
                       row("total", description["totals"]))
    for layer in description["outside"]:
        tables.console.print(f"{layer['layer']} runs without sparsec's kernels: {layer['reason']}", soft_wrap=True)
    if lost := [layer["projection_error"] for layer in description["layers"] if "projection_error" in layer]:
        tables.console.print(f"\nprojected {len(lost)} layers to 2:4: of a weight's norm, {min(lost):.1%} to "
                             f"{max(lost):.1%} are lost", soft_wrap=True)
    if batch := _batch(description.get("batch")):
        tables.console.print(f"\n{batch}", soft_wrap=True)
    if stripped := _stripped(description["strip"]):
        tables.console.print(f"\n{stripped}", soft_wrap=True)
    tables.console.print(f"\n{_verdict(description['verification'])}{_narrow(description['layers'])}", soft_wrap=True)
    sizes = tables.nbytes(description["file_bytes"]), tables.nbytes(model_bytes)
    tables.console.print(f"{path}: {sizes[0]}; the model was {sizes[1]}", soft_wrap=True)


def _batch(batch: dict[str, Any] | None) -> str:
    """How many rows run at once, and why."""
    if not batch:
        return ""
    shares = "at once" if batch["parts"] == 1 else f"as {batch['parts']} shares of {batch['share']}"
    return f"batch: {batch['rows']} rows {shares}, {batch['reason']}"


def _stripped(strip: dict[str, Any] | None) -> str:
    """What the strip pass removed, and the compression that pruning claimed and reached."""
    changes = [f"{count:,} {what}" for what, count in strip["counts"].items() if count] if strip else []
    if not strip or not changes:
        return ""
    ratios = [strip["total"][f"{kind}_compression"] for kind in ("direct", "effective")]
    direct, effective = ("all" if ratio is None else f"{ratio:.1f}x" for ratio in ratios)
    return f"stripped: {', '.join(changes)}; compression {direct} direct, {effective} effective"


def _narrow(layers: Sequence[dict[str, Any]]) -> str:
    """How many layers compute with fewer bits, and which of them errs most by itself."""
    judged = [layer for layer in layers if layer.get("error") is not None]
    if not judged:
        return ""
    worst = max(judged, key=lambda layer: layer["error"])
    counts = Counter(layer["kernel"] for layer in judged)
    kernels = ", ".join(f"{count} by {name}" for name, count in counts.most_common())
    return (f"\n{len(judged)} of {len(layers)} layers compute with fewer bits ({kernels}); the worst by itself, "
            f"'{worst['layer']}', errs by {worst['error']:.1e} of its largest product")


def _integers(steps: dict[str, Any] | str | None) -> str:
    """How near quantised tensors are to the file's."""
    if not steps:
        return ""
    if isinstance(steps, str):
        return f"; quantised tensors were not compared: {steps}"
    return (f"; {steps['tensors']} tensors computed on integers equal those of the file, {steps['one_step']:,} of "
            f"{steps['codes']:,} codes one step apart")


def _verdict(verification: dict[str, Any] | None) -> str:
    if verification is None:
        return "not verified"
    if "skipped" in verification:
        return f"not verified: {verification['skipped']}"
    worst = max(verification["relative_error"].values(), default=0.0)
    classes = "".join(f"; {share:.0%} of '{name}' have the same class"
                      for name, share in verification["same_class"].items())
    classes += _integers(verification.get("steps")) + (
        "; the model's 16 bits were float32 there" if verification.get("widened") else "")
    if verification["tolerance"] is None:
        return (f"outputs differ from {verification['reference']}'s by {worst:.1e} of their largest: shared weights "
                f"have no limit but --max-error{classes}")
    return (f"outputs match {verification['reference']}: largest relative error {worst:.1e}, "
            f"tolerance {verification['tolerance']:.0e}{classes}")
