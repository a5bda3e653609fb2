"""`sparsec prune`: an ONNX file pruned from samples, or a reference network, pruned, trained and exported to ONNX."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from sparsec.cli import options, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.prune_file import prune_file
from sparsec.cli.tables import console
from sparsec.errors import ToolchainError, UsageError


def command(
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The ONNX file to write.")],
    source: Annotated[str | None, typer.Argument(
        metavar="[MODEL]", help="An ONNX file, which is pruned from --inputs without PyTorch; or the name of a "
        "network, as --model has it.")] = None,
    model: Annotated[str | None, typer.Option(
        help="lenet300, lenet300-bn, lenet5, vgg16, vgg19, resnet18, resnet50, mobilenetv2 or bert.")] = None,
    inputs: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="Of a file: an .npz file of real inputs; arrays with n times the rows that "
        "the model takes are n samples.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of the weights to remove; N:M fixes it.")] = None,
    criterion: Annotated[str | None, typer.Option(
        help="Of a file: obs, wanda or magnitude; obs if not given. Of a network: magnitude, lamp, random, snip, "
             "snip-iterative, grasp, synflow, obd, obs, taylor, filter-norm or batchnorm; magnitude if not given.",
        show_default=False)] = None,
    pattern: Annotated[str | None, typer.Option(
        help="unstructured, RxC (4x1) or N:M (2:4); of a network filters and heads, too.")] = None,
    quota: Annotated[str | None, typer.Option(
        help="uniform, erk, or global to compare all layers; of a network uniform+ and igq, too.")] = None,
    schedule: Annotated[str, typer.Option(help="one-shot, iterative, gradual, imp, set or rigl.")] = "one-shot",
    rounds: Annotated[int | None, typer.Option(min=1, help="Steps on the way to the target.")] = None,
    effective: Annotated[bool, typer.Option(help="The target counts weights that are cut off as removed.")] = False,
    tolerance: Annotated[float, typer.Option(help="How far the density may be from an effective target.")] = 0.01,
    keep: Annotated[list[str], typer.Option(help="Pattern of weights that stay dense; may be repeated.")] = [],  # noqa: B006 - typer copies it
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of every training; 0 trains nothing.")] = 60,
    data: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="An .npz file with `inputs` and `labels` to train on.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    json: options.JsonFile = None,
) -> None:
    """Prune an ONNX file from samples; or prune a reference network, train what is left, and export it.

    The LeNets are trained on scikit-learn's digits.
    """
    if source is not None and is_file(source):
        from sparsec.oneshot.file import Method

        only = {"--model": model, "--rounds": rounds, "--effective": effective or None, "--data": data,
                "--schedule": schedule if schedule != "one-shot" else None}
        if wrong := [name for name, value in only.items() if value is not None]:
            raise UsageError(f"{wrong[0]} is for reference networks; {source} is a file")
        prune_file(Path(source), inputs, output, sparsity, Method(
            criterion or "obs", pattern or "unstructured", quota or "uniform", tuple(keep)), json)
        return
    if (model is None) is (source is None):
        raise UsageError("give an ONNX file, or the name of a network, and not both")
    if inputs is not None:
        raise UsageError("--inputs is for ONNX files; a network is trained on --data")
    require_torch()
    from sparsec.models.networks import network
    from sparsec.models.onnx_export import export
    from sparsec.models.pruning import Options
    from sparsec.models.recipe import Recipe, make

    name = model or source or ""
    choice = Options(criterion or "magnitude", pattern, quota, schedule, rounds, effective, tolerance, keep)
    recipe = Recipe(name, sparsity, choice, epochs, _read_data(data), seed)
    with training_progress() as progress:
        outcome = make(recipe, progress)
    export(outcome.model, output, (network(name).example(),))
    description = describe(outcome)
    options.write_json(json, description)
    _print(description, output)


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
    console.print(f"{output}: {tables.nbytes(output.stat().st_size)}", soft_wrap=True)
