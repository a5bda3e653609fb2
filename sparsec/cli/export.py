"""`sparsec export`: a reference network as ONNX, dense or as its authors pruned it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import tables
from sparsec.cli.model_file import rewrite_sparse
from sparsec.cli.prune import require_torch
from sparsec.cli.tables import console
from sparsec.errors import UsageError


def command(
    network: Annotated[str, typer.Argument(
        help="squeezenet, lenet300, lenet300-bn, lenet5, vgg16, vgg19, resnet18, resnet50, mobilenetv2 or bert.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The ONNX file to write.")],
    weights: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="SqueezeNet's Deep Compression file.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size of the exported model.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    sparse_tensors: Annotated[bool, typer.Option(
        "--sparse-tensors", help="Write weights as sparse tensors where that is smaller.")] = False,
) -> None:
    """Export a reference network to ONNX.

    squeezenet from its authors' file, the others with random weights.
    """
    if network == "squeezenet":
        _export_squeezenet(weights, output)
    else:
        if weights is not None:
            raise UsageError(f"--weights belongs to squeezenet; '{network}' gets random weights")
        require_torch()
        from sparsec.models import networks, onnx_export

        kind = networks.network(network)
        onnx_export.export(kind.build(seed), output, (kind.example(batch),))
    if sparse_tensors:
        rewrite_sparse(output)
    console.print(f"{output}: {tables.nbytes(output.stat().st_size)}")


def _export_squeezenet(weights: Path | None, output: Path) -> None:
    from sparsec.graph.writer import save_proto
    from sparsec.models import squeezenet

    if weights is None:
        raise UsageError("squeezenet needs its authors' file: --weights squeezenet_deep_compression.net")
    save_proto(squeezenet(weights), output)
