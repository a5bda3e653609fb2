"""`sparsec prune model.onnx`: a file of one's own, pruned from samples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsec.cli import options, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import console
from sparsec.errors import UsageError

if TYPE_CHECKING:
    from sparsec.oneshot.file import Method, Outcome


def prune_file(model: Path, inputs: Path | None, output: Path, sparsity: float | None, method: Method,
               json: Path | None) -> None:
    """Prune a file, write it, and print what became of its layers."""
    from sparsec.oneshot import file

    if inputs is None:
        raise UsageError(f"{model}: give --inputs, an .npz file of samples, some hundred of them")
    options.check_folder(output)
    arrays = options.read_arrays(inputs)
    proto = file.read(model)
    with progress_bar() as progress:
        task = progress.add_task("", total=1.0)
        outcome = file.to_sparsity(proto, arrays, sparsity, method, lambda what, share: progress.update(
            task, description=what, completed=share))
    file.save(outcome.pruned.model, output)
    options.write_json(json, describe(outcome))
    _print(outcome, output)


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
            console.print(f"{layer.layer}: its weight is that of {', '.join(layer.shared)}, too", soft_wrap=True)
    for each in outcome.left:
        console.print(f"not pruned: {each.layer}: {each.reason}", soft_wrap=True)
    for output in pruned.outputs:
        same = "" if output.same_class is None else f", same class in {100 * output.same_class:.1f} % of the rows"
        console.print(f"output '{output.output}' differs by {output.error:.1e} of its root mean square{same}",
                      soft_wrap=True)
    console.print(f"{path}: {100 * pruned.sparsity:.1f} % zeros, {tables.nbytes(path.stat().st_size)}", soft_wrap=True)
