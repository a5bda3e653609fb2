"""`sparsec prune`: an ONNX file pruned from samples, or a reference network, pruned, trained and exported to ONNX."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from sparsec.cli import options, parts, tables
from sparsec.cli.model_file import rewrite_sparse
from sparsec.cli.progress import progress_bar
from sparsec.cli.prune_advice import advise_file
from sparsec.cli.prune_file import goal_of, prune_file
from sparsec.cli.prune_units import WHOLE, Files, prune_whole
from sparsec.cli.tables import console
from sparsec.errors import ToolchainError, UsageError

FILE, NETWORK = "Options for an ONNX file", "Options for a reference network"


def command(
    source: Annotated[str | None, typer.Argument(
        metavar="[MODEL]", help="An ONNX file, or the name of a reference network.")] = None,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", dir_okay=False, help="The ONNX file to write.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(
        rich_help_panel=NETWORK, help="lenet300, lenet300-bn, lenet5, vgg16, vgg19, resnet18, resnet50, mobilenetv2 "
        "or bert, which may also stand first.")] = None,
    inputs: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, rich_help_panel=FILE, help="An .npz file of some hundred real samples: arrays "
        "with n times the rows that the model takes; an .npy file where it takes one.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of the weights to remove; N:M fixes it.")] = None,
    latency: Annotated[str | None, typer.Option(
        metavar="TIME", rich_help_panel=FILE, help="Prune until it takes so long here, such as 5ms.")] = None,
    speedup: Annotated[str | None, typer.Option(
        metavar="FACTOR", rich_help_panel=FILE, help="... is so much faster than dense, such as 3x.")] = None,
    nbytes: Annotated[str | None, typer.Option(
        "--bytes", metavar="SIZE", rich_help_panel=FILE, help="... has so small weights, such as 10MB.")] = None,
    energy: Annotated[str | None, typer.Option(
        metavar="ENERGY", rich_help_panel=FILE, help="... takes so much on EIE, such as 20uJ.")] = None,
    max_error: Annotated[float | None, typer.Option(
        rich_help_panel=FILE, help="The fastest whose outputs err by so much at most.")] = None,
    resume: Annotated[Path | None, typer.Option(
        file_okay=False, rich_help_panel=FILE, help="A folder to keep finished layers in, and go on.")] = None,
    target: Annotated[str | None, typer.Option(
        rich_help_panel=FILE, help="What times and --advise are for, cpu if not given; with a sparsity it prints that "
        "advice, too. On CPUs zeros anywhere pay, and more so in blocks such as 4x1; on CUDA 2:4.",
        show_default=False)] = None,
    advise: Annotated[bool, typer.Option(
        "--advise", rich_help_panel=FILE, help="Only say what each pattern would bring on --target, by its cost model; "
        "takes no --output, and --inputs only where sizes are free.")] = False,
    threads: options.Threads = 1,
    criterion: Annotated[str | None, typer.Option(
        help="Of a file obs (the usual), ria, wanda, magnitude, woodfisher or taylor; of a network mostly magnitude, "
        "and others, which docs/pruning.md lists.", show_default=False)] = None,
    pattern: Annotated[str | None, typer.Option(
        help="unstructured, RxC (4x1) or N:M (2:4); of a file balanced, units (channels and heads), unused (those that "
        "no sample activates) and branches, too; of a network filters and heads.")] = None,
    threshold: Annotated[float | None, typer.Option(
        rich_help_panel=FILE, help="For --pattern unused: units go up to this share of a layer's input.",
        show_default=False)] = None,
    quota: Annotated[str | None, typer.Option(
        help="What layers get: uniform, erk, global; of a file lamp, sensitivity, too; of a network uniform+, igq, "
        "smart-ratio, as:CRITERION.")] = None,
    schedule: Annotated[str | None, typer.Option(
        rich_help_panel=NETWORK, help="one-shot (the usual), iterative, gradual, imp and others, "
        "which docs/pruning.md lists.", show_default=False)] = None,
    rounds: Annotated[int | None, typer.Option(
        min=1, rich_help_panel=NETWORK, help="Steps on the way to the target.")] = None,
    rewind: Annotated[float | None, typer.Option(
        min=0, max=1, rich_help_panel=NETWORK, help="For --schedule imp: the share of the first training that weights "
        "go back to; 0.05 if not given.", show_default=False)] = None,
    effective: Annotated[bool, typer.Option(
        "--effective", rich_help_panel=NETWORK, help="Weights that are cut off count as removed.")] = False,
    tolerance: Annotated[float | None, typer.Option(
        rich_help_panel=NETWORK, help="Of an effective target's density; 0.01 if not given.",
        show_default=False)] = None,
    keep: Annotated[list[str], typer.Option(help="Pattern of weights that stay dense; may be repeated.")] = [],  # noqa: B006 - typer copies it
    epochs: Annotated[int | None, typer.Option(
        min=0, rich_help_panel=NETWORK, help="Of every training; 60 if not given.", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, rich_help_panel=NETWORK, help="An .npz file with `inputs` and `labels`, instead "
        "of scikit-learn's digits.")] = None,
    seed: Annotated[int | None, typer.Option(
        rich_help_panel=NETWORK, help="Of everything random; 0 if not given.", show_default=False)] = None,
    sparse_tensors: Annotated[bool, typer.Option(
        "--sparse-tensors", help="Write sparse tensors where that is smaller.")] = False,
    on: Annotated[str, typer.Option(
        "--on", metavar="local|ray://HOST:PORT", rich_help_panel=FILE, help="Where layers are pruned: here, or by a "
        "Ray cluster whose machines have the files at the same paths.")] = parts.LOCAL,
    json: options.JsonFile = None,
) -> None:
    """Prune an ONNX file from samples, or a reference network.

    What is left of a network is trained, which needs PyTorch, and exported.
    """
    if advise:
        advise_file(_file(source, "--advise"), inputs, (target or "cpu", threads), keep, json)
        return
    if source is not None and is_file(source):
        output = _given(output)
        if inputs is None:
            raise UsageError(f"{source}: give --inputs, an .npz file of samples, some hundred of them")
        others = {"--model": model, "--rounds": rounds, "--rewind": rewind, "--effective": effective or None,
                  "--data": data, "--schedule": schedule, "--tolerance": tolerance, "--epochs": epochs, "--seed": seed}
        _refuse(others, f"is for reference networks; {source} is a file")
        if pattern in WHOLE:
            given = {"--criterion": criterion, "--quota": quota, "--latency": latency, "--speedup": speedup,
                     "--bytes": nbytes, "--energy": energy, "--max-error": max_error, "--resume": resume,
                     "--on": None if on == parts.LOCAL else on}
            _refuse(given, f"is not for --pattern {pattern}, which takes --sparsity, the share of the FLOPs that go")
            files = Files(Path(source), inputs, output, json, sparse_tensors)
            prune_whole(pattern, files, sparsity, threshold, tuple(keep))
            return
        if threshold is not None:
            raise UsageError("--threshold is for --pattern unused")
        from sparsec.oneshot.file import Method

        wanted = goal_of(sparsity, latency, speedup, nbytes, energy, max_error)
        method = Method(criterion or "obs", pattern or "unstructured", quota, tuple(keep))
        prune_file(Path(source), inputs, output, wanted, method, (target or "cpu", threads), json, resume,
                   sparse=sparse_tensors, on=on, advised=target is not None)
        return
    if (model is None) is (source is None):
        raise UsageError("give an ONNX file, or the name of a network, and not both")
    only = {"--inputs": inputs, "--latency": latency, "--speedup": speedup, "--bytes": nbytes, "--energy": energy,
            "--resume": resume, "--max-error": max_error, "--threshold": threshold,
            "--on": None if on == parts.LOCAL else on}
    _refuse(only, "is for ONNX files, not for reference networks" if source is None else
            f"is for ONNX files; '{source}' is none")
    require_torch()
    from sparsec.models.networks import network
    from sparsec.models.onnx_export import export
    from sparsec.models.pruning import Options
    from sparsec.models.recipe import Recipe, make

    name = model or source or ""
    network(name)  # which is better known before a file is asked for
    output = _given(output)
    choice = Options(criterion, pattern, quota, schedule or "one-shot", rounds, effective,
                     0.01 if tolerance is None else tolerance, keep, **({} if rewind is None else {"rewind": rewind}))
    recipe = Recipe(name, sparsity, choice, 60 if epochs is None else epochs, _read_data(data), seed or 0)
    with training_progress() as progress:
        outcome = make(recipe, progress)
    export(outcome.model, output, (network(name).example(),))
    if sparse_tensors:
        rewrite_sparse(output)
    description = describe(outcome)
    options.write_json(json, description)
    _print(description, output)


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Raise UsageError where one of these options has a value."""
    if wrong := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{wrong[0]} {why}")


