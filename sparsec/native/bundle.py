"""The folder that a model is deployed as: its file, the runtime libraries, and the sources of `libsparsec`."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsec import files
from sparsec.artifact import signing
from sparsec.artifact.file import Artifact
from sparsec.errors import ToolchainError, UsageError
from sparsec.machine import tvm_runtime
from sparsec.native.model_file import model_bytes

MODEL = "model.bundle"
SIZES = "sizes.json"
SOURCES = Path(__file__).parent / "sources"
LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
FFI = "apache-tvm-ffi"
"""The package of TVM's C interface, whose library and headers bundles hold."""
HEADERS = ("tvm_ffi/include/tvm/ffi/c_api.h", "tvm_ffi/include/dlpack/dlpack.h")
FFI_LIBRARY = "tvm_ffi/lib/libtvm_ffi.so"


@dataclass(frozen=True)
class Entry:
    """A file of a bundle: its path within, its bytes, and what it belongs to: "model", "runtime" or "sources"."""

    path: str
    nbytes: int
    part: str


def write_bundle(artifact: Artifact, folder: Path, sign: Path | None = None) -> list[Entry]:
    """Write the folder of an artifact; an earlier bundle there is replaced.

    Args:
        artifact: compiled for processors.
        folder: that does not exist, is empty or holds a bundle.
        sign: the file of a private Ed25519 key, by which the model's file is signed.

    Returns:
        Its files, which `SIZES` lists, too.

    Raises:
        UsageError: the artifact is none that runs without Python, or the folder holds something else.
        SignatureError: the key cannot be read.

    """
    if folder.exists() and any(folder.iterdir()) and not (folder / SIZES).is_file():
        raise UsageError(f"{folder} holds something that is not a bundle; give a new folder")
    data = model_bytes(artifact)
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / MODEL, data)
    entries = [Entry(MODEL, len(data), "model")]
    if sign is not None:
        files.write(signing.signature_path(folder / MODEL), signing.sign(data, sign))
        entries.append(Entry(f"{MODEL}.sig", signing.signature_path(folder / MODEL).stat().st_size, "model"))
    for part, source, path in (*runtime_files(), *source_files()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / path)
        entries.append(Entry(path, source.stat().st_size, part))
    sums = {part: sum(each.nbytes for each in entries if each.part == part) for part in ("model", "runtime", "sources")}
    report = {"bytes": sums, "files": {each.path: each.nbytes for each in entries}}
    files.write(folder / SIZES, json.dumps(report, indent=1).encode() + b"\n")
    return entries


def runtime_files() -> Iterator[tuple[str, Path, str]]:
    """TVM's runtime libraries with the header of its C interface and licences: part, where they are, where they go."""
    libraries = tvm_runtime.folder()
    for name in LIBRARIES:
        yield "runtime", libraries / name, f"lib/{name}"
    yield "runtime", packaged(FFI_LIBRARY), f"lib/{Path(FFI_LIBRARY).name}"
    for name in HEADERS:
        yield "sources", packaged(name), f"tvm/{name.partition('include/')[2]}"
    for name in ("LICENSE", "NOTICE"):
        yield "runtime", libraries.parent / name, f"licenses/tvm/{name}"


def source_files() -> Iterator[tuple[str, Path, str]]:
    """The sources of `libsparsec` and of the example."""
    for source in sorted(SOURCES.rglob("*")):
        if source.is_file():
            yield "sources", source, str(source.relative_to(SOURCES))


def packaged(name: str) -> Path:
    """A file of the installed package of TVM's C interface.

    Raises:
        ToolchainError: it is not there.

    """
    path = Path(str(importlib.metadata.distribution(FFI).locate_file(name)))
    if not path.is_file():
        raise ToolchainError(f"{FFI} lacks {name}; pip install --force-reinstall {FFI}")
    return path
