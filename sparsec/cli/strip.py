"""`sparsec strip`: a smaller ONNX model with the same outputs."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsec import files
from sparsec.cli import options, tables
from sparsec.cli.model_file import describe
from sparsec.cli.progress import working
from sparsec.errors import ShapeError, VerificationError, counted

if TYPE_CHECKING:  # imported by the command, so that the others start fast
    import onnx_ir as ir

    from sparsec.passes.strip import Layer, StripReport

TOLERANCE = 1e-4  # float32, relative to the largest magnitude of an output
STEPS = 2e-2  # the same where codes may be one step apart
MOST_NAMES = 3  # of nodes that one line lists
MOST_REASONS = 5  # why something stays that lines are given to
STAND_IN = 2  # the size of symbolic dimensions in verification


def command(
    model: options.ModelFile,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", dir_okay=False, help="The new model; MODEL-stripped.onnx here if not given.")] = None,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    merge_duplicates: Annotated[bool, typer.Option(
        "--merge-duplicates", help="Also merge units with equal incoming weights.")] = False,
    sparse_tensors: Annotated[bool, typer.Option(
        "--sparse-tensors", help="Write weights as sparse tensors where that is smaller; a model that has such "
                                 "keeps them.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the outputs with those of the model given.")] = True,
    json: options.JsonFile = None,
) -> None:
    """Remove what pruning has made inactive.

    Units, channels, filters and heads that no output depends on.
    """
    from sparsec.graph.interface import forget_shapes, restore
    from sparsec.graph.reader import load
    from sparsec.graph.sparse import SPARSE_KEY
    from sparsec.graph.writer import drop_shapes, save
    from sparsec.passes.quantized import read_foreign
    from sparsec.passes.strip import as_dict, strip

    bound = options.parse_shapes(shapes)
    output = output or Path(f"{model.stem}-stripped.onnx")
    options.check_folder(output)
    with working("stripping"):
        graph = load(model, shapes=bound, symbolic=True, as_is=True)
        sparse_tensors |= any(SPARSE_KEY in value.metadata_props for value in graph.graph.initializers.values())
        read_foreign(graph)
        report = strip(graph, merge=merge_duplicates)
        restore(graph)
        error, unverified = _verified(model, graph) if verify else (None, "not verified")
    before = describe(model)
    before.name_sizes(graph)
    forget_shapes(graph, kept=before.values)
    given = None if report.modified or before.is_divided else files.read_regular(model)
    save(graph, output, sparse=sparse_tensors)
    if describe(output).nbytes > before.nbytes:
        drop_shapes(output)
    if given is not None and output.stat().st_size > len(given):  # nodes without names have got some
        files.write(output, given)
    options.write_json(json, {**as_dict(report), "relative_error": error})
    print_report(report)
    verdict = unverified if error is None else f"outputs match: largest relative error {tables.error(error)}"
    sizes = tables.nbytes(describe(output).nbytes), tables.nbytes(before.nbytes)
    tables.console.print(f"\n{verdict}\n{output}: {sizes[0]}; the model was {sizes[1]}")


def _verified(model: Path, stripped: ir.Model) -> tuple[float | None, str]:
    """The largest relative error of an output on random inputs, or why there is none.

    Raises:
        VerificationError: it is above the tolerance.

    """
    import onnx_ir as ir

    from sparsec.graph.compare import compare, random_feeds, run_onnxruntime
    from sparsec.graph.evaluate import run_by_nodes
    from sparsec.graph.large import streams
    from sparsec.graph.reader import load

    shapes = {str(value.name): [dim if isinstance(dim, int) else STAND_IN for dim in value.shape or ()]
              for value in stripped.graph.inputs}
    try:
        feeds = random_feeds(load(model, shapes=shapes))
    except ShapeError:
        return None, f"not verified: sizes of {STAND_IN} do not fit the network; give its shapes with --shape"
    names = [str(value.name) for value in stripped.graph.outputs]
    by_nodes = streams(stripped.graph)
    if not by_nodes:
        try:
            outputs, expected = run_onnxruntime(ir.to_proto(stripped), feeds), run_onnxruntime(model, feeds)
        except Exception as error:  # noqa: BLE001 - what onnxruntime raises has no common base
            by_nodes = True
            warnings.warn(f"outputs are compared node by node, for onnxruntime does not take the model: {error}",
                          stacklevel=2)
    if by_nodes:
        outputs, expected = run_by_nodes(stripped, feeds), run_by_nodes(load(model, symbolic=True), feeds)
    errors = compare(names, outputs, expected)
    worst = max(errors, key=lambda difference: difference.relative_error)
    tolerance = STEPS if any(node.op_type == "QuantizeLinear" for node in stripped.graph) else TOLERANCE
    if not worst.relative_error <= tolerance:
        raise VerificationError(f"{model}: output '{worst.output}' of the stripped model differs by "
                                f"{worst.relative_error:.1e} of its largest magnitude; please report this model, "
                                "--no-verify writes the result nevertheless")
    return worst.relative_error, ""


def print_report(report: StripReport) -> None:
    """The layers, what stays and why, and what the analysis could not follow."""
    if not report.layers:
        tables.console.print("no layer has weights that stripping knows of")
        return
    tables.print_table(("layer", "zero", "inactive", "units", "MFLOPs", "bytes"),
                       [(layer.name, *_row(layer)) for layer in report.layers],
                       (counted(len(report.layers), "layer"), *_row(_sum(report.layers))))
    total = report.total
    direct, effective = _times(total.direct_compression), _times(total.effective_compression)
    lines = [f"\ncompression by zeros {direct}, effective {effective}", *_more(report)]
    lines += [f"{name}: {count}" for name, count in report.counts.items() if count]
    grouped: Counter[tuple[str, str]] = Counter()
    for kept in report.kept:
        grouped[kept.what, kept.reason] += kept.count
    shown, rest = grouped.most_common(MOST_REASONS), grouped.most_common()[MOST_REASONS:]
    lines += [f"kept, {what}s: {count}, {reason}" for (what, reason), count in shown]
    lines += [f"kept, too: {sum(count for _, count in rest)}, for {len(rest)} reasons of this kind"] if rest else []
    followed: defaultdict[str, list[str]] = defaultdict(list)
    for node, reason in report.unknown.items():
        followed[reason].append(node)
    lines += [f"not followed, {reason}{_written_out(reason)}: {_some(nodes)}" for reason, nodes in followed.items()]
    lines += [f"output '{name}' does not depend on any input: collapsed at {', '.join(report.collapsed) or 'no layer'}"
              for name in report.severed]
    if report.regrouped and len(report.regrouped) * 2 > len(report.layers):  # by chance small layers are 2:4, too
        lines.append(f"no longer 2:4, inputs in the midst of their groups went: {_some(report.regrouped)}")
    for line in lines:
        tables.console.print(line)


def _written_out(reason: str) -> str:
    """What is to be added where an operator is not followed that compiling writes out in ONNX's own first."""
    from sparsec.passes.contributed import DOMAINS

    known = any(reason == f"operator {domain}.{name} is unknown" for domain, names in DOMAINS.items() for name in names)
    return ", but `sparsec compile` writes it out first and may strip more" if known else ""