def _given(output: Path | None) -> Path:
    """The file to write. Raises UsageError where there is none."""
    if output is None:
        raise UsageError("give --output, the ONNX file to write")
    return output


def _file(source: str | None, option: str) -> Path:
    """The model as a file, for an option that is for those. Raises UsageError where it is none."""
    if source is None or not is_file(source):
        raise UsageError(f"{option} is for ONNX files")
    return Path(source)


def is_file(source: str) -> bool:
    """Whether a model is meant as a file: it is one, or is called like one.

    Raises:
        UsageError: there is no file of such a name.

    """
    if source.endswith(".onnx") and not Path(source).is_file():
        raise UsageError(f"{source}: there is no such file")
    return Path(source).is_file()


def require_torch() -> None:
    """Raise ToolchainError when PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise ToolchainError("this command needs PyTorch: pip install 'sparsec[models]'")


@contextmanager
def training_progress() -> Iterator[Any]:
    """A progress bar on the standard error; gives a function of what is done, and how many steps of how many are."""
    columns = TextColumn("{task.description:>24}"), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    with progress_bar(*columns) as progress:
        task = progress.add_task("")
        last = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal last
            if what != last:
                last = what
                progress.reset(task)
            progress.update(task, description=what, completed=done, total=total)

        yield show


def describe(outcome: Any) -> dict[str, Any]:
    """The figures of a pruned network: weights kept and active by layer, and accuracies."""
    pruned = outcome.pruned
    return {
        "sparsity": pruned.sparsity,
        "effective_sparsity": pruned.effective_sparsity,
        "dense_accuracy": outcome.dense_accuracy,
        "accuracy": outcome.accuracy,
        "layers": [
            {"layer": name, "shape": list(mask.shape), "weights": mask.numel(), "kept": int(mask.sum()),
             "active": int(pruned.active[name].sum())}
            for name, mask in pruned.masks.items()
        ],
    }


def _read_data(path: Path | None) -> Any:
    if path is None:
        return None
    arrays = options.read_arrays(path)
    if not {"inputs", "labels"} <= set(arrays):
        raise UsageError(f"{path}: needs the arrays `inputs` and `labels`, has {', '.join(arrays) or 'none'}")
    return arrays["inputs"], arrays["labels"].astype("int64")


def _print(description: dict[str, Any], output: Path) -> None:
    totals = {key: sum(layer[key] for layer in description["layers"]) for key in ("weights", "kept", "active")}

    def row(name: str, shape: str, counts: dict[str, Any]) -> tuple[str, ...]:
        shares = [tables.percent(counts[key], counts["weights"]) for key in ("kept", "active")]
        return name, shape, str(counts["weights"]), *shares

    tables.print_table(
        ("layer", "shape", "weights", "kept", "active"),
        [row(layer["layer"], tables.shape(layer["shape"]), layer) for layer in description["layers"]],
        row("total", "", totals),
    )
    console.print(f"\ncompression {totals['weights'] / totals['kept']:.1f}x, "
                  f"effective {totals['weights'] / totals['active']:.1f}x")
    if description["accuracy"] is not None:
        before = description["dense_accuracy"]
        dense = "" if before is None else f" (dense {100 * before:.1f} %)"
        console.print(f"accuracy on the held-out digits {100 * description['accuracy']:.1f} %{dense}")
    console.print(f"{output}: {tables.nbytes(output.stat().st_size)}")
