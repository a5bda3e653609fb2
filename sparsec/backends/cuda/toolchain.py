"""nvcc: where it is, and CUDA source compiled to one fat binary for several architectures.

No GPU and no driver is needed. nvcc comes from the system, or with a host compiler from the extra `sparsec[cuda]`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparsec import files
from sparsec.backends.cuda.driver import is_exact
from sparsec.errors import ToolchainError

FLAGS = ("-O3", "-std=c++17", "-w", "--fatbin", "--threads=0", "--split-compile=0")
"""The last two compile architectures and kernels side by side, on all processors."""
KEPT = 256
"""Compiled sources that the cache holds; the oldest make room."""
_PACKAGED = ("cu13",)
"""Folders of NVIDIA's PyPI packages below the namespace package `nvidia`."""


@dataclass(frozen=True)
class Toolchain:
    """A CUDA compiler.

    Attributes:
        nvcc: the program.
        includes: folders of headers that it does not find by itself.

    """

    nvcc: Path
    includes: tuple[Path, ...] = ()


def find() -> Toolchain:
    """The compiler: that of CUDA_HOME, the one on PATH, or the one of the PyPI packages.

    Raises:
        ToolchainError: there is none, or no C++ compiler beside it; says what to install.

    """
    toolchain = _installed() or _packaged()
    if toolchain is None:
        raise ToolchainError("no CUDA compiler: nvcc is neither below CUDA_HOME nor on PATH nor installed as a "
                             "package; pip install 'sparsec[cuda]' or install NVIDIA's CUDA toolkit 13")
    if shutil.which("g++") is None:
        raise ToolchainError(f"{toolchain.nvcc} needs a C++ compiler and there is no g++ on PATH; install g++")
    return toolchain


def fat_binary(source: str, archs: Sequence[str]) -> bytes:
    """CUDA source compiled for every architecture, and to PTX of the oldest for GPUs that are newer than all of them.

    Args:
        source: what TVM's code generator writes.
        archs: such as "sm_80"; or "sm_90a" alone, which has no PTX for others.

    Raises:
        ToolchainError: there is no compiler, or it fails.

    """
    toolchain = find()
    told = json.dumps([source, sorted(archs), FLAGS, version()])
    kept = files.cache_folder() / "cuda" / f"{hashlib.sha256(told.encode()).hexdigest()}.fatbin"
    if files.is_own(kept):
        return files.read_regular(kept)
    binary = _compiled(toolchain, source, archs)
    _keep(kept, binary)
    return binary


def _keep(path: Path, binary: bytes) -> None:
    """Write what was compiled to the cache; one that cannot be written is none."""
    try:
        files.make_own(path.parent)
        files.write(path, binary)
        for _, old in sorted(_written(path.parent))[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"the cache {path.parent} cannot be written ({error.strerror}); kernels are compiled again next "
                      "time", stacklevel=2)


def _written(folder: Path) -> Iterator[tuple[float, Path]]:
    """When each of the compiled sources in a folder was; without those that others remove meanwhile."""
    for each in folder.glob("*.fatbin"):
        with suppress(FileNotFoundError):
            yield each.stat().st_mtime, each


def _compiled(toolchain: Toolchain, source: str, archs: Sequence[str]) -> bytes:
    """What nvcc makes of CUDA source."""
    wanted = []
    for arch in archs:
        virtual = arch.replace("sm_", "compute_")
        wanted += ["-gencode", f"arch={virtual},code={arch}"]
    if not any(map(is_exact, archs)):
        oldest = min(archs, key=_number).replace("sm_", "compute_")
        wanted += ["-gencode", f"arch={oldest},code={oldest}"]
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:
        code, binary = Path(directory) / "kernels.cu", Path(directory) / "kernels.fatbin"
        code.write_text(source, encoding="utf-8")
        command = [str(toolchain.nvcc), *FLAGS, *wanted, *(f"-I{each}" for each in toolchain.includes),
                   "-o", str(binary), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if done.returncode:
            raise ToolchainError(f"{toolchain.nvcc} failed: {done.stderr.strip()[-2000:]}")
        return binary.read_bytes()


@functools.cache
def version() -> tuple[int, ...]:
    """The compiler's version of CUDA, such as (13, 0).

    Raises:
        ToolchainError: there is no compiler, or it does not say.

    """
    nvcc = find().nvcc
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - found
    if (release := re.search(r"release (\d+)\.(\d+)", told)) is None:
        raise ToolchainError(f"{nvcc} does not tell its version; pip install 'sparsec[cuda]' for one that does")
    return int(release[1]), int(release[2])


def _installed() -> Toolchain | None:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    return None if found is None else Toolchain(Path(found))


def _packaged() -> Toolchain | None:
    """The compiler of `nvidia-cuda-nvcc`, with the headers of `nvidia-cuda-cccl`."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for version in _PACKAGED:
            root = Path(folder) / version
            if (root / "bin" / "nvcc").exists():
                return Toolchain(root / "bin" / "nvcc", (root / "include" / "cccl",))
    return None


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))
