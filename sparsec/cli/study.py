"""`sparsec study`: the plots of effective sparsity, made anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import options, tables
from sparsec.cli.prune import require_torch, training_progress
from sparsec.cli.tables import console
from sparsec.errors import UsageError


def command(
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Directory of the plots.")],
    quick: Annotated[bool, typer.Option(help="Fewer methods, one seed: under a minute.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of every experiment.")] = 3,
    methods: Annotated[list[str], typer.Option(
        "--method", help="A method as the plots name it, such as 'SNIP'; may be repeated; all if not given.")] = [],  # noqa: B006 - typer copies it
    compressions: Annotated[list[float], typer.Option(
        "--compression", min=1, help="Dense weights over what is left; may be repeated; 2 to 20,000 if not "
        "given.")] = [],  # noqa: B006 - typer copies it
) -> None:
    """Compare pruning methods on LeNet-300-100, with plots.

    Accuracy and effective against direct compression on the digits.
    """
    require_torch()
    from sparsec.models.study import COMPRESSIONS, METHODS, QUICK, Plan, run
    from sparsec.models.study_plots import plot_accuracy, plot_compression

    if unknown := [method for method in methods if method not in METHODS]:
        raise UsageError(f"unknown method '{unknown[0]}': choose from {', '.join(METHODS)}")
    plan = Plan(tuple(methods or METHODS), tuple(compressions or COMPRESSIONS), range(seeds))
    with training_progress() as progress:
        dense, points = run(QUICK if quick else plan, progress)
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in (("compression", plot_compression(points)), ("accuracy", plot_accuracy(points, dense))):
        for suffix in ("png", "svg"):
            figure.savefig(output / f"{name}.{suffix}")
    options.write_json(output / "study.json",
                       {"dense_accuracy": dense, "points": [dataclasses.asdict(point) for point in points]})
    tables.print_table(
        ("method", "seed", "direct", "effective", "accuracy"),
        [(p.method, p.seed, f"{p.direct:.1f}", f"{p.effective:.1f}", f"{100 * p.accuracy:.1f} %") for p in points],
    )
    console.print(f"\ndense accuracy {100 * dense:.1f} %")
    console.print(f"{output}: compression and accuracy as .png and .svg, study.json")
