"""`sparsec prune model.onnx --pattern units`, `unused` or `branches`: a smaller file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsec.cli import model_file, options, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import console
from sparsec.errors import UsageError, counted

if TYPE_CHECKING:
    from sparsec.oneshot.prune import Output
    from sparsec.passes.strip import Size

WHOLE = ("units", "unused", "branches")
"""The names of the patterns."""


@dataclass(frozen=True)
class Files:
    """What is read and written; `sparse` writes weights as sparse tensors where that is smaller."""

    model: Path
    inputs: Path
    output: Path
    json: Path | None
    sparse: bool


def prune_whole(what: str, files: Files, sparsity: float | None, threshold: float | None, keep: tuple[str, ...],
                ) -> None:
    """Remove units, those that samples never activate, or blocks, write the file, and print what became of it.

    Raises:
        UsageError: options do not fit.

    """
    from sparsec.oneshot import file
    from sparsec.oneshot.prune import check_sparsity

    if what == "unused":
        if sparsity is not None:
            raise UsageError("--pattern unused takes no --sparsity: what samples never activate goes")
        if threshold is not None and not 0 <= threshold < 1:
            raise UsageError(f"--threshold {threshold:g} is out of range; give a share of at least 0 and below 1")
    elif threshold is not None:
        raise UsageError("--threshold is for --pattern unused")
    elif sparsity is None:
        raise UsageError("give --sparsity, the share of the FLOPs that go, such as --sparsity 0.5")
    if what == "branches" and keep:
        raise UsageError("--pattern branches takes no --keep")
    check_sparsity(sparsity or 0.0)
    options.check_folder(files.output)
    arrays, (proto, was_sparse) = options.samples_of(files.inputs, files.model), file.read(files.model)
    remove = _branches if what == "branches" else _units
    remove(proto, arrays, replace(files, sparse=files.sparse or was_sparse), sparsity, threshold or 0.0, keep)


@contextmanager
def _shown() -> Iterator[Callable[[str, float], None]]:
    """A progress bar, as a function of what is done and the share that is."""
    with progress_bar() as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


def _units(proto: Any, arrays: Any, files: Files, sparsity: float | None, threshold: float,
           keep: tuple[str, ...]) -> None:
    from sparsec.graph.writer import save_proto
    from sparsec.oneshot import samples
    from sparsec.oneshot.structured.prune import remove_units
    from sparsec.oneshot.structured.unused import remove_unused

    with _shown() as show:
        batches = samples.batches(proto, arrays)
        found = (remove_unused(proto, batches, threshold, keep, show) if sparsity is None
                 else remove_units(proto, batches, 1 - sparsity, keep, show))
    save_proto(found.model, files.output, like=files.model, sparse=files.sparse)
    before, after = found.report.total.before, found.report.total.after
    options.write_json(files.json, {
        "units": found.units, "removed": found.removed, "flops": {"before": before.flops, "after": after.flops},
        "layers": [asdict(layer) for layer in found.report.layers], "left": [asdict(each) for each in found.left],
        "outputs": [asdict(each) for each in found.outputs]})
    tables.print_table(("layer", "units", "MFLOPs"), [
        (layer.name, *_changes(layer.before, layer.after)) for layer in found.report.layers],
        (counted(len(found.report.layers), "layer"), *_changes(before, after)))
    for each in found.left:
        console.print(f"not pruned: {each.layer}: {each.reason}")
    _print_outputs(found.outputs)
    if sparsity is None:
        console.print("not exact: other inputs may activate what these samples never did")
    console.print(f"{files.output}: {found.removed} of {found.units} units removed, "
                  f"{100 * (after.flops / before.flops):.1f} % of the FLOPs left, "
                  f"{tables.nbytes(model_file.describe(files.output).nbytes)}")


def _changes(before: Size, after: Size) -> tuple[str, str]:
    """Units and millions of FLOPs."""
    return (tables.changed(str(before.units), str(after.units)),
            tables.changed(tables.millions(before.flops), tables.millions(after.flops)))


def _branches(proto: Any, arrays: Any, files: Files, sparsity: float | None,
              threshold: float, keep: tuple[str, ...]) -> None:
    from sparsec.graph.writer import save_proto
    from sparsec.oneshot import samples
    from sparsec.oneshot.structured.branches import remove_branches

    del threshold, keep
    with _shown() as show:
        found = remove_branches(proto, samples.batches(proto, arrays), 1 - (sparsity or 0.0), show)
    save_proto(found.model, files.output, like=files.model, sparse=files.sparse)
    options.write_json(files.json, {
        "branches": found.branches, "removed": [asdict(each) for each in found.removed],
        "flops": {"before": found.before, "after": found.after}, "outputs": [asdict(each) for each in found.outputs]})
    tables.print_table(("block that ends in", "change", "MFLOPs"), [
        (each.name, f"{each.change**0.5:.1e}", f"{each.flops / 1e6:.1f}") for each in found.removed])
    _print_outputs(found.outputs)
    console.print(f"{files.output}: {len(found.removed)} of {found.branches} blocks removed, "
                  f"{100 * (found.after / found.before):.1f} % of the layers' FLOPs left, "
                  f"{tables.nbytes(model_file.describe(files.output).nbytes)}")


def _print_outputs(outputs: Sequence[Output]) -> None:
    for value in outputs:
        same = "" if value.same_class is None else f", same class in {100 * value.same_class:.1f} % of the rows"
        console.print(f"output '{value.output}' differs by {value.error:.1e} of its root mean square{same}")
