"""Programs for aarch64 on this machine: cross-compiled, and run by qemu with TVM's runtime from its aarch64 wheels.

`make arm` downloads the wheels into `.arm`; without them, a cross compiler or qemu, tests skip and say so.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tvm

from sparsec import files
from sparsec.backends.cpu.build import exported, settings
from sparsec.native.bundle import SOURCES
from sparsec.native.runtime_files import runtime_files
from sparsec.native.types import TYPES
from sparsec.target import resolve

WHEELS = Path(os.environ.get("SPARSEC_ARM_WHEELS", Path(__file__).parents[2] / ".arm"))
COMPILER, EMULATOR, SYSTEM = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
GUARD = 64  # bytes behind every array
MISSING = [name for name, there in (
    ("g++-aarch64-linux-gnu", shutil.which(COMPILER)), ("qemu-user", shutil.which(EMULATOR)),
    ("the aarch64 wheels of TVM's runtime (make arm)", list(WHEELS.glob("*aarch64.whl")))) if not there]
NEEDS_ARM = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
NEON = ("cpu-neon", "cpu-neon-bf16", "cpu-sve")


def emulated(*command, cpu="max,sve-default-vector-length=32"):
    """A program's run by qemu, else as a processor with everything and scalable vectors of 256 bits."""
    return subprocess.run([EMULATOR, "-cpu", cpu, "-L", SYSTEM, *map(str, command)], capture_output=True, text=True,
                          check=False, timeout=300)


@functools.cache
def runtime():
    """A folder with TVM's runtime libraries for aarch64, beside the wheels."""
    folder = WHEELS / "runtime"
    for _, content, path in runtime_files("aarch64", WHEELS):
        if not (folder / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            files.write(folder / path, content)
    return folder


def built(name, *sources):
    """A program of C++ sources, as one unit, with TVM's runtime; kept beside the wheels, since it takes a minute."""
    folder = runtime()
    headers = sorted(SOURCES.rglob("*.h*"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in (*sources, *headers))).hexdigest()[:16]
    made = folder / f"{name}-{key}"
    if made.is_file():
        return made
    with tempfile.TemporaryDirectory() as scratch:
        unit = Path(scratch) / "unit.cpp"
        unit.write_text("".join(f'#include "{path}"\n' for path in sources))
        done = subprocess.run([COMPILER, "-std=c++17", "-DSPARSEC_BUILD", *(f"-I{path}" for path in (
            SOURCES / "src", SOURCES / "include", folder / "tvm")), str(unit), "-Wl,--no-as-needed",
            *map(str, sorted((folder / "lib").glob("*.so"))), f"-Wl,-rpath,{folder / 'lib'}", "-ldl", "-pthread", "-o",
            f"{unit}.out"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        files.write(made, Path(f"{unit}.out").read_bytes())
    made.chmod(0o755)
    return made


@functools.cache
def driver():
    """The program of tests/native/kernels.cpp."""
    return built("kernels", Path(__file__).parents[1] / "native" / "kernels.cpp", SOURCES / "src" / "ffi.cpp")


@functools.cache
def example():
    """The example of bundles, with libsparsec in it."""
    library = (path for folder in (SOURCES / "src", SOURCES / "src" / "sized") for path in sorted(folder.glob("*.cpp")))
    return built("example", *library, SOURCES / "example" / "run.cpp")


def compiled(func, name):
    """As `targets.compiled`, the kernel as a function of numpy arrays; qemu runs it."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main").without_attr("tirx.private")})
    target = resolve(name)
    with settings(target) as llvm:
        library, objects = exported(tvm.compile(module, target=llvm), target)
    assert not objects

    def run(*arrays, out, dtype="float32"):
        y = np.full(out, 77 if dtype == "uint8" else np.nan, dtype)
        return call(library, *arrays, y)[-1]

    return run


def call(library, *arrays):
    """The arrays after a call of a library's `main`; what lies behind each must be as it was."""
    flat = [np.ascontiguousarray(each) for each in arrays]
    head = np.array([len(flat), *(number for each in flat for number in (TYPES[each.dtype.name], each.size))], np.int64)
    content = head.tobytes().ljust(-head.nbytes % 64 + head.nbytes)
    places = []
    for each in flat:
        places.append(len(content))
        content += each.tobytes() + b"\xff" * (GUARD + -each.nbytes % 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.so").write_bytes(library)
        (folder / "arrays").write_bytes(content)
        done = emulated(driver(), folder / "main.so", folder / "arrays")
        assert done.returncode == 0, done.stderr
        after = (folder / "arrays").read_bytes()
    for place, each in zip(places, flat, strict=True):
        assert set(after[place + each.nbytes:][:GUARD]) == {0xFF}, "the kernel wrote behind an array"
    return [np.frombuffer(after, each.dtype, each.size, place) for place, each in zip(places, flat, strict=True)]
