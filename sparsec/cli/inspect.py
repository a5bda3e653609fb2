"""`sparsec inspect`: what is in a model or an artifact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsec.cli import options, tables
from sparsec.cli.model_file import describe
from sparsec.cli.tables import console
from sparsec.errors import counted

if TYPE_CHECKING:  # the command imports it, so that others start fast
    from sparsec.artifact.file import Artifact


def command(
    file: Annotated[Path, typer.Argument(
        exists=True, dir_okay=False, callback=options.model_or_archive, help="An ONNX model or a compiled one.")],
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    json: options.JsonFile = None,
) -> None:
    """Show layers, their sparsity and sizes, inputs and outputs."""
    from sparsec.artifact.file import is_artifact

    compiled = is_artifact(file)
    description = _inspect_artifact(file) if compiled else _inspect_model(file, options.parse_shapes(shapes))
    options.write_json(json, description)


def _inspect_artifact(file: Path) -> dict[str, Any]:
    from sparsec.artifact.file import Artifact
    from sparsec.compiler.portable import is_portable
    from sparsec.report.describe import describe_artifact

    artifact = Artifact.load(file)
    description = describe_artifact(artifact, file.stat().st_size)
    needs = "".join(f", {name} {' '.join(map(str, each))}" for name, each in description["needs"].items() if each)
    console.print(f"target {description['target']}{needs} on {description['platform']}, up to "
                  f"{counted(description['threads'], 'thread')}; by sparsec {description['sparsec']}, TVM "
                  f"{description['tvm']}")
    if is_portable(artifact):
        console.print(f"{tables.nbytes(description['file_bytes'])}\n")
        _print_signature(description)
        console.print("compiled where it is opened, from this model:\n")
        return {**description, "model": _packed_model(artifact)}
    code = "" if not artifact.library else (
        f", {description['library']} {tables.nbytes(description['library_bytes'])}")
    console.print(f"{tables.nbytes(description['file_bytes'])}: "
                  f"{'weights and kernels' if not code else 'weights'} {tables.nbytes(description['weights_bytes'])}"
                  f"{code}\n")
    _print_signature(description)
    tables.print_buckets(description)
    _print_kernels(description)
    return description


def _print_kernels(description: dict[str, Any]) -> None:
    """How every layer runs, at the most rows that it has kernels for, and which others fewer rows have."""
    totals, rows = description["totals"], description["rows"]
    most = rows[-1]["rows"] if rows else None
    if rows:
        counts = ", ".join(str(each["rows"]) for each in rows)
        console.print(f"there are kernels for {counts} rows, of which more are made; for {most}:\n")
    tables.print_table(
        ("layer", "shape", "kept", "format", "kernel", "bytes", "predicted"),
        [(layer["layer"], tables.shape(layer["shape"]), tables.percent(layer["nonzeros"], layer["weights"]),
          layer["format"], layer["kernel"], tables.nbytes(layer["bytes"]), tables.duration(layer["predicted_us"]))
         for layer in description["layers"] if layer.get("rows") in (None, most)],
        (counted(totals["layers"], "layer"), "", tables.percent(totals["nonzeros"], totals["weights"]), "", "",
         tables.nbytes(totals["bytes"]), tables.duration(totals["predicted_us"])))
    if rows[1:]:
        console.print()
    for line in (*_fewer_rows(description["layers"], most), *tables.single(description, description["threads"]),
                 *tables.early(description),
                 *tables.timed(description["layers"]), *tables.outside(description.get("outside", []))):
        console.print(line)


def _fewer_rows(layers: list[dict[str, Any]], most: int | None) -> list[str]:
    """For every smaller number of rows, the predicted time and which kernels are others than for the most."""
    usual = {layer["layer"]: (layer["format"], layer["kernel"]) for layer in layers if layer.get("rows") == most}
    lines = []
    for count in sorted({layer["rows"] for layer in layers if layer.get("rows")} - {most}):
        own = [layer for layer in layers if layer.get("rows") == count]
        others = Counter(f"{layer['format']} {layer['kernel']}" for layer in own
                         if usual.get(layer["layer"]) != (layer["format"], layer["kernel"]))
        kinds = ", ".join(f"{kind} of {counted(number, 'layer')}" for kind, number in others.most_common())
        lines.append(f"for {counted(count, 'row')}: {tables.duration(sum(each['predicted_us'] for each in own))}"
                     + (f", with other kernels: {kinds}" if kinds else ", with the same kernels"))
    return lines


def _inspect_model(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    from sparsec.cli.strip import print_report
    from sparsec.graph.reader import load
    from sparsec.passes.quantized import read_foreign
    from sparsec.passes.strip import as_dict, strip
    from sparsec.report.describe import describe_model

    model = load(file, shapes=shapes, symbolic=True)
    own = describe(file)
    own.name_sizes(model)
    description = {**describe_model(model), "opset": own.opset}
    console.print(f"{tables.nbytes(own.nbytes)}, opset {own.opset}\n")
    _print_signature(description)
    _print_layers(description)
    console.print("\nwhat pruning made inactive, and what stripping would leave:\n")
    read_foreign(model)
    stripped = strip(model)
    print_report(stripped)
    return {**description, "strip": as_dict(stripped)}


def _packed_model(artifact: Artifact) -> dict[str, Any]:
    """What a portable artifact will be compiled from, at the shapes of its first bucket."""
    import onnx

    from sparsec.graph.reader import load
    from sparsec.report.describe import describe_model

    shapes = {spec.name: spec.shape for spec in artifact.manifest.inputs}
    description = describe_model(load(onnx.ModelProto.FromString(artifact.graph), shapes=shapes))
    _print_layers(description)
    return description


def _print_layers(description: dict[str, Any]) -> None:
    """The operators and the layers of a model."""
    tables.print_table(("operator", "nodes"), list(description["operators"].items()))
    totals = description["totals"]
    console.print()
    tables.print_table(
        ("layer", "operator", "shape", "zeros", "bytes", "stored"),
        [(layer["layer"], layer["operator"], tables.shape(layer["shape"]), _zeros(layer), tables.nbytes(layer["bytes"]),
          "sparse" if layer["sparse_initializer"] else "dense") for layer in description["layers"]],
        (counted(totals["layers"], "layer"), "", "", _zeros(totals), tables.nbytes(totals["bytes"]), ""))


def _zeros(counts: dict[str, Any]) -> str:
    return tables.percent(counts["weights"] - counts["nonzeros"], counts["weights"])


def _print_signature(description: dict[str, Any]) -> None:
    rows = [(f"{kind[:-1]} {tensor['name']}", tensor["dtype"], tables.shape(tensor["shape"]))
            for kind in ("inputs", "outputs") for tensor in description[kind]]
    tables.print_table(("tensor", "type", "shape"), rows)
    if dims := description.get("dims"):
        sizes = "; ".join(f"{name}, {'any' if limit is None else f'{limit[0]} to {limit[1]}'}"
                          for name, limit in dims.items())
        console.print(f"sizes that the run tells: {sizes}")
    console.print()
