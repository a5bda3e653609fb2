"""Executing artifacts with TVM's runtime library alone: neither the compiler nor its Python packages are loaded."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PACKED, Constant
from sparsec.backends.program import STAGES, UNKNOWN, TensorSpec
from sparsec.backends.registry import backend_named
from sparsec.errors import ArtifactError, InputError, UsageError
from sparsec.machine import cpus, tvm_runtime
from sparsec.machine.memory import HOST, Memory, aligned
from sparsec.runtime.stages import Stages

Feeds = Mapping[str, np.ndarray]

_ELEMENT_TYPES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as onnxruntime describes it: `type` is "tensor(float)", "tensor(int64)", ….

    A dimension that buckets differ in is a text of its sizes, such as "1/8/32", one that only the run tells is "?".
    """

    name: str
    shape: list[int | str]
    type: str


@dataclass(frozen=True)
class _Engine:
    """One virtual machine with its own input buffers; it serves one call at a time.

    Attributes:
        call: the entry function with the constants bound.
        buffers: aligned arrays that the inputs of one part are copied into.
        tensors: tensors of the same contents, where the program runs.
        reserved: addresses of buffers and constants, which a caller must not get as outputs.

    """

    call: Callable[..., Any]
    buffers: list[np.ndarray]
    tensors: list[Any]
    reserved: frozenset[int]


