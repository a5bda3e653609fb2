"""The library that registers sparsec's operator with onnxruntime, compiled on this machine when it is first asked for.

Wheels hold its sources only: what it links with, TVM's runtime, lies in another package, at a place that is known once
both are installed. It is kept in the user's cache, by the sources and versions that it is made of.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sparsec import files
from sparsec.errors import ToolchainError
from sparsec.machine import tvm_runtime
from sparsec.native.bundle import SOURCES
from sparsec.native.runtime_files import FFI, FFI_LIBRARY, HEADERS, LIBRARIES, packaged

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-DSPARSEC_BUILD", "-pthread")
NAME = "libsparsec_onnxruntime.so"


def onnxruntime_library() -> str:
    """The path of the library, for onnxruntime's `SessionOptions.register_custom_ops_library`.

    Compiling it, once, takes half a minute.

    Raises:
        ToolchainError: no C++ compiler is installed, or it fails; or others may write to the user's cache.

    """
    sources = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cpp", ".hpp", ".h"))
    libraries = [*(tvm_runtime.folder() / name for name in LIBRARIES), packaged(FFI_LIBRARY)]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    key.update(" ".join([*FLAGS, *map(str, libraries), *(importlib.metadata.version(name) for name in (
        "apache-tvm", FFI))]).encode())
    path = files.cache_folder() / "native" / key.hexdigest()[:16] / NAME
    if not files.is_own(path):
        try:
            files.make_own(path.parent)
        except OSError as error:
            raise ToolchainError(f"{path} cannot be kept: {error.strerror}; XDG_CACHE_HOME names the folder of "
                                 "caches") from error
        files.write(path, _compiled([each for each in sources if each.suffix == ".cpp" and each.parts[-2] != "example"],
                                    libraries))
    return str(path)


def _compiled(sources: list[Path], libraries: list[Path]) -> bytes:
    """The library's bytes."""
    compiler = next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise ToolchainError("onnxruntime's operator is compiled when first used, and no C++ compiler is installed; "
                             "install g++ or clang, or build a bundle on another machine and take its "
                             f"{NAME} with what lies beside it")
    sys.stderr.write(f"sparsec: {compiler} compiles the library that onnxruntime loads, once, in half a minute\n")
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        output = Path(directory) / NAME
        includes = [SOURCES / "include", *(packaged(name).parents[_depth(name)] for name in HEADERS)]
        paths = sorted({str(library.parent) for library in libraries})
        done = subprocess.run([  # noqa: S603 - our own sources
            compiler, *FLAGS, *(f"-I{path}" for path in includes), *map(str, sources), "-Wl,--no-as-needed",
            *map(str, libraries), *(f"-Wl,-rpath,{path}" for path in paths), "-ldl", "-o", str(output)],
            capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolchainError(f"{compiler} failed: {done.stderr.strip()[-2000:]}")
        return output.read_bytes()


def _depth(name: str) -> int:
    """How many folders above a header its include folder lies."""
    return name.partition("include/")[2].count("/")
