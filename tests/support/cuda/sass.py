"""Kernels through NVIDIA's compiler: what the assembler reports, and the instructions of the machine code."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from sparsec.kernels.cuda import tiles
from tests.support.cuda.emulator import launches

NVCC = shutil.which("nvcc")
PACKAGED = sorted(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/cuobjdump"))
CUOBJDUMP = shutil.which("cuobjdump") or next(map(str, PACKAGED), None)
MAXIMUM_REGISTERS = 255  # of a thread

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc, for example from the package nvidia-cuda-nvcc")
needs_cuobjdump = pytest.mark.skipif(CUOBJDUMP is None,
                                     reason="needs cuobjdump, for example from the package nvidia-cuda-cuobjdump")


@cache
def cubin(function, architecture):
    """The path of a kernel's cubin and what the assembler reports."""
    source = launches.lower(function, "tirx").source
    folder = Path(os.environ["XDG_CACHE_HOME"])
    path = folder / f"{abs(hash((source, architecture))):x}.cubin"
    text = path.with_suffix(".cu")
    text.write_text(source)
    command = [NVCC, f"-arch={architecture}", "--cubin", "-O3", "-w", "-Xptxas", "-v", "-o", path, text]
    return path, subprocess.run(command, capture_output=True, text=True, check=True).stderr


def check_limits(function, threads, shared, architecture, spills=0):
    """No more spills than some bytes, and at least one block fits a multiprocessor."""
    report = cubin(function, architecture)[1]
    assert max(map(int, re.findall(r"(\d+) bytes (?:spill|stack)", report))) <= spills
    assert "serialized" not in report  # products that are in flight at the same time
    registers = max(int(count) for count in re.findall(r"Used (\d+) registers", report))
    assert registers <= MAXIMUM_REGISTERS
    assert registers * threads <= tiles.LIMITS[architecture.removesuffix("a")].registers
    assert tiles.reject(shared, architecture.removesuffix("a")) is None


def instructions(function, architecture, name):
    """How many instructions of a name the kernel has."""
    dump = subprocess.run([CUOBJDUMP, "--dump-sass", cubin(function, architecture)[0]],
                          capture_output=True, text=True, check=True).stdout
    return len(re.findall(re.escape(name), dump))
