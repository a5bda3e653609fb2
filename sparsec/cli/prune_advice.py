"""`sparsec prune MODEL --advise`: which pattern of zeros pays on a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsec.cli import options, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import console
from sparsec.errors import counted
from sparsec.target import Target, resolve

if TYPE_CHECKING:
    from sparsec.oneshot.advice import Advice
    from sparsec.oneshot.dense import Progress


@dataclass(frozen=True)
class Priced:
    """What the layers that can be pruned take dense, and what each pattern makes of that."""

    target: Target
    threads: int
    dense_us: float
    patterns: Sequence[Advice]


def advise_file(model: Path, inputs: Path | None, machine: tuple[str, int], keep: Sequence[str],
                json: Path | None) -> None:
    """Price every pattern, and print which are predicted to pay; `machine` is a target's name and threads.

    Raises:
        UsageError: the target has no cost model.

    """
    from sparsec.oneshot import file

    target, (proto, _) = resolve(machine[0]), file.read(model)
    arrays = None if inputs is None else options.samples_of(inputs, model)
    with progress_bar() as progress:
        task = progress.add_task("", total=1.0)
        found = priced(proto, arrays, (target, machine[1]), keep,
                       lambda what, share: progress.update(task, description=what, completed=share))
    options.write_json(json, {"target": target.name, "threads": found.threads, "dense_us": found.dense_us,
                              "patterns": [asdict(each) | {"pays": each.pays} for each in found.patterns]})
    print_advice(found)


def priced(proto: Any, arrays: Mapping[str, np.ndarray] | None, machine: tuple[Target, int], keep: Sequence[str],
           progress: Progress) -> Priced:
    """Price every pattern, for one of the samples where there are some."""
    from sparsec.oneshot import samples
    from sparsec.oneshot.advice import PATTERNS, advise
    from sparsec.oneshot.search import one_sample

    one = one_sample(proto, samples.batches(proto, arrays)[0]) if arrays is not None else {}
    shapes = {name: array.shape for name, array in one.items()}
    return Priced(*machine, *advise(proto, PATTERNS, shapes, *machine, keep, progress))


def print_advice(found: Priced) -> None:
    """A row a pattern, then which is the fastest at which sparsity."""
    from sparsec.oneshot.advice import best

    threads = f", {counted(found.threads, 'thread')}" if found.target.mcpu else ""
    console.print(f"the layers that can be pruned take {tables.duration(found.dense_us)} dense on {found.target.name}"
                  f"{threads}, as its cost model predicts; with zeros, so many times as fast:")
    console.print()
    levels = sorted({level for each in found.patterns for level in each.speedups})
    tables.print_table(("pattern", *(f"{100 * level:g} %" for level in levels), "layers", "as"), [
        (each.pattern, *(f"{each.speedups[level]:.2f}x" if level in each.speedups else "" for level in levels),
         f"{each.layers} of {each.of}", ", ".join(each.formats[:2]) or "dense") for each in found.patterns])
    console.print()
    for level, each in best(found.patterns).items():
        console.print(f"at {100 * level:g} % zeros the fastest is --pattern {each.pattern}, "
                      f"{each.speedups[level]:.2f}x as fast as dense")
    if idle := [each.pattern for each in found.patterns if not each.pays]:
        every = len(idle) == len(found.patterns)
        console.print(f"no pattern pays in this model on {found.target.name}" if every else
                      f"on {found.target.name} these do not pay in this model: {', '.join(idle)}")
