"""Measure the rates that the cost model needs of the GPU at hand, with kernels of our own."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np

from sparsec.backends.cuda import driver
from sparsec.backends.cuda.device import open_memory
from sparsec.backends.cuda.measuring import compiled_kernel, loaded
from sparsec.backends.cuda.replay import replay
from sparsec.backends.cuda.toolchain import version
from sparsec.cost.gpu import DEVICES
from sparsec.cost.gpu_calibration import GpuRates
from sparsec.errors import CalibrationError
from sparsec.kernels.cuda import probes
from sparsec.kernels.emit.tir import Kernel
from sparsec.target import Target

ROUNDS = 5
LAUNCHES = 100  # of a kernel with nothing to do, in a graph
FLOAT = 4
FAR_BYTES, CACHES = 512 << 20, 8  # what memory is measured on: at least so many bytes, and times the L2 cache
NEAR_BYTES = 4 << 20  # what the L2 cache is measured on, which holds it whichever GPU it is
FAR_TURNS, NEAR_TURNS = 16, 128
NEAR_STRIDE = 97  # pieces, so that no multiprocessor reads again what its L1 cache still holds
L2_BYTES, MULTIPROCESSORS = 38, 16  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE and …_MULTIPROCESSOR_COUNT


def check(target: Target) -> None:
    """Check that the GPU at hand runs a target's code and that there is a compiler.

    Raises:
        CalibrationError: it does not; the message says which target it can be calibrated for.
        ToolchainError: nvcc is missing.

    """
    gpu = driver.probe()
    if (reason := driver.missing(gpu)) is not None:
        raise CalibrationError(f"'{target.name}' cannot be calibrated here: {reason}; calibrate where the GPU is")
    assert gpu is not None
    assert gpu.capability is not None  # nothing is missing
    if not any(driver.runs(arch, gpu) for arch in target.archs):
        here = "".join(map(str, gpu.capability))
        way = (f"--target cuda-sm{here} calibrates it" if f"sm_{here}" in DEVICES else
               f"GPUs that can be calibrated are {', '.join(DEVICES)}")
        raise CalibrationError(f"'{target.name}' cannot be calibrated here: this GPU is an sm_{here}; {way}")
    version()


def measure(target: Target, progress: Callable[[str], None] = lambda _what: None) -> GpuRates:
    """The rates of the GPU at hand, without factors.

    Raises:
        CalibrationError, ToolchainError: as `check`.
        DeviceError: the GPU fails, or its memory does not hold half a GB.

    """
    check(target)
    progress("launches")
    launch = _timed(probes.nothing(), target, 1, 1, LAUNCHES)
    progress("bandwidths")
    far = max(FAR_BYTES, CACHES * driver.attribute(L2_BYTES)) // (FLOAT * probes.PIECE) // FAR_TURNS * FAR_TURNS
    memory = _bandwidth(target, launch, far, far // FAR_TURNS, FAR_TURNS, far // FAR_TURNS)
    near = NEAR_BYTES // (FLOAT * probes.PIECE)
    l2 = _bandwidth(target, launch, near, near, NEAR_TURNS, NEAR_STRIDE)
    count = driver.attribute(MULTIPROCESSORS) or DEVICES[target.archs[0]].multiprocessors
    return GpuRates(launch, memory, max(l2, memory), count)


def _bandwidth(target: Target, launch_s: float, pieces: int, blocks: int, turns: int, stride: int) -> float:
    """Bytes per second that blocks read."""
    seconds = _timed(probes.read(pieces, blocks, turns, stride), target, pieces * probes.PIECE, blocks * probes.THREADS)
    return FLOAT * probes.PIECE * blocks * turns / max(seconds - launch_s, seconds / 2)


def _timed(kernel: Kernel, target: Target, inputs: int, outputs: int, launches: int = 1) -> float:
    """Seconds that a launch takes of a kernel of so many floats, of one input where there are several buffers."""
    library, archs = compiled_kernel(kernel, target)
    memory, function = open_memory(archs, version()), loaded(library)
    sizes = [inputs, outputs][-len(kernel.params):]
    tensors = [memory.place(np.zeros(size, np.float32)) for size in sizes]

    def call() -> None:
        for _ in range(launches):
            function(*tensors)

    seconds = replay(call)
    return median(seconds() for _ in range(ROUNDS)) / launches
