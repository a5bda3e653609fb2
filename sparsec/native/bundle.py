"""The folder that a model is deployed as: its file, the runtime libraries, and the sources of `libsparsec`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsec import files
from sparsec.artifact import signing
from sparsec.artifact.file import Artifact
from sparsec.errors import UsageError
from sparsec.native.model_file import model_bytes
from sparsec.native.runtime_files import runtime_files

MODEL = "model.bundle"
SIZES = "sizes.json"
SOURCES = Path(__file__).parent / "sources"

@dataclass(frozen=True)
class Entry:
    """A file of a bundle: its path within, its bytes, and what it belongs to: "model", "runtime" or "sources"."""

    path: str
    nbytes: int
    part: str


def write_bundle(artifact: Artifact, folder: Path, sign: Path | None = None, *, wheels: Path | None = None,
                 ) -> list[Entry]:
    """Write the folder of an artifact; an earlier bundle there is replaced.

    Args:
        artifact: compiled for processors.
        folder: that does not exist, is empty or holds a bundle.
        sign: the file of a private Ed25519 key, by which the model's file is signed.
        wheels: a folder with the wheels of TVM's runtime; needed for artifacts of another architecture.

    Returns:
        Its files, which `SIZES` lists, too.

    Raises:
        UsageError: the artifact is none that runs without Python, or the folder holds something else; or the wheels
            are missing.
        SignatureError: the key cannot be read.

    """
    if folder.exists() and any(folder.iterdir()) and not (folder / SIZES).is_file():
        raise UsageError(f"{folder} holds something that is not a bundle; give a new folder")
    data = model_bytes(artifact)
    machine = artifact.manifest.platform.removeprefix("linux-")
    copied = [*runtime_files(machine, wheels), *source_files()]
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / MODEL, data)
    entries = [Entry(MODEL, len(data), "model")]
    if sign is not None:
        files.write(signing.signature_path(folder / MODEL), signing.sign(data, sign))
        entries.append(Entry(f"{MODEL}.sig", signing.signature_path(folder / MODEL).stat().st_size, "model"))
    for part, content, path in copied:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        files.write(folder / path, content)
        entries.append(Entry(path, len(content), part))
    sums = {part: sum(each.nbytes for each in entries if each.part == part) for part in ("model", "runtime", "sources")}
    report = {"bytes": sums, "files": {each.path: each.nbytes for each in entries}}
    files.write(folder / SIZES, json.dumps(report, indent=1).encode() + b"\n")
    return entries


def source_files() -> Iterator[tuple[str, bytes, str]]:
    """The sources of `libsparsec` and of the example: part, content, where it goes."""
    for source in sorted(SOURCES.rglob("*")):
        if source.is_file():
            yield "sources", source.read_bytes(), str(source.relative_to(SOURCES))
