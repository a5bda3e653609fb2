"""`sparsec verify`: whether an artifact is whole, who signed it, and whether it runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import options, tables


def command(
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled model.")],
    require_signature: options.PublicKey = None,
) -> None:
    """Check an artifact's bytes, its signature and this machine.

    Nothing of the artifact is executed.
    """
    from sparsec.artifact.file import Artifact
    from sparsec.compiler.portable import is_portable
    from sparsec.runtime.fitness import check_machine

    loaded = Artifact.load(artifact, require_signature=require_signature, whole=True)
    for bucket in loaded.buckets:
        bucket.constants()
    if not is_portable(loaded):
        check_machine(loaded)
    signed = f"signed by the owner of {require_signature}" if require_signature else "signature not checked"
    code = "compiled where it is opened" if is_portable(loaded) else f"runs here, target {loaded.manifest.target}"
    tables.console.print(f"{artifact}: whole; {signed}; {code}")