class InferenceSession:
    """A loaded artifact, with onnxruntime's interface.

    `run` may be called from several threads at once; each call in flight has its own virtual machine and buffers.
    Of an artifact with buckets, the one that has the shapes of the inputs runs; it is loaded when first used.

    Args:
        artifact: an `Artifact`, its file's path or its bytes.
        threads: threads that one call may use; None for as many as it was compiled for and the machine has.

    Raises:
        ArtifactError: the artifact is damaged or this machine cannot execute it.
        UsageError: `threads` exceeds what the artifact was compiled for.

    """

    def __init__(self, artifact: Artifact | str | os.PathLike[str] | bytes, threads: int | None = None, *,
                 _shared: dict[Constant, Any] | None = None) -> None:
        artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
        manifest = artifact.manifest
        self._buckets = {_shapes(bucket): bucket for bucket in artifact.buckets} if artifact.others else {}
        self._sessions = {_shapes(artifact): self}
        self._shared = {} if _shared is None else _shared
        if not artifact.library and manifest.entry != STAGES:
            raise ArtifactError(f"the artifact was compiled for '{manifest.target}' and holds no program for a "
                                "processor; `sparsec simulate` executes that of an accelerator, and "
                                "sparsec.compiler.portable.build compiles a portable one for this machine")
        artifact.check_machine()
        self.threads = _allowed_threads(threads, manifest.threads)
        tvm_runtime.Pool.largest = max(tvm_runtime.Pool.largest, self.threads)
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self._checks = [(spec.name, np.dtype(spec.dtype), spec.shape) for spec in self._inputs]
        self._positions = {spec.name: index for index, spec in enumerate(self._outputs)}
        self._all = range(len(self._outputs))
        self._entry, self._parts = manifest.entry, manifest.parts
        self._stages = None
        if manifest.entry == STAGES:
            self._stages = Stages(artifact, partial(_open_part, threads=self.threads))
            return
        self._memory = _memory_of(artifact)
        self._fetch = self._memory.fetch
        self._module = _load_library(artifact)
        self._get_item = tvm_runtime.load().get_item
        self._constants = self._place(artifact)
        self._idle = [self._new_engine()]

    def _place(self, artifact: Artifact) -> list[Any]:
        """The constants aligned in memory; buckets share what they share in the file."""
        tensors = []
        for entry, array in zip(artifact.manifest.constants, artifact.constants(), strict=True):
            tensor = self._shared.get(entry) or self._memory.place(array)
            if entry.encoding != PACKED:
                self._shared[entry] = tensor
            tensors.append(tensor)
        return tensors

    def get_inputs(self) -> list[TensorInfo]:
        """The inputs that `run` takes, in the model's order."""
        return _infos([self._inputs, *(bucket.manifest.inputs for bucket in self._buckets.values())])

    def get_outputs(self) -> list[TensorInfo]:
        """The outputs that `run` returns, in the model's order."""
        return _infos([self._outputs, *(bucket.manifest.outputs for bucket in self._buckets.values())])

    def run(self, output_names: Sequence[str] | None, feeds: Feeds) -> list[np.ndarray]:
        """Execute the model once.

        Args:
            output_names: the outputs wanted, in this order; None or empty for all.
            feeds: an array for every input, of its exact shape and dtype; any alignment, strides and byte order.

        Returns:
            The outputs, as arrays of their own memory.

        Raises:
            InputError: a name, shape or dtype does not fit; says what was expected and what was given. Or the model
                uses an input as an index and it lies outside the tensor.

        """
        if self._buckets and (session := self._bucket(feeds)) is not self:
            return session.run(output_names, feeds)
        wanted = self._select(output_names) if output_names else self._all
        if self._stages is not None:
            return self._run_stages(self._stages, feeds, wanted)
        try:
            engine = self._idle.pop()
        except IndexError:
            engine = self._new_engine()
        try:
            if len(feeds) != len(self._checks):
                self._refuse_names(feeds)
            if self._parts > 1:
                return self._run_parts(engine, feeds, wanted)
            for (name, dtype, shape), buffer in zip(self._checks, engine.buffers):  # noqa: B905 - equally many
                value = feeds.get(name)
                if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                    value = self._checked(name, dtype, shape, feeds)
                buffer[...] = value
            results = self._call(engine)
            return [self._fetch(self._get_item(results, index), engine.reserved) for index in wanted]
        except IndexError as error:  # of the kernel that checks indices
            raise InputError(str(error)) from error
        finally:
            self._idle.append(engine)

    def resident(self, feeds: Feeds) -> Callable[[], Any]:
        """A function that executes the model on these inputs where they are: what is left of `run` without copies.

        Its results, TVM's tensors, stay where the program runs; a later call may use the memory of an earlier one's.
        No other thread may use the session meanwhile.

        Raises:
            InputError: as `run`.

        """
        if self._buckets and (session := self._bucket(feeds)) is not self:
            return session.resident(feeds)
        assert self._parts == 1  # of programs for GPUs, which alone are timed so
        self.run(None, feeds)
        engine = self._idle.pop()  # the one that has just run: its tensors hold the inputs
        call = partial(engine.call, *engine.tensors)  # in this thread, whose stream the kernels of a GPU run on
        return partial(tvm_runtime.call, self.threads, call) if self._memory is HOST else call

    def _call(self, engine: _Engine) -> Any:
        """The results of the entry function for what is in the buffers."""
        if self._memory is not HOST:
            for tensor, buffer in zip(engine.tensors, engine.buffers, strict=True):
                self._memory.refresh(tensor, buffer)
        if tvm_runtime.pool.threads == self.threads:
            return engine.call(*engine.tensors)
        return tvm_runtime.call(self.threads, engine.call, *engine.tensors)

    def _run_parts(self, engine: _Engine, feeds: Feeds, wanted: Sequence[int]) -> list[np.ndarray]:
        """The wanted outputs where the entry function takes a part of the rows at a time."""
        values = [self._checked(*check, feeds) for check in self._checks]
        specs = [self._outputs[index] for index in wanted]
        outputs = [np.empty(spec.shape, spec.dtype) for spec in specs]
        inputs, results = ([np.split(array, self._parts) for array in arrays] for arrays in (values, outputs))
        for part in range(self._parts):
            for buffer, pieces in zip(engine.buffers, inputs, strict=True):
                buffer[...] = pieces[part]
            found = self._call(engine)
            for pieces, index in zip(results, wanted, strict=True):
                pieces[part][...] = self._fetch(self._get_item(found, index), engine.reserved)
        return outputs

    def _run_stages(self, stages: Stages, feeds: Feeds, wanted: Sequence[int]) -> list[np.ndarray]:
        """The wanted outputs of a model in stages."""
        if len(feeds) != len(self._checks):
            self._refuse_names(feeds)
        try:
            results = stages.run({check[0]: self._checked(*check, feeds).astype(check[1]) for check in self._checks})
        except IndexError as error:  # of an index outside a tensor
            raise InputError(str(error)) from error
        return [results[index] for index in wanted]

    def _bucket(self, feeds: Feeds) -> InferenceSession:
        """The session of the bucket that has the shapes of the feeds."""
        shapes = tuple(np.shape(feeds[spec.name]) for spec in self._inputs if spec.name in feeds)
        if shapes not in self._sessions:
            if len(shapes) < len(self._inputs):
                self._refuse_names(feeds)
            if shapes not in self._buckets:
                listed = "; ".join(map(self._named, self._buckets))
                raise InputError(f"no bucket of the artifact takes {self._named(shapes)}; its buckets are {listed}")
            self._sessions[shapes] = InferenceSession(self._buckets[shapes], self.threads, _shared=self._shared)
        return self._sessions[shapes]

    def _named(self, shapes: Sequence[tuple[int, ...]]) -> str:
        """Shapes of the inputs with their names."""
        return ", ".join(f"'{spec.name}' {list(shape)}" for spec, shape in zip(self._inputs, shapes, strict=True))

    def _select(self, names: Sequence[str]) -> list[int]:
        """Positions of outputs by name."""
        try:
            return [self._positions[name] for name in names]
        except KeyError as error:
            raise InputError(f"the model has no output {error}; it has {_listed(self._outputs)}") from None

    def _checked(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], feeds: Feeds) -> np.ndarray:
        """A feed as an array of the expected shape and element type, in whatever byte order."""
        if name not in feeds:
            self._refuse_names(feeds)
        array = np.asarray(feeds[name])
        if array.dtype.newbyteorder("=") != dtype or array.shape != shape:
            raise InputError(f"input '{name}' takes {dtype.name} of shape {shape}; "
                             f"given: {array.dtype.name} of shape {array.shape}")
        return array

    def _refuse_names(self, feeds: Feeds) -> NoReturn:
        given = ", ".join(f"'{name}'" for name in feeds) or "none"
        raise InputError(f"the model takes the inputs {_listed(self._inputs)}; given: {given}")

    def _new_engine(self) -> _Engine:
        """A virtual machine that shares the library and the constants with the session's others."""
        shapes = [spec.shape if self._parts == 1 else (spec.shape[0] // self._parts, *spec.shape[1:])
                  for spec in self._inputs]
        buffers = [aligned(shape, np.dtype(spec.dtype)) for shape, spec in zip(shapes, self._inputs, strict=True)]
        tensors = [self._memory.place(buffer) for buffer in buffers]
        machine = self._module["vm_load_executable"]()
        machine["vm_initialization"](*self._memory.devices)
        machine["save_function"](self._entry, "bound", 1, *self._constants)
        reserved = frozenset(tensor.data_ptr() for tensor in (*tensors, *self._constants))
        return _Engine(machine["bound"], buffers, tensors, reserved)


def check_machine(artifact: Artifact) -> None:
    """Check that this machine, its GPU included where one is needed, can execute an artifact.

    Raises:
        ArtifactError: it cannot; says what to do.

    """
    artifact.check_machine()
    backend = backend_named(artifact.manifest.target)
    for each in artifact.buckets:
        backend.check(each.manifest.needs)


def _memory_of(artifact: Artifact) -> Memory:
    """Where the programs of the artifact's buckets keep their tensors."""
    backend = backend_named(artifact.manifest.target)
    first, *_ = [backend.memory(each.manifest.needs) for each in artifact.buckets]
    return first


def _load_library(artifact: Artifact) -> Any:
    """The compiled code in memory, ready to be called."""
    load_module = tvm_runtime.load().load_module
    if sizes := artifact.manifest.objects:
        return _link_in_memory(artifact.library, sizes)
    with tempfile.TemporaryDirectory(prefix="sparsec-") as directory:  # the system maps files only
        path = Path(directory) / "model.so"
        path.write_bytes(artifact.library)
        try:
            return load_module(str(path))
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"the artifact's library cannot be loaded: {error}; if {directory} does not allow "
                                "execution, set TMPDIR to a directory that does") from error


