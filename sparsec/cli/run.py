"""`sparsec run`: execute an artifact on arrays from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sparsec.cli import options, tables
from sparsec.cli.progress import working

SHOWN = 4
"""Numbers of an output that are shown where no file is written."""


def command(
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled model.")],
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", dir_okay=False, help="The .npz file to write, or an .npy file where there is one output; "
        "without it the first numbers are shown.")] = None,
    feeds: Annotated[Path | None, typer.Option(
        "--input", "-i", exists=True, dir_okay=False, help="An .npz file with an array for every input, or an .npy "
        "file where there is one input; random ones if not given.")] = None,
    shapes: Annotated[list[str], typer.Option(
        "--shape", metavar="NAME:D,D,…", help="Shape of a random input, which chooses among an artifact's buckets; may "
        "be repeated.")] = [],  # noqa: B006 - typer copies it
    dims: Annotated[list[str], typer.Option(
        "--dim", metavar="NAME=SIZE", help="Size of a dimension that the run tells, of random inputs; may be "
        "repeated.")] = [],  # noqa: B006 - as above
    require_signature: options.PublicKey = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to use; as compiled if not given.")] = None,
) -> None:
    """Run a compiled model once on given or random arrays."""
    from sparsec.artifact.file import Artifact
    from sparsec.compiler.portable import build_once
    from sparsec.runtime.session import InferenceSession

    with working("compiling for this machine"):
        compiled = build_once(Artifact.load(artifact, require_signature=require_signature))
    session = InferenceSession(compiled, threads)
    names = [info.name for info in session.get_outputs()]
    if output is not None:
        options.check_arrays_file(output, len(names))
    arrays = options.inputs_for(compiled, feeds, shapes, options.single(options.parse_dims(dims)))
    results = session.run(None, arrays)
    shown = [(name, r.dtype.name, tables.shape(r.shape)) for name, r in zip(names, results, strict=True)]
    if output is None:
        tables.print_table(("output", "type", "shape", "begins"), [
            (*row, " ".join(f"{value:.4g}" for value in r.reshape(-1)[:SHOWN].astype(np.float64)))
            for row, r in zip(shown, results, strict=True)])
        return
    options.write_arrays(output, dict(zip(names, results, strict=True)))
    tables.print_table(("output", "type", "shape"), shown)
