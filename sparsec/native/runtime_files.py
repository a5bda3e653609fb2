"""TVM's runtime libraries for a bundle: this machine's from the installed packages, another's from their wheels."""

from __future__ import annotations

import importlib.metadata
import platform
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sparsec.errors import ToolchainError, UsageError
from sparsec.machine import tvm_runtime

FFI = "apache-tvm-ffi"
"""The package of TVM's C interface, whose library and headers bundles hold."""
LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
FFI_LIBRARY = "tvm_ffi/lib/libtvm_ffi.so"
HEADERS = ("tvm_ffi/include/tvm/ffi/c_api.h", "tvm_ffi/include/dlpack/dlpack.h")
LICENCES = ("LICENSE", "NOTICE")


def runtime_files(machine: str, wheels: Path | None = None) -> Iterator[tuple[str, bytes, str]]:
    """TVM's runtime libraries with the headers of its C interface and licences: part, content, where it goes.

    Args:
        machine: the architecture, as `uname -m` has it.
        wheels: a folder with the wheels of TVM and its C interface for that architecture; needed where it is not
            this machine's.

    Raises:
        UsageError: they are not there; says how to download them.
        ToolchainError: a package lacks a file.

    """
    if wheels is None and machine != platform.machine():
        raise UsageError(f"the model is for {machine} and this is {platform.machine()}; give --wheels a folder with "
                         f"the runtime's wheels for {machine}, which `{download(machine)}` fills")
    if wheels is None:
        yield from _installed()
        return
    tvm, ffi = (_wheel(wheels, name, machine) for name in ("apache-tvm", FFI))
    for name in LIBRARIES:
        yield "runtime", _member(tvm, f"tvm/lib/{name}"), f"lib/{name}"
    yield "runtime", _member(ffi, FFI_LIBRARY), f"lib/{Path(FFI_LIBRARY).name}"
    for name in HEADERS:
        yield "sources", _member(ffi, name), f"tvm/{name.partition('include/')[2]}"
    for name in LICENCES:
        yield "runtime", _member(tvm, f"tvm/{name}"), f"licenses/tvm/{name}"


def download(machine: str) -> str:
    """The command that downloads the wheels of the installed versions for an architecture."""
    needed = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in ("apache-tvm", FFI))
    return (f"pip download --no-deps --only-binary :all: --platform manylinux_2_28_{machine} --python-version 3.11 "
            f"-d wheels {needed}")


def _installed() -> Iterator[tuple[str, bytes, str]]:
    libraries = tvm_runtime.folder()
    for name in LIBRARIES:
        yield "runtime", (libraries / name).read_bytes(), f"lib/{name}"
    yield "runtime", packaged(FFI_LIBRARY).read_bytes(), f"lib/{Path(FFI_LIBRARY).name}"
    for name in HEADERS:
        yield "sources", packaged(name).read_bytes(), f"tvm/{name.partition('include/')[2]}"
    for name in LICENCES:
        yield "runtime", (libraries.parent / name).read_bytes(), f"licenses/tvm/{name}"


def _wheel(folder: Path, package: str, machine: str) -> Path:
    """The wheel of a package's installed version for an architecture."""
    version = importlib.metadata.version(package)
    found = sorted(folder.glob(f"{package.replace('-', '_')}-{version}-*_{machine}.whl"))
    if not found:
        raise UsageError(f"{folder} has no wheel of {package} {version} for {machine}; `{download(machine)}` downloads "
                         "it")
    return found[0]


def _member(wheel: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ToolchainError(f"{wheel} lacks {name} or is damaged ({error}); download it again") from error


def packaged(name: str) -> Path:
    """A file of the installed package of TVM's C interface.

    Raises:
        ToolchainError: it is not there.

    """
    path = Path(str(importlib.metadata.distribution(FFI).locate_file(name)))
    if not path.is_file():
        raise ToolchainError(f"{FFI} lacks {name}; pip install --force-reinstall {FFI}")
    return path
