"""`sparsec study`: figures of papers on pruning, made anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsec.cli import options, parts, tables
from sparsec.cli.prune import require_torch, training_progress
from sparsec.cli.tables import console
from sparsec.errors import UsageError

if TYPE_CHECKING:
    from sparsec.models.study import Plan, Point

ALL = "all"
"""In place of the names of figures."""


def command(
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Directory of the plots.")],
    quick: Annotated[bool, typer.Option(help="Fewer methods, one seed: under a minute.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of every experiment.")] = 3,
    methods: Annotated[list[str], typer.Option(
        "--method", help="A method as the plots name it, such as 'SNIP'; may be repeated; all if not given.")] = [],  # noqa: B006 - typer copies it
    compressions: Annotated[list[float], typer.Option(
        "--compression", min=1, help="Dense weights over what is left; may be repeated; 2 to 20,000 if not "
        "given.")] = [],  # noqa: B006 - typer copies it
    figures: Annotated[list[str], typer.Option(
        "--figure", help="Draw this in place of all methods: quotas, layers, random, magnitude, effective, "
        "sparsity, or all of them; may be repeated.")] = [],  # noqa: B006 - typer copies it
    network: Annotated[str, typer.Option(help="lenet300, lenet300-bn or lenet5.")] = "lenet300-bn",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of every training.")] = 40,
    on: parts.On = parts.LOCAL,
    resume: parts.Resume = None,
) -> None:
    """Compare pruning methods on the LeNets, with plots.

    Accuracy and effective against direct compression on the digits. Methods and seeds are independent parts.
    """
    require_torch()
    parts.check(on)
    from sparsec.models.networks import NETWORKS

    if network not in NETWORKS or not NETWORKS[network].digits:
        raise UsageError(f"--network {network}: choose from "
                         f"{', '.join(name for name, each in NETWORKS.items() if each.digits)}")
    if figures:
        if resume is not None or on != parts.LOCAL:
            raise UsageError("--figure takes neither --on nor --resume")
        draw_figures(output, figures, network, tuple(compressions), range(seeds), epochs)
        return
    from sparsec.models.study import COMPRESSIONS, METHODS, QUICK, Plan
    from sparsec.models.study_plots import plot_accuracy, plot_compression
    from sparsec.report.figures import save

    if unknown := [method for method in methods if method not in METHODS]:
        raise UsageError(f"unknown method '{unknown[0]}': choose from {', '.join(METHODS)}")
    plan = Plan(tuple(methods or METHODS), tuple(compressions or COMPRESSIONS), range(seeds), epochs, network)
    dense, points = _run(QUICK if quick else plan, on, resume)
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in (("compression", plot_compression(points, plan.network)),
                         ("accuracy", plot_accuracy(points, dense, plan.network))):
        for suffix in ("png", "svg"):
            save(figure, output / f"{name}.{suffix}")
    options.write_json(output / "study.json",
                       {"dense_accuracy": dense, "points": [dataclasses.asdict(point) for point in points]})
    tables.print_table(
        ("method", "seed", "direct", "effective", "accuracy"),
        [(p.method, p.seed, f"{p.direct:.1f}", f"{p.effective:.1f}", f"{100 * p.accuracy:.1f} %") for p in points],
    )
    console.print(f"\ndense accuracy {100 * dense:.1f} %")
    console.print(f"{output}: compression and accuracy as .png and .svg, study.json")


def _run(plan: Plan, on: str, folder: Path | None) -> tuple[float, list[Point]]:
    """The mean accuracy of the dense networks, and the points in the order of the plan."""
    from sparsec.models.study import Point, run, run_part

    if on == parts.LOCAL and folder is None:
        with training_progress() as progress:
            return run(plan, progress)
    calls = [parts.Part((method, list(plan.compressions), seed, plan.epochs, plan.network))
             for seed in plan.seeds for method in plan.methods]
    found = {}
    with training_progress() as progress:
        for number, result in parts.run(run_part, calls, on, folder):
            found[number] = result
            progress(calls[number].arguments[0], len(found), len(calls))
    dense = [each["dense"] for each in found.values()]
    return sum(dense) / len(dense), [Point(**point) for _, each in sorted(found.items()) for point in each["points"]]


def draw_figures(output: Path, names: list[str], network: str, compressions: tuple[float, ...], seeds: range,
                 epochs: int) -> None:
    """Measure and draw figures by name.

    Raises:
        UsageError: there is no such figure.

    """
    from sparsec.models.study_figures import COMPRESSIONS, FIGURES, Asked
    from sparsec.report.figures import save

    names = [*FIGURES] if ALL in names else names
    if unknown := [name for name in names if name not in FIGURES]:
        raise UsageError(f"unknown figure '{unknown[0]}': choose from {', '.join(FIGURES)}, {ALL}")
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        with training_progress() as progress:
            asked = Asked(network, compressions or COMPRESSIONS, seeds, epochs, speedup, progress)
            figures, numbers = FIGURES[name](asked)
        for each, figure in figures.items():
            save(figure, output / f"{each}-{network}.svg")
        options.write_json(output / f"{name}-{network}.json", dict(numbers))
        console.print(f"{output}: {', '.join(figures)} of {network} as .svg, {name}-{network}.json")


def speedup(dense: Any, model: Any, example: Any) -> float:
    """How many times as fast as the dense network another is, both compiled for one thread, timed in turns."""
    from tempfile import TemporaryDirectory

    import onnx

    from sparsec.models.onnx_export import export
    from sparsec.oneshot.clock import Clock
    from sparsec.target import resolve

    with TemporaryDirectory() as folder:
        protos = []
        for each in (dense, model):
            export(each, Path(folder) / "m.onnx", (example,))
            protos.append(onnx.load(Path(folder) / "m.onnx"))
    feeds = {protos[0].graph.input[0].name: example.numpy()}
    return 1 / Clock(protos[0], feeds, {"target": resolve("cpu"), "threads": 1}).times(protos[1]).share
