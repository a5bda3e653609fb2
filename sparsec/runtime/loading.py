"""What a session is made of: the library in memory, where its tensors live, and virtual machines."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PACKED, PORTABLE, Constant, Manifest
from sparsec.backends.program import BIND, CALL, UNKNOWN
from sparsec.backends.registry import backend_named
from sparsec.errors import ArtifactError
from sparsec.machine import huge_pages, tvm_runtime
from sparsec.machine.memory import ALIGNMENT, HOST, Memory, aligned, carrier, element_type, placer
from sparsec.machine.optional import needed
from sparsec.runtime.engines import Direct, Engine

COPIED_BYTES = 1 << 16
"""Bytes of outputs up to which copying them takes less than the virtual machine does."""


def memory_of(artifact: Artifact) -> Memory:
    """Where the programs of the artifact's buckets keep their tensors."""
    backend = backend_named(artifact.manifest.target)
    first, *_ = [backend.memory(each.manifest.needs) for each in artifact.buckets]
    return first


def load_library(artifact: Artifact) -> Any:
    """The compiled code in memory, ready to be called."""
    return load_code(artifact.library, artifact.manifest.objects)


def load_code(library: bytes, objects: Sequence[int]) -> Any:
    """A library in memory: a shared object, or object files of these sizes one after the other."""
    load_module = tvm_runtime.load().load_module
    if objects:
        return _link_in_memory(library, objects)
    try:
        with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:  # the system maps files only
            path = Path(directory) / "model.so"
            path.write_bytes(library)
            return load_module(str(path))
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"the artifact's library cannot be loaded: {error}; it is mapped from a temporary file: if "
                            f"{_temporary()} is full or allows no execution, set TMPDIR to another folder") from error


def placed(artifact: Artifact, memory: Memory, shared: dict[Constant, Any]) -> list[Any]:
    """The constants aligned in memory; buckets share what they share in the file, which `shared` keeps."""
    tensors, constants = [], list(zip(artifact.manifest.constants, artifact.constants(), strict=True))
    place = placer(memory, [array for entry, array in constants if entry not in shared])
    for entry, array in constants:
        tensor = shared.get(entry) or place(array)
        if entry.encoding != PACKED:
            shared[entry] = tensor
        tensors.append(tensor)
    return tensors


def _link_in_memory(library: bytes, sizes: Sequence[int]) -> Any:
    """Link object files that lie one after the other; artifacts of a machine without a linker hold such."""
    linker = needed("tvm_ffi_orcjit", "apache-tvm-ffi-orcjit", "an artifact of a machine without a linker")
    ends = itertools.accumulate(sizes)
    objects = [library[end - size:end] for size, end in zip(sizes, ends, strict=True)]
    try:
        return linker.default_session().load_module(objects)
    except RuntimeError as error:
        raise ArtifactError(f"the artifact's object files cannot be linked: {error}; "
                            "compile the model on a machine with a linker") from error

def _temporary() -> str:
    """The folder of temporary files, if there is one."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "every folder for temporary files"


def new_engine(library: Any, constants: Sequence[Any], memory: Memory, manifest: Manifest) -> Engine:
    """A virtual machine that shares the library and the constants with others."""
    shapes = [spec.shape if manifest.parts == 1 else (spec.shape[0] // manifest.parts, *spec.shape[1:])
              for spec in manifest.inputs]
    buffers = [aligned(shape, element_type(spec.dtype)) for shape, spec in zip(shapes, manifest.inputs, strict=True)]
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](*memory.devices)
    if memory.record is not None:
        return _recorded(machine, buffers, constants, memory, manifest)
    tensors = [memory.place(buffer) for buffer in buffers]
    machine["save_function"](manifest.entry, "bound", 1, *constants)
    reserved = frozenset(tensor.data_ptr() for tensor in (*tensors, *constants))
    return Engine(machine["bound"], buffers, tensors, reserved, None, _direct(library, constants, tensors, manifest))


def _direct(library: Any, constants: Sequence[Any], tensors: Sequence[Any], manifest: Manifest) -> Direct | None:
    """The program without a virtual machine, where the library has it and its outputs are quickly copied.

    Raises:
        ArtifactError: the library's functions take other memory than the manifest says.

    """
    if any(0 in spec.shape for spec in (*manifest.inputs, *manifest.outputs)):
        return None  # numpy strides what is empty as TVM does not
    outputs = [aligned((spec.shape[0] // manifest.parts, *spec.shape[1:]) if manifest.parts > 1 else spec.shape,
                       element_type(spec.dtype)) for spec in manifest.outputs]
    if manifest.workspace is None or sum(array.nbytes for array in outputs) > COPIED_BYTES:
        return None
    size = max(manifest.workspace, 1)
    workspace = (huge_pages.allocator(size, ALIGNMENT) or aligned)((size,), np.dtype(np.uint8))
    addresses = aligned((len(tensors) + len(constants) + 1 + len(outputs),), np.dtype(np.int64))
    held = [HOST.place(array) for array in (workspace, *outputs)]
    table = HOST.place(addresses)
    try:
        library.get_function(BIND, query_imports=True)(*tensors, *constants, *held, table)
        call = library.get_function(CALL, query_imports=True)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"the artifact's library is not what its manifest says ({error}); compile the model again",
                            ) from error
    return Direct(call, table, tuple(outputs), (*held, *tensors, *constants, addresses))


def _recorded(machine: Any, arrays: Sequence[np.ndarray], constants: Sequence[Any], memory: Memory,
              manifest: Manifest) -> Engine:
    """A virtual machine whose program is recorded, with memory of its own for intermediate values."""
    assert memory.record is not None
    with memory.guard(own_bytes(manifest)):
        tensors = [memory.place(array.view(carrier(array.dtype.name))) for array in arrays]
        machine["save_function"](manifest.entry, "bound", 1, *constants, *machine["storages"]())
        recorded = memory.record(machine["bound"], tensors, arrays, len(manifest.outputs))
    return Engine(machine["bound"], recorded.buffers, tensors, frozenset(), recorded)


def own_bytes(manifest: Manifest) -> int:
    """What a program needs of a device's memory for every call that is in flight."""
    specs = [spec for spec in (*manifest.inputs, *manifest.outputs) if UNKNOWN not in spec.shape]
    workspace = sum(each for each in manifest.needs.get("workspace", ()) if isinstance(each, int))
    return workspace + sum(math.prod(spec.shape) * element_type(spec.dtype).itemsize for spec in specs)


def all_bytes(artifact: Artifact) -> int:
    """What an artifact needs of a device's memory: its constants, and one call in flight.

    What sizes alone tell, such as caches, is not in it.
    """
    return own_bytes(artifact.manifest) + sum(
        math.prod(each.shape) * element_type(each.dtype).itemsize for each in artifact.manifest.constants)


def no_program(target: str) -> str:
    """Why a session cannot open an artifact without code for a processor, and what can."""
    if target == PORTABLE:
        return ("the artifact is portable: it holds the model and no program; sparsec.build("
                "sparsec.Artifact.load(PATH)) compiles it for this machine")
    if target == "eie":
        return ("the artifact holds a program of EIE, an accelerator that is simulated, and no program for a "
                "processor; `sparsec simulate ARTIFACT` executes it")
    return (f"the artifact holds what '{target}', an accelerator that is simulated, would run, and holds no program "
            "for a processor; `sparsec inspect ARTIFACT` shows it, and a model compiled with target='cpu' runs here")
