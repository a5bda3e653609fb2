"""From a Relax executable to the bytes of a library, by whichever linker is installed."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm

from sparsec.errors import ToolchainError


@dataclass(frozen=True)
class Beside:
    """Kernels that are compiled apart from the program that calls them.

    Attributes:
        names: the functions.
        objects: waits for them: the object files, with others that the library holds beside those kernels'.

    """

    names: tuple[str, ...]
    objects: Callable[[], Sequence[bytes]]


LINKERS = ("ld", "ld.lld", "cc", "gcc", "g++", "clang")
CROSS = ("{machine}-linux-gnu-ld", "ld.lld", "{machine}-linux-gnu-gcc")
"""Those for another architecture than this machine's."""
OBJECT_BYTES = 16 << 20
"""Room that object files and the library of a large model take."""


def linker(machine: str | None = None) -> str | None:
    """The linker that is installed for an architecture, this machine's where none is named."""
    names = LINKERS if machine in (None, platform.machine()) else [name.format(machine=machine) for name in CROSS]
    return next(filter(shutil.which, names), None)


def export(executable: tvm.runtime.Executable, beside: Beside | None = None, *, machine: str | None = None,
           rewritten: Callable[[str], str] | None = None, **options: object) -> tuple[bytes, tuple[int, ...]]:
    """A shared object by whichever linker is installed, else the object files and their sizes, for TVM's JIT loader.

    Kernels beside it need a linker. `machine` is the architecture of the code, this one's where none is named;
    `rewritten` makes of LLVM's code, as text, what is compiled. Options are those of TVM's `export_library`.

    Raises:
        ToolchainError: the linker fails, or there is no room for temporary files.

    """
    link_with = linker(machine)
    objects: list[bytes] = []

    def finish(output: str, paths: Sequence[str], **_options: object) -> None:
        if rewritten is not None:
            paths = [_assembled(Path(path), rewritten) for path in paths]
        if link_with is None:
            objects.extend(Path(path).read_bytes() for path in paths)
            Path(output).write_bytes(b"".join(objects))
            return
        others = [] if beside is None else _linked(beside, link_with, Path(output).parent, paths)
        done = subprocess.run([link_with, "-shared", "-o", output, *paths, *others],  # noqa: S603 - our own files
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolchainError(f"{link_with} failed: {done.stderr.strip()}")

    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        if (free := shutil.disk_usage(directory).free) < OBJECT_BYTES:  # LLVM ends the process where writing fails
            raise ToolchainError(f"{free} bytes are left for temporary files beside {directory}, and compiling takes "
                                 f"up to {OBJECT_BYTES}; make room or set TMPDIR to a directory with more")
        path = Path(directory) / "library"
        if rewritten is not None:
            finish.object_format = "ll"  # type: ignore[attr-defined]  # how TVM is told
        executable.export_library(str(path), fcompile=finish, **options)
        return path.read_bytes(), tuple(map(len, objects))


def _assembled(path: Path, rewritten: Callable[[str], str]) -> str:
    """The object file of LLVM's code in a file."""
    path.write_text(rewritten(path.read_text()))
    made = path.with_suffix(".o")
    tvm.runtime.load_module(str(path)).write_to_file(str(made), "o")
    return str(made)


def _linked(beside: Beside, link_with: str, folder: Path, callers: Sequence[str]) -> list[str]:
    """The linker's arguments for the object files in a folder; kernels bear TVM's prefix and are called without it.

    Names are quoted, since some are words of the linker's own language, and bound inside the library, whatever else the
    process has of that name.
    """
    paths = []
    for number, content in enumerate(beside.objects()):
        paths.append(folder / f"beside{number}.o")
        paths[-1].write_bytes(content)
    through = "" if "ld" in link_with.rsplit("-", maxsplit=1)[-1] else "-Wl,"
    names = (f'--defsym="{name}"=__tvm_ffi_{name.partition(".")[0]}' for name in _declared(beside.names, callers))
    return [*map(str, paths), *(f"{through}{option}" for option in ("-Bsymbolic", *names))]


def _declared(names: Sequence[str], callers: Sequence[str]) -> list[str]:
    """The names that object files call functions by: LLVM adds a number to that of one which is declared again.

    In a table of symbols the end of a longer name may stand for another.
    """
    again: set[str] = set()
    for content in (Path(path).read_bytes() for path in callers):
        for found in re.findall(rb"(?<=\0)[A-Za-z_]\w*\.\d+(?=\0)", content):
            name, _, number = found.decode().partition(".")
            again |= {f"{each}.{number}" for each in names if name.endswith(each)}
    return [*names, *sorted(again)]
