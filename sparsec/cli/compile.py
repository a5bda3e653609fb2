"""`sparsec compile`: from an ONNX model to an artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparsec import files
from sparsec.artifact.manifest import PORTABLE
from sparsec.backends.base import GOALS
from sparsec.backends.registry import backend_named
from sparsec.cli import options, tables
from sparsec.cli.flags import Flag, described, taking
from sparsec.cli.model_file import describe
from sparsec.cli.progress import progress_bar
from sparsec.compiler.options import DEPENDENT_LAUNCH, CompileOptions
from sparsec.cost.calibration import SHIPPED
from sparsec.cost.precisions import CALIBRATED
from sparsec.errors import UsageError, counted
from sparsec.target import ACCELERATORS

if TYPE_CHECKING:  # the compiler's packages are imported by the command, so that others start fast
    from sparsec.artifact.file import Artifact

T = TypeVar("T")


Precision = Literal["fp32", "fp16", "bf16", "int8", "int4", "fp8"]
"""Those of all targets; `CompileOptions` refuses what the target at hand has not."""

FEWER_BITS = ("bf16", *CALIBRATED)
"""Of kernels whose names say so."""

DEFAULTS, HELP = CompileOptions(), described(CompileOptions)


def _flag(name: str, kind: Any, read: Callable[[Any], Any] | None = None, **about: Any) -> Flag:
    """The flag of an option, with the option's description and default."""
    typed = Annotated[kind, typer.Option(*about.pop("names", ()), help=HELP[name], **about)]
    return Flag(typed, getattr(DEFAULTS, name), *([] if read is None else [read]))


FLAGS = {
    "target": Flag(options.Target, DEFAULTS.target),
    "threads": Flag(options.Threads, DEFAULTS.threads),
    "shapes": Flag(options.Sizes, [], options.parse_sizes),
    "dims": Flag(options.Dims, [], options.parse_dims),
    "inputs": _flag("inputs", Path | None, lambda path: path and options.read_arrays(path), exists=True, dir_okay=False,
                    metavar="FILE.npz"),
    "tune": _flag("tune", Literal["measure", "off"]),
    "tune_seconds": _flag("tune_seconds", float, min=0),
    "precision": _flag("precision", Precision | None, show_default=False),
    "dependent_launch": _flag("dependent_launch", Literal[DEPENDENT_LAUNCH]),
    "project_2of4": _flag("project_2of4", bool, names=("--project-2of4",)),
    "optimize": _flag("optimize", Literal[GOALS]),
    "codec": _flag("codec", str),
    "max_error": _flag("max_error", float | None, min=0),
    "measure_on": _flag("measure_on", str | None, metavar="rpc://HOST:PORT/KEY"),
    "verify": _flag("verify", bool),
    "strict": _flag("strict", bool),
    "strict_ieee": _flag("strict_ieee", bool, names=("--strict-ieee",)),
    "dump_ir": _flag("dump_ir", Path | None, file_okay=False),
}
"""By option of `sparsec.compile`, the flag that gives it."""


LIBRARY_OF = "SessionOptions.register_custom_ops_library(sparsec.onnxruntime_library())"
PROVIDER_OF = "SessionOptions.add_provider_for_devices(sparsec.register_onnxruntime(), {})"
"""What lets onnxruntime run the files of `--as-onnx` and of `--ep-context`."""


