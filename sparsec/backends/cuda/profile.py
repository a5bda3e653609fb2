"""Time every kernel of a lowered model on the GPU: each by itself, with the inputs that the model gives it.

A kernel is replayed where the virtual machine calls it, so that its time is neither that of its launch by the host nor
its neighbours'; its weight may be in the L2 cache, where a network's other layers would have driven it out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import tvm

from sparsec.backends.base import KernelTime
from sparsec.backends.cuda.build import build, libraries
from sparsec.backends.cuda.device import open_memory
from sparsec.backends.cuda.replay import replay
from sparsec.backends.cuda.storages import ENTRY, STORAGES
from sparsec.backends.cuda.toolchain import version
from sparsec.backends.program import Program
from sparsec.backends.relax.lower import Lowered
from sparsec.backends.relax.timing import CONTINUE, named
from sparsec.errors import ToolchainError
from sparsec.machine import tvm_runtime


def profile(lowered: Lowered, feeds: Mapping[str, np.ndarray], rounds: int = 5) -> list[KernelTime]:
    """The calls of one inference, in order; `feeds` has an array for every input.

    Raises:
        ArtifactError: there is no GPU that the kernels run on.
        ToolchainError: there is no linker.
        SparsecError: CUDA cannot record a kernel, or it fails.

    """
    memory = open_memory(lowered.target.archs, version(), libraries(lowered.module))
    machine = _load(build(lowered, "bytecode"))["vm_load_executable"]()
    machine["vm_initialization"](*memory.devices)
    calls: list[tuple[str, float]] = []

    def instrument(function: Callable[..., object], symbol: str, before: bool, _result: object,  # noqa: FBT001 - TVM's
                   *arguments: object) -> int:
        if before and not symbol.startswith("vm."):
            seconds = replay(partial(function, *arguments))
            calls.append((symbol, float(np.median([seconds() for _ in range(rounds)]))))
        return CONTINUE

    arrays = (*(feeds[spec.name] for spec in lowered.inputs), *lowered.constants)
    machine["set_instrument"](instrument)
    machine[ENTRY](*map(memory.place, arrays), *machine[STORAGES]())
    return named([symbol for symbol, _ in calls], [seconds for _, seconds in calls], lowered)


def _load(program: Program) -> tvm.runtime.Module:
    if program.objects:
        raise ToolchainError("kernels are timed in a linked library and there is no linker; install ld, lld, gcc or "
                             "clang")
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:  # the system maps files only
        path = Path(directory) / "model.so"
        path.write_bytes(program.library)
        return tvm_runtime.load().load_module(str(path))