def _link_in_memory(library: bytes, sizes: Sequence[int]) -> Any:
    """Link object files that lie one after the other; artifacts of a machine without a linker hold such."""
    from tvm_ffi_orcjit import default_session

    ends = itertools.accumulate(sizes)
    try:
        return default_session().load_module([library[end - size:end] for size, end in zip(sizes, ends, strict=True)])
    except RuntimeError as error:
        raise ArtifactError(f"the artifact's object files cannot be linked: {error}; "
                            "compile the model on a machine with a linker") from error


def _allowed_threads(asked: int | None, compiled: int) -> int:
    """The threads to use; by default what was compiled for, as far as this process may use as many cores."""
    if asked is None:
        return min(compiled, cpus.available())
    if not 1 <= asked <= compiled:
        way = f"compile the model with threads={asked}" if asked > compiled else "give a number from 1 on"
        raise UsageError(f"threads={asked}, but the artifact was compiled for 1 to {compiled}; {way}")
    return asked


def _open_part(data: bytes, threads: int) -> Callable[[Feeds], list[np.ndarray]]:
    """The function that runs a compiled stage."""
    session = InferenceSession(Artifact.load(data), threads)
    return lambda feeds: session.run(None, feeds)


def _shapes(artifact: Artifact) -> tuple[tuple[int, ...], ...]:
    """The shapes of the inputs, in order: what tells buckets apart."""
    return tuple(spec.shape for spec in artifact.manifest.inputs)


def _infos(buckets: Sequence[Sequence[TensorSpec]]) -> list[TensorInfo]:
    """What onnxruntime would say of the tensors of all buckets."""
    infos = []
    for specs in zip(*buckets, strict=True):
        sizes = [sorted(set(dims)) for dims in zip(*(spec.shape for spec in specs), strict=True)]
        shape: list[int | str] = ["?" if UNKNOWN in dims else dims[0] if len(dims) == 1 else "/".join(map(str, dims))
                                  for dims in sizes]
        infos.append(TensorInfo(specs[0].name, shape, f"tensor({_ELEMENT_TYPES.get(specs[0].dtype, specs[0].dtype)})"))
    return infos


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}' ({spec.dtype} {list(spec.shape)})" for spec in specs) or "none"
