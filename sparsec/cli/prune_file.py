"""`sparsec prune model.onnx`: a file of one's own, pruned from samples."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsec.cli import model_file, options, parts, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.prune_advice import priced, print_advice
from sparsec.cli.prune_cluster import answers_on
from sparsec.cli.tables import console
from sparsec.errors import UsageError
from sparsec.target import resolve

if TYPE_CHECKING:
    from sparsec.oneshot.file import Method, Outcome
    from sparsec.oneshot.goal import Goal, Reached


UNITS = {"latency": {"us": 1.0, "ms": 1e3, "s": 1e6}, "speedup": {"x": 1.0, "": 1.0},
         "energy": {"nJ": 1e-3, "uJ": 1.0, "mJ": 1e3},
         "bytes": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "": 1.0}}


def goal_of(sparsity: float | None, latency: str | None, speedup: str | None, nbytes: str | None,
            energy: str | None, max_error: float | None) -> Goal | float | None:
    """What is to be reached: a sparsity, or what stands in its place; None where neither is given.

    Raises:
        UsageError: several are given, or a text that is no such quantity.

    """
    from sparsec.oneshot.goal import Goal

    texts = {"latency": latency, "speedup": speedup, "bytes": nbytes, "energy": energy}
    given: list[Goal | float] = [] if sparsity is None else [sparsity]
    for kind, text in texts.items():
        if text is None:
            continue
        found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) *([a-zA-Z]*)", text)
        if found is None or found[2] not in UNITS[kind] or found[1].count(".") > 1 or not found[1].strip("."):
            raise UsageError(f"--{kind} {text}: give a number and its unit, {', '.join(filter(None, UNITS[kind]))}")
        given.append(Goal(kind, float(found[1]) * UNITS[kind][found[2]]))
    given += [] if max_error is None else [Goal("max_error", max_error)]
    if len(given) > 1:
        raise UsageError("give one of --sparsity, --latency, --speedup, --bytes, --energy and --max-error")
    return given[0] if given else None


def prune_file(model: Path, inputs: Path, output: Path, wanted: Goal | float | None, method: Method,
               machine: tuple[str, int], json: Path | None, resume: Path | None = None, *,
               sparse: bool = False, on: str = parts.LOCAL, advised: bool = False) -> None:
    """Prune a file, write it, and print what became of its layers.

    `machine` is a target's name and threads; `advised` prints what each pattern would bring there where a sparsity is
    wanted.
    """
    parts.check(on)
    options.check_folder(output)
    from sparsec.graph.writer import save_proto
    from sparsec.oneshot import file
    from sparsec.oneshot.goal import Goal
    from sparsec.oneshot.reach import to_goal

    if resume is not None and isinstance(wanted, Goal) and on == parts.LOCAL:
        raise UsageError("--resume is for --sparsity and N:M, and with --on; goals try several sparsities")
    arrays = options.samples_of(inputs, model)
    target, threads = resolve(machine[0]), machine[1]
    (proto, was_sparse), reached = file.read(model), None
    with progress_bar() as progress:
        task = progress.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share)

        advice = (priced(proto, arrays, (target, threads), method.keep, show)
                  if advised and not isinstance(wanted, Goal) else None)
        answers = answers_on(on, model, inputs, method, resume, show)
        if isinstance(wanted, Goal):
            outcome, reached = to_goal(proto, arrays, wanted, method, target, threads, show, answers)
        else:
            outcome = file.to_sparsity(proto, arrays, wanted, method, show, resume, answers)
    save_proto(outcome.pruned.model, output, like=model, sparse=sparse or was_sparse)
    options.write_json(json, {**describe(outcome), "goal": reached and asdict(reached)})
    _print(outcome, output)
    if advice is not None:
        print_advice(advice)
    if reached is not None:
        _print_reached(reached)


def describe(outcome: Outcome) -> dict[str, Any]:
    """The figures of a pruned model."""
    pruned = outcome.pruned
    return {
        "sparsity": pruned.sparsity,
        "layers": [{**asdict(layer), "sparsity": 1 - layer.nonzeros / layer.weights} for layer in pruned.layers],
        "left": [asdict(each) for each in outcome.left],
        "outputs": [asdict(each) for each in pruned.outputs],
    }


def _print(outcome: Outcome, path: Path) -> None:
    pruned = outcome.pruned
    tables.print_table(("layer", "operator", "weights", "zeros", "error"), [
        (layer.layer, layer.operator, str(layer.weights),
         tables.percent(layer.weights - layer.nonzeros, layer.weights), f"{layer.error:.1e}")
        for layer in pruned.layers])
    console.print()
    for layer in pruned.layers:
        if layer.shared:
            console.print(f"{layer.layer}: its weight is that of {', '.join(layer.shared)}, too")
    for each in outcome.left:
        console.print(f"not pruned: {each.layer}: {each.reason}")
    for output in pruned.outputs:
        same = "" if output.same_class is None else f", same class in {100 * output.same_class:.1f} % of the rows"
        console.print(f"output '{output.output}' differs by {output.error:.1e} of its root mean square{same}")
    console.print(f"{path}: {100 * pruned.sparsity:.1f} % zeros, {tables.nbytes(model_file.describe(path).nbytes)}")


SHOWN: dict[str, Callable[[float], str]] = {
    "latency": tables.duration, "bytes": tables.nbytes, "energy": lambda value: f"{value:.4g} uJ",
    "max_error": lambda value: f"{value:.2g}"}


def _print_reached(reached: Reached) -> None:
    show = SHOWN[reached.kind]
    if reached.as_it_was:
        console.print(f"goal: {reached.kind} {show(reached.wanted)}; the file is as it was, since it takes "
                      f"{show(reached.measured)} already: nothing had to go")
        return
    faster = f", {reached.dense_us / reached.wanted:.2f}x as fast as dense" if reached.dense_us else ""
    console.print(f"goal: {reached.kind.replace('_', ' ')} {show(reached.wanted)}{faster}; predicted of the pruned "
                  f"layers {show(reached.predicted)}, measured {show(reached.measured)}")
    if reached.pruned_us and reached.dense_us:
        console.print(f"compiled: {tables.duration(reached.pruned_us)}, {reached.dense_us / reached.pruned_us:.2f}x as "
                      f"fast as dense in {tables.duration(reached.dense_us)}")