@taking(FLAGS)
def command(
    model: options.ModelFile,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", dir_okay=False, help="The artifact; MODEL.sparsec in this directory if not given.")] = None,
    sign: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="Sign the artifact with this private Ed25519 key in PEM.")] = None,
    portable: Annotated[bool, typer.Option(
        "--portable", help="Write no native code: the machine that opens the artifact compiles it.")] = False,
    as_onnx: Annotated[Path | None, typer.Option(
        "--as-onnx", dir_okay=False, help="Write an ONNX file, too, which onnxruntime runs as one node.",
        )] = None,
    ep_context: Annotated[bool, typer.Option(
        "--ep-context", help="That node is an EPContext of sparsec's execution provider.")] = False,
    json: options.JsonFile = None,
    **given: Any,
) -> None:
    """Compile a model and check its outputs against onnxruntime's."""
    from sparsec.artifact import signing
    from sparsec.report.describe import describe_artifact

    if as_onnx and portable:
        raise UsageError("--as-onnx writes native code, and --portable none; leave one of them out")
    if ep_context and not as_onnx:
        raise UsageError("--ep-context is the form of the file that --as-onnx writes; give that, too")
    output = output or Path(model.with_suffix(".sparsec").name)
    for path in (output, *filter(None, [as_onnx])):
        options.check_folder(path)
    if sign:
        signing.sign(b"", sign)  # a key that cannot be read is better known before compiling
    chosen = CompileOptions(**given)
    options.tell_of_cores(chosen.threads)
    artifact = pack(model, chosen) if portable else compile_with_progress(model, chosen)
    artifact.save(output)
    if as_onnx:
        from sparsec.native.as_onnx import as_onnx as written

        files.write(as_onnx, written(artifact, ep_context=ep_context))
    if sign:
        signing.sign_file(output, sign)
    description = describe_artifact(artifact, output.stat().st_size)
    options.write_json(json, description)
    print_summary(description, str(output), describe(model).nbytes)
    if as_onnx:
        tables.console.print(f"{as_onnx}: {tables.nbytes(as_onnx.stat().st_size)}; onnxruntime takes it after "
                             f"{PROVIDER_OF if ep_context else LIBRARY_OF}")


def pack(model: Path, chosen: CompileOptions) -> Artifact:
    """The portable artifact, which has no use for what belongs to the machine that compiles."""
    from sparsec.compiler.portable import pack as pack_model

    if local := [f"--{name.replace('_', '-')}" for name in chosen.local]:
        raise UsageError(f"--portable compiles nothing: {', '.join(local)} belong to the machine that does")
    return pack_model(model, chosen)


def compile_with_progress(model: Path, chosen: CompileOptions) -> Artifact:
    """The compiled artifact, with a progress bar on the standard error meanwhile."""
    from sparsec.compiler.compile import compile_model

    return show_progress(lambda progress: compile_model(model, replace(chosen, progress=progress)))


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

    sizes = (f"{path}: {tables.nbytes(description['file_bytes'])}; the model was {tables.nbytes(model_bytes)}")
    if description["target"] == PORTABLE:
        tables.console.print(f"nothing is compiled yet: who opens the artifact compiles and verifies it there\n{sizes}")
        return
    tables.print_buckets(description)
    rows = description["rows"]
    tables.print_table(("format", "layers", "weights kept", "bytes",
                        f"predicted for {counted(rows[-1]['rows'], 'row')}" if rows else "predicted"),
                       [row(sums["format"], sums) for sums in description["formats"]],
                       row("layers with weights", description["totals"]))
    if (network := description.get("network_us")) is not None:
        tables.console.print(f"the whole network: {tables.duration(network)} predicted"
                             f"{tables.overlapping(network, description['totals']['predicted_us'])}")
    if description.get("rates") == SHIPPED and description["target"] not in ("eie", *ACCELERATORS):
        tables.console.print("predicted with the rates of another processor; `sparsec calibrate` measures this one, "
                             "once, in two minutes")
    for line in (*tables.single(description, description["threads"]), *tables.early(description),
                 *_by_rows(rows, description["layers"]), *tables.timed(description["layers"]),
                 *tables.outside(description["outside"])):
        tables.console.print(line)
    if refused := _on_host(description["layers"]):
        tables.console.print(refused)
    if projected := _projected(description["layers"]):
        tables.console.print(f"\n{projected}")
    if batch := _batch(description.get("batch")):
        tables.console.print(f"\n{batch}")
    if stripped := _stripped(description["strip"]):
        tables.console.print(f"\n{stripped}")
    verdict = _verdict(description["verification"], description["target"])
    tables.console.print("\n" + "\n".join(line for line in (verdict, narrow_told(description)) if line))
    tables.console.print(sizes)


