"""`sparsec prune MODEL --on ray://…`: what pruning each layer by itself costs, found on the machines of a cluster.

That takes most of the time of pruning by sensitivity and to goals. The layers are pruned here and one after the other
then, since each gets the inputs that pruning has left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsec import files
from sparsec.cli import options, parts
from sparsec.errors import SparsecError

if TYPE_CHECKING:
    from sparsec.oneshot.dense import Answer, Answers, Progress
    from sparsec.oneshot.file import Method

PARTS = 16
"""Of the layers, at most: each runs the dense model up to its last one."""


def answers_on(on: str, model: Path, inputs: Path, method: Method, folder: Path | None, progress: Progress,
               ) -> Answers | None:
    """What finds the answers of layers on a cluster; None where none is asked for.

    Args:
        on: as `--on`.
        model: a file that lies at the same path on every machine.
        inputs: the samples, alike.
        method: how layers are pruned.
        folder: where finished parts are kept.
        progress: is told how many are done.

    """
    if on == parts.LOCAL:
        return None

    def find(names: Sequence[str], sparsities: Sequence[float]) -> Mapping[str, Answer]:
        from sparsec.oneshot.dense import Answer

        given = [[str(path.resolve()), _digest(path)] for path in (model, inputs)]
        how = [method.criterion, method.pattern, list(method.keep)]
        calls = [parts.Part((given, how, list(sparsities), list(names[number::PARTS])))
                 for number in range(min(PARTS, len(names)))]
        found: dict[str, Answer] = {}
        progress("layers on the cluster", 0.0)
        for count, (_, result) in enumerate(parts.run(answered, calls, on, folder)):
            if result["error"]:
                raise SparsecError(f"on a machine of {on}: {result['error']}")
            found |= {name: Answer(np.array(each["mean"]), tuple(each["errors"]))
                      for name, each in result["answers"].items()}
            progress("layers on the cluster", (count + 1) / len(calls))
        return found

    return find


def answered(given: Sequence[tuple[str, str]], how: tuple[str, str, list[str]], sparsities: Sequence[float],
             names: Sequence[str]) -> dict[str, Any]:
    """The answers of some layers, as JSON, or why there are none on this machine.

    Args:
        given: path and SHA-256 of the model and of the samples.
        how: criterion, pattern, and what is to be kept.
        sparsities: what each is pruned to.
        names: of the weights.

    """
    from sparsec.oneshot import dense, file, samples
    from sparsec.oneshot.patterns import pattern

    for path, digest in given:
        if not Path(path).is_file() or _digest(Path(path)) != digest:
            return {"error": f"{path}: not the file that it is where the command was given; copy it there"}
    try:
        (model, _), arrays = file.read(Path(given[0][0])), options.samples_of(Path(given[1][0]), Path(given[0][0]))
        criterion, form, keep = how
        found = dense.answered(model, samples.batches(model, arrays), criterion, pattern(form), keep, sparsities, names)
    except SparsecError as error:
        return {"error": str(error)}
    return {"error": "", "answers": {name: {"mean": each.mean.tolist(), "errors": list(each.errors)}
                                     for name, each in found.items()}}


def _digest(path: Path) -> str:
    return hashlib.sha256(files.read_regular(path)).hexdigest()
