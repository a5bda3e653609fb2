"""`sparsec prune model.onnx --pattern units`: fewer channels and heads, in a smaller file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sparsec.cli import model_file, options, tables
from sparsec.cli.progress import progress_bar
from sparsec.cli.tables import console
from sparsec.errors import UsageError

UNITS = "units"
"""The name of the pattern."""


def prune_units(model: Path, inputs: Path, output: Path, sparsity: float | None, keep: tuple[str, ...],
                json: Path | None, *, sparse: bool = False) -> None:
    """Remove units of a file, write it, and print what became of its layers."""
    from sparsec.graph.writer import save_proto
    from sparsec.oneshot import file, samples
    from sparsec.oneshot.prune import check_sparsity
    from sparsec.oneshot.structured.prune import remove_units

    if sparsity is None:
        raise UsageError("give --sparsity, the share of the FLOPs that go, such as --sparsity 0.5")
    check_sparsity(sparsity)
    options.check_folder(output)
    arrays, (proto, was_sparse) = options.read_arrays(inputs), file.read(model)
    with progress_bar() as progress:
        task = progress.add_task("", total=1.0)

        def show(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share)

        found = remove_units(proto, samples.batches(proto, arrays), 1 - sparsity, keep, show)
    save_proto(found.model, output, like=model, sparse=sparse or was_sparse)
    before, after = found.report.total.before, found.report.total.after
    options.write_json(json, {
        "units": found.units, "removed": found.removed, "flops": {"before": before.flops, "after": after.flops},
        "layers": [asdict(layer) for layer in found.report.layers], "left": [asdict(each) for each in found.left],
        "outputs": [asdict(each) for each in found.outputs]})
    tables.print_table(("layer", "units", "MFLOPs"), [
        (layer.name, f"{layer.before.units} > {layer.after.units}",
         f"{layer.before.flops / 1e6:.1f} > {layer.after.flops / 1e6:.1f}") for layer in found.report.layers],
        ("total", f"{before.units} > {after.units}", f"{before.flops / 1e6:.1f} > {after.flops / 1e6:.1f}"))
    for each in found.left:
        console.print(f"not pruned: {each.layer}: {each.reason}")
    for value in found.outputs:
        same = "" if value.same_class is None else f", same class in {100 * value.same_class:.1f} % of the rows"
        console.print(f"output '{value.output}' differs by {value.error:.1e} of its root mean square{same}")
    console.print(f"{output}: {found.removed} of {found.units} units removed, {after.flops / before.flops:.1%} of the "
                  f"FLOPs left, {tables.nbytes(model_file.describe(output).nbytes)}")
