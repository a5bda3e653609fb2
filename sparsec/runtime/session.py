"""Executing artifacts with TVM's runtime library alone: neither the compiler nor its Python packages are loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import getitem
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import Constant
from sparsec.backends.program import SIZED, STAGES
from sparsec.errors import ArtifactError, InputError, UsageError, counted
from sparsec.machine import tvm_runtime
from sparsec.machine.blas import within
from sparsec.machine.memory import HOST, carrier, element_type
from sparsec.runtime import device, metadata
from sparsec.runtime.arguments import allowed_threads, as_array, wrong_type
from sparsec.runtime.binding import IOBinding, checked, deliver
from sparsec.runtime.buckets import Buckets
from sparsec.runtime.engines import Engine, Engines, calls, gate
from sparsec.runtime.feeds import fitting_array, refuse_names, selected, viewed
from sparsec.runtime.loading import all_bytes, load_library, memory_of, new_engine, no_program, placed
from sparsec.runtime.onnxruntime_arguments import providers_of, tell, threads_of
from sparsec.runtime.signature import TensorInfo, info, infos, listed

if TYPE_CHECKING:  # imported where an artifact is of this kind
    from sparsec.runtime.sized.program import SizedProgram

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
        providers: as callers of onnxruntime pass them; others than the processor's are ignored, and a warning says so.
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
        self._shared = shared = {} if _shared is None else _shared
        if not artifact.library and manifest.entry not in (SIZED, STAGES):
            raise ArtifactError(no_program(manifest.target))
        artifact.check_machine()
        asked = threads_of(threads, sess_options, manifest.threads,
                           {"providers": providers, "provider_options": provider_options})
        self.threads = own = allowed_threads(asked, manifest.threads)
        self._buckets = Buckets(artifact, lambda bucket: InferenceSession(bucket, own, _shared=shared))
        tvm_runtime.Caller.largest = max(tvm_runtime.Caller.largest, self.threads)
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        self._metadata = artifact.report.get("metadata")
        self._checks = [(spec.name, element_type(spec.dtype), spec.shape) for spec in self._inputs]
        self._positions = {spec.name: index for index, spec in enumerate(self._outputs)}
        self._all = range(len(self._outputs))
        self._native = all(carrier(spec.dtype) == spec.dtype for spec in self._outputs)
        self._entry, self._parts, self._target = manifest.entry, manifest.parts, manifest.target
        with gate:
            self._workers = tvm_runtime.workers(self.threads) if self.threads > 1 else None  # while the session is open
            self._staged = manifest.entry == STAGES
            self._memory = HOST if self._staged else memory_of(artifact)  # stages bring their results there
            self._fetch: Callable[..., np.ndarray] = self._memory.fetch
            self._get_item: Callable[..., Any] = tvm_runtime.load().get_item
            self._sized: SizedProgram | None = None
            opened = {SIZED: self._open_sized, STAGES: self._open_stages}.get(manifest.entry, self._open)
            self._engines = opened(artifact)
        # one look where a call of a microsecond has two
        self._selects = self._sized is not None or bool(self._buckets.artifacts)
        self._elsewhere = self._parts > 1 or self._memory.record is not None
        self._one_thread = manifest.threads == 1  # whose kernels need no pool, and no look at the caller's

    def _open(self, artifact: Artifact) -> Engines:
        """The virtual machines of a compiled program."""
        with self._memory.guard(all_bytes(artifact)):
            library, constants = load_library(artifact), placed(artifact, self._memory, self._shared)
            return Engines(partial(new_engine, library, constants, self._memory, artifact.manifest))

    def _open_stages(self, artifact: Artifact) -> Engines:
        """What runs the stages of an artifact as one; their results are arrays already."""
        from sparsec.runtime.stages import Stages

        threads = self.threads
        stages = Stages(artifact, lambda data: InferenceSession(Artifact.load(data), threads))
        names, checks = [check[0] for check in self._checks], self._checks
        self._fetch, self._get_item, self._native = _array_itself, getitem, True

        def make() -> Engine:
            stages.one_more()
            buffers = [np.empty(shape, dtype) for _, dtype, shape in checks]
            return Engine(lambda *arrays: stages.run(dict(zip(names, arrays, strict=True))), buffers, buffers,
                          frozenset())

        return Engines(make)

    def _open_sized(self, artifact: Artifact) -> Engines:
        """The virtual machines of a program for sizes that only the run tells."""
        from sparsec.runtime.sized.program import SizedProgram

        with self._memory.guard(all_bytes(artifact)):
            self._sized = program = SizedProgram(artifact, self._memory)
        threads = self.threads  # not this object, which would keep itself
        if program.multiplies:
            return Engines(lambda: Engine(within(threads, program.runner()), [], [], frozenset()))
        return Engines(lambda: Engine(program.runner(), [], [], frozenset()))

    def provide(self, calls: int) -> None:
        """Have virtual machines for so many calls at once, before the first of them."""
        self._engines.provide(calls)

    def close(self) -> None:
        """Wait for the calls in flight and give back memory, library and threads; outputs stay valid."""
        self._engines.close()
        self._buckets.close()
        self._shared.clear()
        self._workers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def get_inputs(self) -> list[TensorInfo]:
        """The inputs that `run` takes, in the model's order."""
        if self._sized is not None:
            return [info(spec, described.described()) for spec, described in zip(
                self._inputs, self._sized.inputs, strict=True)]
        return infos([self._inputs, *(bucket.manifest.inputs for bucket in self._buckets.artifacts.values())])

    def get_outputs(self) -> list[TensorInfo]:
        """The outputs that `run` returns, in the model's order."""
        if self._sized is not None:
            return [info(spec, each["shape"]) for spec, each in zip(self._outputs, self._sized.outputs, strict=True)]
        return infos([self._outputs, *(bucket.manifest.outputs for bucket in self._buckets.artifacts.values())])

    def get_modelmeta(self) -> metadata.ModelMetadata:
        """What the file of the model said of itself, its maker's notes among it.

        Raises:
            ArtifactError: the artifact has it in other types.

        """
        return metadata.read(self._metadata)

    def get_providers(self) -> list[str]:
        """What onnxruntime would call the processors that the program runs on."""
        return providers_of(self._target)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """No options, by provider."""
        return {name: {} for name in self.get_providers()}

    def __repr__(self) -> str:
        """One line, however large the model."""
        return f"<sparsec.InferenceSession, {counted(self.threads, 'thread')}, inputs {listed(self.get_inputs())}>"

    def io_binding(self) -> IOBinding:
        """Arrays by name for `run_with_iobinding`."""
        return IOBinding([spec.name for spec in self._inputs], [spec.name for spec in self._outputs],
                         None if self._memory.record is None else self._memory.devices[1])

    def run_with_iobinding(self, binding: IOBinding, run_options: Any = None) -> None:
        """Execute the model once on the arrays of a binding, which gets the outputs; options are ignored.

        Raises:
            InputError: as `run`.

        """
        if run_options is not None:
            tell("run_options")
        if binding.on_device:
            binding.accept_device(self.run_with_device(binding.wanted, binding.on_device, out=binding.out_on_device))
            return
        binding.accept(self.run(binding.wanted, binding.feeds, out=binding.out))

    def run(self, output_names: Sequence[str] | None, feeds: Feeds,  # noqa: C901, PLR0912 - a helper's call takes time
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
        wanted = selected(output_names, self._positions, self._outputs) if output_names else self._all
        engines = self._engines
        try:
            engine = engines.idle.pop()
        except IndexError:
            engine = engines.another()
        try:
            if len(feeds) != len(self._checks):
                refuse_names(feeds, self._inputs)
            if self._elsewhere:
                return (self._replay if engine.recorded is not None else self._run_parts)(engine, feeds, wanted)
            for (name, dtype, shape), buffer in zip(self._checks, engine.buffers):  # noqa: B905 - equally many
                value = feeds.get(name)
                if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                    value = fitting_array(name, dtype, shape, feeds, self._inputs)
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
        return outputs if self._native else viewed(outputs, [self._outputs[index] for index in wanted])

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
        wanted = selected(output_names, self._positions, self._outputs) if output_names else self._all
        engines = self._engines
        try:
            engine = engines.idle.pop()
        except IndexError:
            engine = engines.another()
        try:
            outputs: list[np.ndarray] = (
                engine.call(feeds, wanted) if tvm_runtime.caller.threads == self.threads
                else tvm_runtime.call(self.threads, engine.call, feeds, wanted))
        except IndexError as error:  # of the kernel that checks indices
            raise InputError(str(error)) from error
        else:
            return outputs
        finally:
            engines.idle.append(engine)

    def resident(self, feeds: Feeds) -> Callable[[], Any]:
        """A function that executes the model on these inputs where they are: what is left of `run` without copies.

        Its results, TVM's tensors, stay where the program runs; a later call may use the memory of an earlier one's.
        No other thread may use the session meanwhile.

        Raises:
            InputError: as `run`.

        """
        if self._buckets.artifacts and (session := self._bucket(feeds)) is not self:
            return session.resident(feeds)
        assert self._parts == 1  # of programs for GPUs, which alone are timed so
        self.run(None, feeds)
        engine = self._engines.part()  # the one that has just run: its tensors hold the inputs
        call = partial(engine.call, *engine.tensors)  # in this thread, whose stream the kernels of a GPU run on
        return partial(tvm_runtime.call, self.threads, call) if self._memory is HOST else call

    def _call(self, engine: Engine) -> Any:
        """The results of the entry function for what is in the buffers."""
        if self._staged or tvm_runtime.caller.threads == self.threads:
            return engine.call(*engine.tensors)
        return tvm_runtime.call(self.threads, engine.call, *engine.tensors)

    def run_with_device(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any], *,
                        out: Mapping[str, Any] | None = None, stream: int = 0) -> list[Any]:
        """Execute the model once on tensors of the GPU that it runs on, without copies to or from the processor.

        Args:
            output_names: as `run`.
            feeds: a tensor with `__dlpack__` (PyTorch's, CuPy's, JAX's) on the session's GPU for every input, of its
                exact shape and dtype, contiguous.
            out: such tensors by the names of outputs that are written into them; without one the output gets new
                memory, which takes CUDA longer than a copy.
            stream: the CUDA stream that the tensors are made and used on, such as
                `torch.cuda.current_stream().cuda_stream`; the call returns when its work is in order there.

        Returns:
            The outputs: those given, or tensors with `__dlpack__`, for `torch.from_dlpack`.

        Raises:
            InputError: a name, shape, dtype or device does not fit.
            UsageError: the artifact is not for a GPU.
            DeviceError: the GPU fails.

        """
        if not isinstance(feeds, Mapping):
            raise wrong_type("feeds", feeds, "a dict of tensors by the names of the inputs")
        if self._sized is not None:
            raise UsageError("an artifact for run-time sizes takes arrays, on a GPU as well: give them to `run`, or "
                             "compile the model for fixed sizes")
        if self._memory.record is None:
            why = "has parts that the processor interprets" if self._staged else "was not compiled for a GPU"
            raise UsageError(f"the artifact {why}, so that its tensors are arrays; give them to `run`")
        if (session := self._buckets.session(device.shapes(self._inputs, feeds), feeds)) is not None:
            return session.run_with_device(output_names, feeds, out=out, stream=stream)
        if set(feeds) != {spec.name for spec in self._inputs}:
            refuse_names(feeds, self._inputs)
        names = list(output_names or self._positions)
        results = self.run_between(feeds, names, device.known(out or {}, names), stream)
        return [out[name] if out and name in out else result.owner for name, result in zip(names, results, strict=True)]

    def run_between(self, feeds: Mapping[str, Any], names: Sequence[str], out: Mapping[str, Any],
                    stream: int) -> list[device.DeviceArray]:
        """`run_with_device` of this bucket, whose names have been checked; the outputs as memory."""
        wanted, engines = selected(names, self._positions, self._outputs), self._engines
        try:
            engine = engines.idle.pop()
        except IndexError:
            engine = engines.another()
        try:
            assert engine.recorded is not None
            return device.run(engine.recorded, (self._inputs, self._outputs), feeds, wanted, out, stream)
        finally:
            engines.idle.append(engine)

    def _replay(self, engine: Engine, feeds: Feeds, wanted: Sequence[int]) -> list[np.ndarray]:
        """The wanted outputs of a recorded program."""
        assert engine.recorded is not None
        for check, buffer in zip(self._checks, engine.buffers, strict=True):
            buffer[...] = fitting_array(*check, feeds, self._inputs)
        outputs = engine.recorded.run(wanted)
        return outputs if self._native else viewed(outputs, [self._outputs[index] for index in wanted])

    def _run_parts(self, engine: Engine, feeds: Feeds, wanted: Sequence[int]) -> list[np.ndarray]:
        """The wanted outputs where the entry function takes a part of the rows at a time."""
        values = [fitting_array(*check, feeds, self._inputs) for check in self._checks]
        outputs = [np.empty(self._outputs[index].shape, element_type(self._outputs[index].dtype)) for index in wanted]
        inputs, results = ([np.split(array, self._parts) for array in arrays] for arrays in (values, outputs))
        for part in range(self._parts):
            for buffer, pieces in zip(engine.buffers, inputs, strict=True):
                buffer[...] = pieces[part]
            if (direct := engine.direct) is not None:
                tvm_runtime.call(self.threads, direct.call, direct.table)
            found = [direct.outputs[index] for index in wanted] if direct else self._by_machine(engine, wanted)
            for pieces, piece in zip(results, found, strict=True):
                pieces[part][...] = piece.view(pieces[part].dtype)
        return outputs

    def _bucket(self, feeds: Feeds) -> InferenceSession:
        """The session of the bucket that has the shapes of the feeds."""
        if not isinstance(feeds, Mapping):
            raise wrong_type("feeds", feeds, "a dict of arrays by the names of the inputs")
        shapes = tuple(as_array(spec.name, feeds).shape for spec in self._inputs if spec.name in feeds)
        return self._buckets.session(shapes, feeds) or self


calls.update((InferenceSession.run.__code__, InferenceSession.run_between.__code__,
              InferenceSession._run_sized.__code__))  # noqa: SLF001 - of this module


def _array_itself(array: np.ndarray, _reserved: frozenset[int]) -> np.ndarray:
    """A stage's result as it is."""
    return array

