"""`sparsec bundle`: an artifact as a folder that runs without Python, or as a model of Triton."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsec.cli import options, tables
from sparsec.errors import UsageError

if TYPE_CHECKING:
    from sparsec.artifact.file import Artifact

ROWS = 32
"""That Triton may run together unless `--max-batch` says otherwise."""

MEANINGS = {"model": "the model's file", "runtime": "TVM's runtime libraries", "sources": "sources and headers"}


def command(
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A compiled artifact.")],
    output: Annotated[Path, typer.Option(
        "--output", "-o", file_okay=False, help="The folder: new, empty, or of the same kind, which is replaced.")],
    triton: Annotated[bool, typer.Option(
        "--triton", help="Write a model folder for Triton's Python backend instead.")] = False,
    threads: Annotated[int | None, typer.Option(
        min=1, help="Threads of an instance under Triton [the artifact's]", show_default=False)] = None,
    max_batch: Annotated[int | None, typer.Option(
        min=1, help="Rows that Triton may run together [32]", show_default=False)] = None,
    sign: Annotated[Path | None, typer.Option(
        exists=True, dir_okay=False, help="Sign the model's file with this private Ed25519 key in PEM.")] = None,
    wheels: Annotated[Path | None, typer.Option(
        exists=True, file_okay=False, help="The folder of the runtime's wheels for another architecture.")] = None,
    require_signature: options.PublicKey = None,
    json: options.JsonFile = None,
) -> None:
    """Write a folder for C and C++ without Python, or for Triton.

    It holds the model, the runtime and a CMake project.
    """
    from sparsec.artifact.file import Artifact

    if triton:
        if wheels is not None:
            raise UsageError("--wheels is for bundles; Triton's Python has the runtime of its own machine")
        if sign is not None:
            raise UsageError("--sign signs the model's file of a bundle; sign an artifact by `sparsec compile --sign`")
        _triton(Artifact.load(artifact, require_signature=require_signature), output, threads, max_batch or ROWS, json)
        return
    if threads is not None or max_batch is not None:
        raise UsageError("--threads and --max-batch are options of --triton; a bundle's program chooses them itself")
    _bundle(Artifact.load(artifact, require_signature=require_signature), output, sign, wheels, json)


def _triton(artifact: Artifact, output: Path, threads: int | None, rows: int, json: Path | None) -> None:
    from sparsec.serving.triton import write_triton

    reason = write_triton(artifact, output, threads, rows)
    tables.console.print(f"each request runs by itself: {reason}" if reason else f"up to {rows} rows together")
    repository = shlex.quote(str(output.absolute().parent))
    tables.console.print(f"\ntritonserver --model-repository {repository}", soft_wrap=True)
    options.write_json(json, {"max_batch_size": 0 if reason else rows, "reason": reason})


def _bundle(artifact: Artifact, output: Path, sign: Path | None, wheels: Path | None, json: Path | None) -> None:
    from sparsec.native.bundle import write_bundle

    entries = write_bundle(artifact, output, sign, wheels=wheels)
    sums = {part: sum(each.nbytes for each in entries if each.part == part) for part in MEANINGS}
    tables.print_table(("part", "bytes"), [(MEANINGS[part], tables.nbytes(size)) for part, size in sums.items()],
                       ("all", tables.nbytes(sum(sums.values()))))
    source, build, run, model = (shlex.quote(f"{output}{each}")
                                 for each in ("", "/build", "/build/run", "/model.bundle"))
    tables.console.print(f"\ncmake -S {source} -B {build} && cmake --build {build}\n{run} {model}", soft_wrap=True)
    options.write_json(json, {"bytes": sums, "files": [asdict(each) for each in entries]})
