"""`sparsec run`: execute an artifact on arrays from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import options, tables


def command(
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled model.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The .npz file to write.")],
    feeds: Annotated[Path | None, typer.Option(
        "--input", "-i", exists=True, dir_okay=False, help="An .npz file with an array for every input, or an .npy "
        "file where there is one input; random ones if not given.")] = None,
    require_signature: options.PublicKey = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to use; as compiled if not given.")] = None,
) -> None:
    """Run a compiled model once on the arrays of an .npz file."""
    from sparsec.artifact.file import Artifact
    from sparsec.compiler.portable import build_once
    from sparsec.runtime.session import InferenceSession

    compiled = build_once(Artifact.load(artifact, require_signature=require_signature))
    session = InferenceSession(compiled, threads)
    names = [info.name for info in session.get_outputs()]
    results = session.run(None, options.inputs_for(compiled, feeds))
    options.write_arrays(output, dict(zip(names, results, strict=True)))
    tables.print_table(("output", "type", "shape"),
                       [(name, r.dtype.name, tables.shape(r.shape)) for name, r in zip(names, results, strict=True)])
