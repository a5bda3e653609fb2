"""From a Relax executable to the bytes of a library, by whichever linker is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tvm

from sparsec.errors import ToolchainError

LINKERS = ("ld", "ld.lld", "cc", "gcc", "g++", "clang")
OBJECT_BYTES = 16 << 20
"""Room that object files and the library of a large model take."""


def export(executable: tvm.runtime.Executable, **options: object) -> tuple[bytes, tuple[int, ...]]:
    """A shared object by whichever linker is installed, else the object files and their sizes, for TVM's JIT loader.

    Options are those of TVM's `export_library`.

    Raises:
        ToolchainError: the linker fails, or there is no room for temporary files.

    """
    linker = next(filter(shutil.which, LINKERS), None)
    objects: list[bytes] = []

    def finish(output: str, paths: Sequence[str], **_options: object) -> None:
        if linker is None:
            objects.extend(Path(path).read_bytes() for path in paths)
            Path(output).write_bytes(b"".join(objects))
            return
        done = subprocess.run([linker, "-shared", "-o", output, *paths],  # noqa: S603 - our own temporary files
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolchainError(f"{linker} failed: {done.stderr.strip()}")

    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        if (free := shutil.disk_usage(directory).free) < OBJECT_BYTES:  # LLVM ends the process where writing fails
            raise ToolchainError(f"{free} bytes are left for temporary files beside {directory}, and compiling takes "
                                 f"up to {OBJECT_BYTES}; make room or set TMPDIR to a directory with more")
        path = Path(directory) / "library"
        executable.export_library(str(path), fcompile=finish, **options)
        return path.read_bytes(), tuple(map(len, objects))
