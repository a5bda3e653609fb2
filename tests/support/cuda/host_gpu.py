"""Compiles `host_gpu.c` and what stands on it; a process whose LD_LIBRARY_PATH begins with the folder has it for CUDA.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sparsec.errors import SparsecError

HERE = Path(__file__).parent
COMPILER = shutil.which("gcc")
VERSIONS = "libcudart.so.13 { global: cuda*; local: *; };"


def build(folder):
    """The two libraries."""
    script = folder / "versions"
    script.write_text(VERSIONS)
    cuda = _library(folder, "libcuda.so.1", "host_gpu.c")
    _library(folder, "libcudart.so.13", "host_cudart.c", f"-Wl,--version-script={script}", cuda)


def build_cublaslt(folder):
    """The path of the third, which computes on streams of the others where they are loaded, and else at once."""
    return _library(folder, "libcublasLt.so.13", "host_cublaslt.c", "-O2", "-lm", "-ldl")


def _library(folder, name, source, *options):
    path = folder / name
    subprocess.run([COMPILER, "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", HERE / source, "-o", path, *options],
                   check=True)
    return path


def environment(folder, **settings):
    """The environment of a process that has the libraries of a folder; settings as `host_gpu.c` describes them."""
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(Path.cwd()), **settings}


def told(folder, script, **settings):
    """What a script prints last, as JSON, in a process that has the folder's libraries, and its name as argument."""
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False,
                          env=environment(folder, **settings))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def changed(before):
    """The counts that differ from earlier ones, by how much."""
    after = counts()
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def refused(call):
    """The error of sparsec that a call ends with."""
    try:
        call()
    except SparsecError as error:
        return f"{type(error).__name__}: {error}"
    return None


def log():
    """What this process has launched: (what, kernel, stream, bytes of shared memory) in order."""
    cuda = ctypes.CDLL("libcuda.so.1")
    cuda.host_log.restype = ctypes.c_char_p
    rows = (line.split() for line in cuda.host_log().decode().splitlines())
    return [(what, name, int(stream), int(shared)) for what, name, stream, shared in rows]


def counts():
    """What this process has of every kind, has made of it, and has done."""
    cuda = ctypes.CDLL("libcuda.so.1")
    cuda.host_counts.restype = ctypes.c_char_p
    return {name: int(count) for name, count in (line.split() for line in cuda.host_counts().decode().splitlines())}
