"""`sparsec quantize`: a float model in 8 bits, by onnxruntime's quantiser, with its zeros kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import options, tables
from sparsec.cli.model_file import describe
from sparsec.cli.progress import working
from sparsec.errors import counted

BUDGET = 5e-2


def command(
    model: options.ModelFile,
    inputs: Annotated[Path, typer.Option(
        exists=True, dir_okay=False, help="An .npz file of real inputs that calibrate the ranges; arrays with n times "
        "the rows that the model takes, or any number where that is a symbol, are n samples. An .npy file where it "
        "takes one.")],
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", dir_okay=False, help="The new model; MODEL-int8.onnx here if not given.")] = None,
    max_error: Annotated[float, typer.Option(
        min=0, help="The largest error of an output, relative to its largest magnitude; layers that hurt most stay "
        "in float until it holds.")] = BUDGET,
    shapes: options.Shapes = [],  # noqa: B006 - typer copies it
    json: options.JsonFile = None,
) -> None:
    """Quantise a float model, and keep its zeros.

    To uint8 activations and int8 weights by output, as QuantizeLinear and DequantizeLinear.
    """
    from sparsec.compiler.quantization import quantize
    from sparsec.graph.writer import save_proto

    output = output or Path(f"{model.stem}-int8.onnx")
    options.check_folder(output)
    with working("quantising"):
        found = quantize(model, options.samples_of(inputs, model), max_error, options.parse_shapes(shapes))
    before = describe(model).nbytes
    save_proto(found.model, output, like=model)
    rows = [asdict(layer) for layer in found.layers]
    options.write_json(json, {"layers": rows, "relative_error": dict(found.errors)})
    tables.print_table(("layer", "operator", "computes in", "own error", "weights kept"), [
        (layer.layer, layer.operator, "8 bits" if layer.quantized else "float", f"{layer.error:.1e}",
         tables.percent(layer.kept, layer.weights)) for layer in found.layers])
    left = Counter(layer.reason for layer in found.layers if not layer.quantized)
    tables.console.print(f"\noutputs differ from the float model's by {found.error:.1e} of their largest; "
                         f"{left.total()} of {len(found.layers)} layers stay in float")
    if told := _left(left, len(found.layers), max_error):
        tables.console.print(told)
    tables.console.print(f"{output}: {tables.nbytes(describe(output).nbytes)}; the model was {tables.nbytes(before)}")


def _left(left: Counter[str], layers: int, max_error: float) -> str:
    """Why layers stay in float, where that is more than a part of them that the budget does not allow."""
    from sparsec.compiler.quantization import BUDGET_SPENT

    every = left.total() == layers
    reasons = [reason if left[reason] == layers else f"{reason} ({counted(left[reason], 'layer')})"
               for reason in left if reason != BUDGET_SPENT]
    if BUDGET_SPENT in left and every:
        reasons.append(f"{'' if reasons else 'with more, '}outputs err by more than --max-error {max_error:g} allows; "
                       "give a larger one, or inputs that are more like real ones")
    return f"{'no layer is in 8 bits' if every else 'in float stay some'}: {'; '.join(reasons)}" if reasons else ""