def _by_rows(rows: Sequence[dict[str, Any]], layers: Sequence[dict[str, Any]]) -> list[str]:
    """What the layers take for the numbers of rows that there are kernels for, where there are."""
    if not rows:
        return []
    each = ", ".join(f"{tables.duration(row['predicted_us'])} for {row['rows']}" for row in rows)
    what = "row" if len(rows) == 1 and rows[0]["rows"] == 1 else "rows"
    text = f"for any size: the layers are predicted to take {each} {what}, and more are made of such calls"
    alike = [(few["rows"], more["rows"]) for few, more in pairwise(rows) if few["predicted_us"] == more["predicted_us"]]
    text += "".join(f"; {few} rows are priced as {more}" for few, more in alike)
    if names := dict.fromkeys(layer["layer"] for layer in layers
                              if layer.get("rows") and layer["operator"] == "Recurrence"):
        from sparsec.compiler.sized.recurrent import STEPS

        text += f"; recurrent layers are priced for {STEPS} steps of so many members of a batch: {', '.join(names)}"
    return [text]


def _projected(layers: Sequence[dict[str, Any]]) -> str:
    """What projecting to 2:4 has lost, and how many layers it has left alone."""
    lost = [layer["projection_error"] for layer in layers if "projection_error" in layer]
    if not lost:
        return ""
    left = len(layers) - len(lost)
    rest = f"; {left} stay as they were: their inputs are no multiple of 4" if left else ""
    return (f"projected {len(lost)} of {len(layers)} layers to 2:4: of a weight's norm, {100 * min(lost):.1f} % to "
            f"{100 * max(lost):.1f} % are lost{rest}")


def _batch(batch: dict[str, Any] | None) -> str:
    """How many rows run at once, and why."""
    if not batch:
        return ""
    shares = "at once" if batch["parts"] == 1 else f"as {batch['parts']} shares of {batch['share']}"
    return f"batch: {batch['rows']} rows {shares}, {batch['reason']}"


def _stripped(strip: dict[str, Any] | None) -> str:
    """What the strip pass removed, and the compression that pruning claimed and reached."""
    changes = [tables.told(count, what) for what, count in strip["counts"].items() if count] if strip else []
    if not strip or not changes:
        return ""
    ratios = [strip["total"][f"{kind}_compression"] for kind in ("direct", "effective")]
    direct, effective = (None if ratio is None else f"{ratio:.1f}x" for ratio in ratios)
    reached = "no path is left" if effective is None else f"{effective} effective"
    return f"stripped: {', '.join(changes)}; compression {direct or 'by zeros alone'} direct, {reached}"


def narrow_told(description: dict[str, Any]) -> str:
    """How many layers compute with fewer bits, and which of them errs most by itself; why none does where some may."""
    layers, precision = description["layers"], description["precision"]
    fewer = precision in CALIBRATED or (precision == "bf16" and "fp32" in
                                      backend_named(description["target"]).precisions)
    judged = [layer for layer in layers if layer.get("error") is not None]
    exact = {layer["layer"]: layer for layer in layers if layer.get("error") is None}
    every = len({layer["layer"] for layer in layers})
    kept = _passed_over([layer for layer in exact.values() if layer.get("passed_over")], every)
    beside = "; ".join(part for part in (_widened(layers), _beside(description.get("narrow", []))) if part)
    if judged:
        worst = max(judged, key=lambda layer: layer["error"])
        kernels = Counter(name for name, _ in {(layer["kernel"], layer["layer"]): 0 for layer in judged})
        by_kernel = ", ".join(f"{count} by {name}" for name, count in kernels.most_common())
        text = (f"{len({layer['layer'] for layer in judged})} of {every} layers compute with fewer bits ({by_kernel}); "
                f"the worst by itself, '{worst['layer']}', errs by {worst['error']:.1e} of its largest product")
        return "; ".join(part for part in (text, kept, beside) if part)
    if not fewer or any(name in layer["kernel"] for name in FEWER_BITS for layer in layers):
        return beside
    why = kept or f"none has a faster kernel by --precision {precision}"
    return "; ".join(part for part in (f"no layer with weights computes with fewer bits: {why}", beside) if part)