def _sum(layers: Sequence[Layer]) -> Layer:
    """All layers as one, each size the sum of theirs."""
    from sparsec.passes.strip import Layer, Size  # imported with what made the report

    before, after = (Size(*(sum(getattr(size, each.name) for size in sizes) for each in fields(Size)))
                     for sizes in ([layer.before for layer in layers], [layer.after for layer in layers]))
    return Layer("", "", sum(layer.active for layer in layers), before, after)


def _more(report: StripReport) -> list[str]:
    """What the whole model has besides the layers: biases and other constants, products of activations."""
    after, layers = report.total.after, _sum(report.layers).after
    lines = [f"with biases and other constants: {tables.nbytes(after.bytes)}"] if after.bytes != layers.bytes else []
    return [*lines, *([f"with products of activations: {tables.millions(after.flops)} MFLOPs"]
                      if after.flops != layers.flops else [])]


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _row(layer: Layer) -> tuple[str, ...]:
    before, after = layer.before, layer.after
    flops = tables.changed(tables.millions(before.flops), tables.millions(after.flops)) if before.flops else "-"
    return (tables.percent(before.weights - before.nonzero, before.weights),
            tables.percent(before.weights - layer.active, before.weights),
            tables.changed(str(before.units), str(after.units)) if before.units else "-",
            flops, tables.nbytes(after.bytes))


def _times(compression: float) -> str:
    return f"{compression:.1f}x" if compression < math.inf else "infinite"
