"""`sparsec bundle`: an artifact as a folder that runs without Python."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sparsec.cli import options, tables

MEANINGS = {"model": "the model's file", "runtime": "TVM's runtime libraries", "sources": "sources and headers"}


def command(
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled artifact.")],
    output: Annotated[Path, typer.Option(
        "--output", "-o", file_okay=False, help="The folder: new, empty, or a bundle, which is replaced.")],
    sign: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="Sign the model's file with this private Ed25519 key in PEM.")] = None,
    require_signature: options.PublicKey = None,
    json: options.JsonFile = None,
) -> None:
    """Write a folder with the model, the runtime and a CMake project, for C and C++ without Python."""
    from sparsec.artifact.file import Artifact
    from sparsec.native.bundle import write_bundle

    loaded = Artifact.load(artifact, require_signature=require_signature)
    entries = write_bundle(loaded, output, sign)
    sums = {part: sum(each.nbytes for each in entries if each.part == part) for part in MEANINGS}
    tables.print_table(("part", "bytes"), [(MEANINGS[part], tables.nbytes(size)) for part, size in sums.items()],
                       ("all", tables.nbytes(sum(sums.values()))))
    tables.console.print(f"\ncmake -S {output} -B {output}/build && cmake --build {output}/build", soft_wrap=True)
    options.write_json(json, {"bytes": sums, "files": [asdict(each) for each in entries]})