def _widened(layers: Sequence[dict[str, Any]]) -> str:
    """How many layers compute in half precision that might have fewer bits, by reason."""
    reasons = Counter(layer["widened"] for layer in layers if layer.get("widened"))
    return "; ".join(f"{count} of {len(layers)} layers stay in half precision: {why}"
                     for why, count in reasons.most_common())


def _passed_over(layers: Sequence[dict[str, Any]], every: int) -> str:
    """How many of all layers stay exact because faster kernels err too much, and by how much at least."""
    if not layers:
        return ""
    least = min(layers, key=lambda layer: min(layer["passed_over"].values()))
    kernel, error = min(least["passed_over"].items(), key=lambda item: item[1])
    return (f"{len(layers)} of {every} layers would with fewer bits err by more than --max-error allows, "
            f"'{least['layer']}' least, by {error:.1e} ({kernel})")


def _beside(narrow: Sequence[dict[str, Any]]) -> str:
    """The operators without weights that compute with fewer bits, by kind."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for each in narrow:
        kinds.setdefault((each["operator"], each["precision"]), []).append(each["layer"])
    return "; ".join(f"{counted(len(names), 'operator')} without weights ({operator}, such as '{names[0]}') "
                     f"compute{'s' if len(names) == 1 else ''} in {precision}"
                     for (operator, precision), names in kinds.items())


def _integers(steps: dict[str, Any] | str | None) -> str:
    """How near quantised tensors are to the file's."""
    if not steps:
        return ""
    if isinstance(steps, str):
        return f"; quantised tensors were not compared: {steps}"
    return (f"; {steps['tensors']} tensors computed on integers equal those of the file, {steps['one_step']:,} of "
            f"{steps['codes']:,} codes one step apart")


def _on_host(layers: list[dict[str, Any]]) -> str:
    """Layers that an accelerator leaves to its host, whose time is not predicted."""
    reasons = [layer["reason"] for layer in layers if layer["reason"].startswith("on the host")]
    return f"{len(reasons)} of {len(layers)} layers run {reasons[0]}; their time is not counted" if reasons else ""


def _verdict(verification: dict[str, Any] | None, target: str) -> str:
    if verification is None:
        return "not verified"
    if "skipped" in verification:
        return f"not verified: {verification['skipped']}"
    worst = max(verification["relative_error"].values(), default=0.0)
    classes = "".join(f"; {100 * share:.0f} % of '{name}' have the same class"
                      for name, share in verification["same_class"].items())
    classes += _integers(verification.get("steps")) + (
        "; the model's 16 bits were float32 there" if verification.get("widened") else "") + (
        f"; onnxruntime's own answers differ by {tables.error(spread)} with and without its optimisations"
        if (spread := verification.get("spread")) else "") + (
        f"; {refused}" if (refused := verification.get("refused")) else "")
    real, every = verification.get("real", 0), verification["inputs"]
    on = "random inputs" if not real else "the inputs given" if real == every else "random inputs and those given"
    if verification["tolerance"] is None:
        what = "its integers" if target in ACCELERATORS else "shared weights"
        return (f"outputs differ from {verification['reference']}'s by {tables.error(worst)} of their largest on {on}: "
                f"{what} have no limit but --max-error{classes}")
    close = f"largest relative error {tables.error(worst)}" if worst else "equal to the bit"
    return (f"outputs match {verification['reference']} on {on}: {close}, tolerance {verification['tolerance']:.0e}"
            f"{classes}")
