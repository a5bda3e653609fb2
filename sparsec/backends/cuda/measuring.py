"""Times products on the GPU at hand, for `--tune measure`: one kernel alone, from a CUDA graph of its launches.

Launches take turns with copies of the weight that the L2 cache does not hold together, as a network's other layers
would drive a weight out of it; activations stay.
"""

from __future__ import annotations

import functools
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir
import tvm
import tvm_ffi

from sparsec.backends.cuda import cublaslt, driver
from sparsec.backends.cuda.build import architectures, settings
from sparsec.backends.cuda.device import open_memory
from sparsec.backends.cuda.library import build_library
from sparsec.backends.cuda.planning import layer_of
from sparsec.backends.cuda.products import kernel_of, weight_arrays
from sparsec.backends.cuda.replay import replay
from sparsec.backends.cuda.toolchain import version
from sparsec.cost.option import Option
from sparsec.errors import DeviceError, ToolchainError
from sparsec.kernels.cuda import encoding
from sparsec.kernels.cuda.codes import Codes
from sparsec.kernels.cuda.families import FAMILIES
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import HALVES, MmaParams
from sparsec.kernels.emit.tir import Kernel
from sparsec.machine import tvm_runtime
from sparsec.machine.memory import Memory
from sparsec.target import Target

COLD_BYTES = 128 << 20
"""Of weights that take turns: more than twice the L2 cache of any GPU that is known."""
MOST, ROUNDS = 20, 5
"""Copies of a weight, and times that all of them are multiplied by."""


@dataclass(frozen=True)
class Here:
    """The GPU at hand; see `backends.job.Measurer`.

    Attributes:
        machine: the GPU's name and the driver's version.
        workers: kernels that are timed at once.
        here: it can time whole programs, too.

    """

    machine: str
    workers: int = 1
    here: bool = True

    def prepare(self, options: Sequence[Option], target: Target, threads: int) -> None:
        """Nothing: kernels are compiled one after the other."""

    def measure(self, node: ir.Node, option: Option, target: Target,
                threads: int) -> float | None:  # noqa: ARG002 - the host's
        """Seconds that an option takes for a node; infinity where its library fails, None where that is not here."""
        library = FAMILIES[option.family].library
        if library and (reason := cublaslt.absent()) is not None:
            warnings.warn(f"kernels that call {library} are not timed, and stand behind those that are: here {reason}",
                          stacklevel=2)
            return None
        try:
            return prepare(node, option, target)()
        except DeviceError as error:
            if not library:
                raise
            warnings.warn(f"'{node.name}' does not run by {library}: {error}", stacklevel=2)
            return math.inf


def measurer(target: Target) -> Here | None:
    """The GPU at hand, None where there is none that runs the target's code."""
    gpu = driver.probe()
    if driver.missing(gpu) is not None or gpu is None or not any(driver.runs(arch, gpu) for arch in target.archs):
        return None
    return Here(f"{driver.name()}, CUDA {'.'.join(map(str, gpu.cuda))}")


def prepare(node: ir.Node, option: Option, target: Target) -> Callable[[], float]:
    """As `prepare_product`, for a node."""
    layer = layer_of(node)
    assert layer is not None  # it has options
    return prepare_product(layer, option, target)


def prepare_product(layer: GpuProduct, option: Option, target: Target) -> Callable[[], float]:
    """Compile an option for a layer and place its weight on the GPU; the result times it.

    Raises:
        ArtifactError: the GPU cannot run it.
        ToolchainError: nvcc or a linker is missing.
        DeviceError: the GPU fails.

    """
    family = FAMILIES[option.family]
    library, archs = compiled(option.family, option.params, target)
    called = (family.library,) if family.library else ()
    memory, function = open_memory(archs, version(), called), loaded(library)
    arguments = family.arguments(option.params)
    weight, random = weight_arrays(layer, option, arguments["x"][1]), np.random.default_rng(0)
    activations = {name: memory.place(_some(random, size, dtype, zero=name not in ("x", "residual")))
                   for name, (size, dtype) in list(arguments.items())[len(weight):]}
    copies = [list(map(memory.place, weight)) for _ in range(min(MOST, COLD_BYTES // max(1, option.nbytes) + 1))]
    before = _encoding(layer, option, target, memory, activations["x"]) if option.encodes else []

    def call() -> None:
        for copy in copies:
            for encode in before:
                encode()
            function(*copy, *activations.values())

    seconds = replay(call)
    return lambda: median(seconds() for _ in range(ROUNDS)) / len(copies)


def _some(random: np.random.Generator, size: int, dtype: str, *, zero: bool) -> np.ndarray:
    """An array of some numbers of a type, or of zeros."""
    kind = np.dtype(dtype)
    if zero or kind.kind not in "iu":
        return (np.zeros(size, np.float32) if zero else random.standard_normal(size, np.float32)).astype(kind)
    return random.integers(np.iinfo(kind).min, np.iinfo(kind).max, size, kind, endpoint=True)


def _encoding(layer: GpuProduct, option: Option, target: Target, memory: Memory, x: tvm_ffi.Tensor,
              ) -> list[Callable[[], None]]:
    """What makes the codes that a kernel reads of floats, at the address of its activations."""
    codes = layer.codes(FAMILIES[option.family].dtype)
    assert isinstance(codes, Codes)  # it was offered
    assert isinstance(option.params, MmaParams)
    size, half = option.params.inputs, HALVES[option.codec]
    function = loaded(encoder(size, half, codes.dtype, target)[0])
    floats, numbers = memory.place(_some(np.random.default_rng(0), size, half, zero=False)), memory.place(codes.numbers)
    return [lambda: function(floats, numbers, x)]


@functools.lru_cache(maxsize=256)
def compiled(family: str, params: MmaParams, target: Target) -> tuple[bytes, tuple[str, ...]]:
    """The library of a kernel, which layers with equal parameters share, and what its code is for."""
    return compiled_kernel(kernel_of(family, params), target)


@functools.lru_cache(maxsize=256)
def encoder(size: int, source: str, dtype: str, target: Target) -> tuple[bytes, tuple[str, ...]]:
    """The library of a kernel that makes codes of so many floats, and what its code is for."""
    return compiled_kernel(encoding.build(size, source, dtype), target)


def compiled_kernel(kernel: Kernel, target: Target) -> tuple[bytes, tuple[str, ...]]:
    """The library of one kernel, and what its code is for.

    Raises:
        ToolchainError: nvcc or a linker is missing.

    """
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main").without_attr("tirx.private")})
    with settings(target) as cuda:
        executable = tvm.compile(module, target=cuda, tir_pipeline="tirx")
    archs = architectures(module, target)
    library, objects = build_library(executable, archs)
    if objects:
        raise ToolchainError("kernels are timed in a linked library and there is no linker; install ld, lld, gcc or "
                             "clang")
    return library, archs


def loaded(library: bytes) -> Callable[..., None]:
    """The function of a library."""
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:  # the system maps files only
        path = Path(directory) / "kernel.so"
        path.write_bytes(library)
        function: Callable[..., None] = tvm_runtime.load().load_module(str(path))["main"]
    return function
