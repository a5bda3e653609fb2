"""Executing artifacts with TVM's runtime library alone: neither the compiler nor its Python packages are loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import getitem
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PACKED, Constant
from sparsec.backends.program import SIZED, STAGES
from sparsec.backends.registry import backend_named
from sparsec.errors import ArtifactError, InputError
from sparsec.machine import tvm_runtime
from sparsec.machine.memory import HOST, carrier, element_type
from sparsec.runtime.arguments import allowed_threads, as_array, wrong_type
from sparsec.runtime.binding import IOBinding, checked, deliver
from sparsec.runtime.engines import Engine, Engines, calls, gate
from sparsec.runtime.loading import load_library, memory_of, new_engine
from sparsec.runtime.onnxruntime_arguments import tell, threads_of
from sparsec.runtime.signature import TensorInfo, info, infos, listed, shapes_of
from sparsec.runtime.sized.program import SizedProgram
from sparsec.runtime.stages import Stages

Feeds = Mapping[str, np.ndarray]

class InferenceSession:
    """A loaded artifact, with onnxruntime's interface.

    `run` may be called from several threads at once; each call in flight has its own virtual machine and buffers. The
    process may be forked at any time, and the child may use the session. Of an artifact with buckets, the one that has
    the shapes of the inputs runs; it is loaded when first used. `close`, the end of a `with` block, or the last
    reference gives back memory, library and threads.

    Args:
        artifact: an `Artifact`, its file's path or its bytes.
        threads: threads that one call may use; None for as many as it was compiled for and the machine has.
        providers: as callers of onnxruntime pass them; ignored, of which a warning tells once.
        sess_options: as onnxruntime's, which may also stand second: `intra_op_num_threads` counts, the rest is ignored.
        provider_options: as `providers`.

    Raises:
        ArtifactError: the artifact is damaged or this machine cannot execute it.
        UsageError: `threads` exceeds what the artifact was compiled for.

    """

    def __init__(self, artifact: Artifact | str | os.PathLike[str] | bytes, threads: int | None = None,
                 providers: Any = None, *, sess_options: Any = None, provider_options: Any = None,
                 _shared: dict[Constant, Any] | None = None) -> None:
        artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
        manifest = artifact.manifest
        self._buckets = {shapes_of(bucket): bucket for bucket in artifact.buckets} if artifact.others else {}
        self._shapes = shapes_of(artifact)
        self._sessions: dict[tuple[tuple[int, ...], ...], InferenceSession] = {}
        self._shared = {} if _shared is None else _shared
        if not artifact.library and manifest.entry not in (SIZED, STAGES):
            raise ArtifactError(f"the artifact was compiled for '{manifest.target}' and holds no program for a "
                                "processor; `sparsec simulate` executes that of an accelerator, and "
                                "sparsec.compiler.portable.build compiles a portable one for this machine")
        artifact.check_machine()
        asked = threads_of(threads, sess_options, manifest.threads,
                           {"providers": providers, "provider_options": provider_options})
        self.threads = allowed_threads(asked, manifest.threads)
        tvm_runtime.Caller.largest = max(tvm_runtime.Caller.largest, self.threads)
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self._checks = [(spec.name, element_type(spec.dtype), spec.shape) for spec in self._inputs]
        self._positions = {spec.name: index for index, spec in enumerate(self._outputs)}
        self._all = range(len(self._outputs))
        self._native = all(carrier(spec.dtype) == spec.dtype for spec in self._outputs)
        self._entry, self._parts = manifest.entry, manifest.parts
        with gate:
            self._workers = tvm_runtime.workers(self.threads) if self.threads > 1 else None  # while the session is open
            self._memory, self._staged = memory_of(artifact), manifest.entry == STAGES
            self._fetch: Callable[..., np.ndarray] = self._memory.fetch
            self._get_item: Callable[..., Any] = tvm_runtime.load().get_item
            self._sized = SizedProgram(artifact, self._memory) if manifest.entry == SIZED else None
            if self._sized is not None:
                self._engines = self._open_sized(self._sized)
            else:
                self._engines = self._open_stages(artifact) if self._staged else self._open(artifact)
        self._selects = self._sized is not None or bool(self._buckets)  # one look where a call of a microsecond has two
        self._one_thread = manifest.threads == 1  # whose kernels need no pool, and no look at the caller's

    def _open(self, artifact: Artifact) -> Engines:
        """The virtual machines of a compiled program."""
        library, constants = load_library(artifact), self._place(artifact)
        return Engines(partial(new_engine, library, constants, self._memory, artifact.manifest))

    def _open_stages(self, artifact: Artifact) -> Engines:
        """What runs the stages of an artifact as one; their results are arrays already."""
        stages = Stages(artifact, partial(_open_part, threads=self.threads))
        names = [check[0] for check in self._checks]
        self._fetch, self._get_item, self._native = _array_itself, getitem, True

        def make() -> Engine:
            buffers = [np.empty(shape, dtype) for _, dtype, shape in self._checks]
            inputs = [(*check, buffer) for check, buffer in zip(self._checks, buffers, strict=True)]
            return Engine(lambda *arrays: stages.run(dict(zip(names, arrays, strict=True))), inputs, buffers,
                          frozenset())

        return Engines(make)

    def _open_sized(self, program: SizedProgram) -> Engines:
        """The virtual machines of a program for sizes that only the run tells."""
        return Engines(lambda: Engine(program.runner(), [], [], frozenset()))

    def close(self) -> None:
        """Wait for the calls in flight and give back memory, library and threads; outputs stay valid."""
        self._engines.close()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._shared.clear()
        self._workers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

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
        if self._sized is not None:
            return [info(spec, described.described()) for spec, described in zip(
                self._inputs, self._sized.inputs, strict=True)]
        return infos([self._inputs, *(bucket.manifest.inputs for bucket in self._buckets.values())])

    def get_outputs(self) -> list[TensorInfo]:
        """The outputs that `run` returns, in the model's order."""
        if self._sized is not None:
            return [info(spec, each["shape"]) for spec, each in zip(self._outputs, self._sized.outputs, strict=True)]
        return infos([self._outputs, *(bucket.manifest.outputs for bucket in self._buckets.values())])

    def __repr__(self) -> str:
        """One line, however large the model."""
        return f"<sparsec.InferenceSession, {self.threads} thread(s), inputs {listed(self._inputs)}>"

    def io_binding(self) -> IOBinding:
        """Arrays by name for `run_with_iobinding`."""
        return IOBinding([spec.name for spec in self._inputs], [spec.name for spec in self._outputs])

    def run_with_iobinding(self, binding: IOBinding, run_options: Any = None) -> None:
        """Execute the model once on the arrays of a binding, which gets the outputs; options are ignored.

        Raises:
            InputError: as `run`.

        """
        if run_options is not None:
            tell("run_options")
        binding.accept(self.run(binding.wanted, binding.feeds, out=binding.out))

    def run(self, output_names: Sequence[str] | None, feeds: Feeds,  # noqa: C901, PLR0912 - a call of a helper takes time
            *, out: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
        """Execute the model once.

        Args:
            output_names: the outputs wanted, in this order; None or empty for all.
            feeds: an array for every input, of its exact shape and dtype; any alignment, strides and byte order.
            out: arrays by the names of outputs that are written into them, of their exact shape and dtype; any
                alignment and strides.

        Returns:
            The outputs, as arrays of their own memory, or those given.

        Raises:
            InputError: a name, shape or dtype does not fit; says what was expected and what was given. Or the model
                uses an input as an index and it lies outside the tensor.

        """
        if out is not None:
            names = list(output_names or self._positions)
            return deliver(self.run(names, feeds), names, checked(out, names))
        if self._selects and (found := self._run_elsewhere(output_names, feeds)) is not None:
            return found
        wanted = self._select(output_names) if output_names else self._all
        engines = self._engines
        try:
            engine = engines.idle.pop()
        except IndexError:
            engine = engines.another()
        try:
            if len(feeds) != len(self._checks):
                self._refuse_names(feeds)
            if self._parts > 1:
                return self._run_parts(engine, feeds, wanted)
            for name, dtype, shape, buffer in engine.inputs:
                value = feeds.get(name)
                if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                    value = self._checked(name, dtype, shape, feeds)
                buffer[...] = value
            if (direct := engine.direct) is None:
                return self._by_machine(engine, wanted)
            if not self._one_thread and tvm_runtime.caller.threads != self.threads:
                tvm_runtime.call(self.threads, direct.call, direct.table)
            else:
                direct.call(direct.table)
            return [direct.outputs[index].copy() for index in wanted]
        except IndexError as error:  # of the kernel that checks indices
            raise InputError(str(error)) from error
        except (TypeError, AttributeError) as error:
            if isinstance(feeds, Mapping):
                raise
            raise wrong_type("feeds", feeds, "a dict of arrays by the names of the inputs") from error
        finally:
            engines.idle.append(engine)

    def _by_machine(self, engine: Engine, wanted: Sequence[int]) -> list[np.ndarray]:
        """The wanted outputs for what is in the buffers, by the virtual machine."""
        results = self._call(engine)
        outputs = [self._fetch(self._get_item(results, index), engine.reserved) for index in wanted]
        return outputs if self._native else self._viewed(outputs, wanted)

    def _run_elsewhere(self, output_names: Sequence[str] | None, feeds: Feeds) -> list[np.ndarray] | None:
        """`run` where that is a program for sizes that only the run tells, or a bucket's; else None."""
        if self._sized is not None:
            return self._run_sized(output_names, feeds)
        session = self._bucket(feeds)
        return None if session is self else session.run(output_names, feeds)

    def _run_sized(self, output_names: Sequence[str] | None, feeds: Feeds) -> list[np.ndarray]:
        """`run` for sizes that only the run tells."""
        if not isinstance(feeds, Mapping):
            raise wrong_type("feeds", feeds, "a dict of arrays by the names of the inputs")
        wanted = self._select(output_names) if output_names else self._all
        engines = self._engines
        try:
            engine = engines.idle.pop()
        except IndexError:
            engine = engines.another()
        try:
            outputs: list[np.ndarray] = tvm_runtime.call(self.threads, engine.call, feeds, wanted)
        except IndexError as error:  # of the kernel that checks indices
            raise InputError(str(error)) from error
        else:
            return outputs
        finally:
            engines.idle.append(engine)

    def _viewed(self, outputs: Sequence[np.ndarray], wanted: Sequence[int]) -> list[np.ndarray]:
        """Outputs in the element types of the model, which programs give as integers of as many bits."""
        dtypes = [element_type(self._outputs[index].dtype) for index in wanted]
        return [array.view(dtype) for array, dtype in zip(outputs, dtypes, strict=True)]

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
        engine = self._engines.part()  # the one that has just run: its tensors hold the inputs
        call = partial(engine.call, *engine.tensors)  # in this thread, whose stream the kernels of a GPU run on
        return partial(tvm_runtime.call, self.threads, call) if self._memory is HOST else call

    def _call(self, engine: Engine) -> Any:
        """The results of the entry function for what is in the buffers."""
        if self._memory is not HOST:
            for tensor, (*_, buffer) in zip(engine.tensors, engine.inputs, strict=True):
                self._memory.refresh(tensor, buffer)
        if self._staged or tvm_runtime.caller.threads == self.threads:
            return engine.call(*engine.tensors)
        return tvm_runtime.call(self.threads, engine.call, *engine.tensors)

    def _run_parts(self, engine: Engine, feeds: Feeds, wanted: Sequence[int]) -> list[np.ndarray]:
        """The wanted outputs where the entry function takes a part of the rows at a time."""
        values = [self._checked(*check, feeds) for check in self._checks]
        specs = [self._outputs[index] for index in wanted]
        outputs = [np.empty(spec.shape, element_type(spec.dtype)) for spec in specs]
        inputs, results = ([np.split(array, self._parts) for array in arrays] for arrays in (values, outputs))
        for part in range(self._parts):
            for (*_, buffer), pieces in zip(engine.inputs, inputs, strict=True):
                buffer[...] = pieces[part]
            found = self._call(engine)
            for pieces, index in zip(results, wanted, strict=True):
                piece = self._fetch(self._get_item(found, index), engine.reserved)
                pieces[part][...] = piece.view(pieces[part].dtype)
        return outputs

    def _bucket(self, feeds: Feeds) -> InferenceSession:
        """The session of the bucket that has the shapes of the feeds."""
        if not isinstance(feeds, Mapping):
            raise wrong_type("feeds", feeds, "a dict of arrays by the names of the inputs")
        shapes = tuple(as_array(spec.name, feeds).shape for spec in self._inputs if spec.name in feeds)
        if shapes == self._shapes:
            return self
        if shapes not in self._sessions:
            if len(shapes) < len(self._inputs):
                self._refuse_names(feeds)
            if shapes not in self._buckets:
                listed = "; ".join(map(self._named, self._buckets))
                raise InputError(f"no bucket of the artifact takes {self._named(shapes)}; its buckets are {listed}")
            with gate:
                if shapes not in self._sessions:
                    self._sessions[shapes] = InferenceSession(self._buckets[shapes], self.threads, _shared=self._shared)
        return self._sessions[shapes]

    def _named(self, shapes: Sequence[tuple[int, ...]]) -> str:
        """Shapes of the inputs with their names."""
        return ", ".join(f"'{spec.name}' {list(shape)}" for spec, shape in zip(self._inputs, shapes, strict=True))

    def _select(self, names: Sequence[str]) -> list[int]:
        """Positions of outputs by name."""
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise wrong_type("output_names", names, "a list of outputs' names, or None for all")
        if unknown := [name for name in names if not isinstance(name, str) or name not in self._positions]:
            raise InputError(f"the model has no output {unknown[0]!r}; it has {listed(self._outputs)}")
        return [self._positions[name] for name in names]

    def _checked(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], feeds: Feeds) -> np.ndarray:
        """A feed as an array of the expected shape and element type, in whatever byte order."""
        if name not in feeds:
            self._refuse_names(feeds)
        array = as_array(name, feeds)
        if array.dtype.newbyteorder("=") != dtype or array.shape != shape:
            raise InputError(f"input '{name}' takes {dtype.name} of shape {shape}; "
                             f"given: {array.dtype.name} of shape {array.shape}")
        return array

    def _refuse_names(self, feeds: Feeds) -> NoReturn:
        given = ", ".join(f"'{name}'" for name in feeds) or "none"
        raise InputError(f"the model takes the inputs {listed(self._inputs)}; given: {given}")


calls.update((InferenceSession.run.__code__, InferenceSession._run_sized.__code__))  # noqa: SLF001 - of this module


def check_machine(artifact: Artifact) -> None:
    """Check that this machine, its GPU included where one is needed, can execute an artifact.

    Raises:
        ArtifactError: it cannot; says what to do.

    """
    artifact.check_machine()
    backend = backend_named(artifact.manifest.target)
    for each in artifact.buckets:
        backend.check(each.manifest.needs)


def _array_itself(array: np.ndarray, _reserved: frozenset[int]) -> np.ndarray:
    """A stage's result as it is."""
    return array


def _open_part(data: bytes, threads: int) -> Callable[[Feeds], list[np.ndarray]]:
    """The function that runs a compiled stage."""
    session = InferenceSession(Artifact.load(data), threads)
    return lambda feeds: session.run(None, feeds)
