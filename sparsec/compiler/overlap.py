"""Whether the kernels of a GPU are launched before those in front of them have ended (`backends.cuda.dependent`).

Only a measurement on the GPU can tell whether that gains: where one may be made, a model is compiled both ways, both
are compared with the reference, and sessions of both are timed in turns. Where nothing is timed, kernels wait; so they
do where the other way, or both side by side, fail.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from sparsec.artifact.file import Artifact
from sparsec.backends.job import Feeds
from sparsec.compiler.batches import fastest
from sparsec.compiler.options import CompileOptions, Progress
from sparsec.compiler.prepare import simplify
from sparsec.compiler.samples import SHARES, sample_of, usual
from sparsec.compiler.threads import Compile
from sparsec.errors import DeviceError, InputError, ShapeError, ToolchainError, VerificationError
from sparsec.graph import reader
from sparsec.graph.shapes import static_shape
from sparsec.graph.sizes import ranges
from sparsec.runtime.session import InferenceSession

LEAST_GAIN = 0.02
"""The share of a call's time that the other way of launching must gain."""


@dataclass(frozen=True)
class Overlap:
    """What a call takes either way: kernels wait for the end of others to be launched, or do not.

    Attributes:
        off_us, on_us: in microseconds.
        shapes: those of the inputs that were timed, where the artifact takes others; else None.

    """

    off_us: float
    on_us: float
    shapes: Mapping[str, Sequence[int]] | None = None

    @property
    def gains(self) -> bool:
        """Whether kernels are launched before others have ended."""
        return self.on_us <= (1 - LEAST_GAIN) * self.off_us


def overlapped_if_faster(compile_one: Compile) -> Compile:
    """What compiles both ways where that can be timed, and takes the faster; the report says so."""
    @functools.wraps(compile_one)
    def compile_either(model: reader.Source, options: CompileOptions) -> Artifact:
        if options.dependent_launch == "on":
            return _told(compile_one(model, options), early=True)
        waiting = replace(options, dependent_launch="off")
        if options.dependent_launch == "off" or not _is_timed(options):
            return compile_one(model, waiting)
        artifact = compile_one(model, replace(waiting, progress=_half(options.progress, 0)))
        if options.backend.missing(artifact.manifest.needs) is not None:
            return artifact  # which nothing can run here
        try:
            other = compile_one(model, replace(options, dependent_launch="on", dump_ir=None,
                                               progress=_half(options.progress, 1)))
            found = _measured(artifact, other, _samples(model, options))
        except (VerificationError, DeviceError, ToolchainError) as error:
            warnings.warn(f"kernels wait for the end of those in front of them, since they err or fail otherwise, or "
                          f"cannot be timed both ways: {error}", stacklevel=2)
            return artifact
        if found is None:
            return artifact
        return _told(other if found.gains else artifact, early=found.gains, **vars(found))

    return compile_either


def _told(artifact: Artifact, *, early: bool, off_us: float | None = None, on_us: float | None = None,
          shapes: Mapping[str, Sequence[int]] | None = None) -> Artifact:
    """The artifact with what the report says of launches: what `Overlap` has, where that was measured."""
    return replace(artifact, report={**artifact.report, "overlap": {
        "early": early, "off_us": off_us, "on_us": on_us, "shapes": shapes}})


def _half(progress: Progress | None, half: int) -> Progress | None:
    """What tells of the first or the second of two compilations as half of the work."""
    if progress is None:
        return None
    return lambda step, done: progress(f"{step}, launched early" if half else step, (half + done) / 2)


def _is_timed(options: CompileOptions) -> bool:
    """Whether there are two ways, and a machine that times programs."""
    backend, target = options.backend, options.resolved_target
    if options.tune == "off" or backend.reject_dependent_launch(target) is not None:
        return False
    measurer = backend.measurer(target, options.measure_on)
    return measurer is not None and measurer.here


def _samples(model: reader.Source, options: CompileOptions) -> Iterator[tuple[Feeds, bool]]:
    """Inputs to time with, the best first, each with whether others have other shapes.

    They are real ones where there are such; else random ones, at run-time sizes of what is usual, of ever smaller
    shares of it for models that take none so large, and of the sizes that outputs are compared at.
    """
    simplified = simplify(model, replace(options, progress=None, dump_ir=None), symbolic=options.backend.sized)
    graph, job = simplified.graph, simplified.job
    is_sized = any(static_shape(value) is None for value in graph.graph.inputs)
    if is_sized and not job.real:
        limits = ranges(options.dims or {})
        for share in SHARES:
            yield sample_of(graph, limits, {}, others=usual(graph.graph.inputs, limits, share)), True
    yield (*job.real, *job.generated)[0], is_sized


def _measured(off: Artifact, on: Artifact, samples: Iterator[tuple[Feeds, bool]]) -> Overlap | None:
    """Both in turns, with the first inputs that the model takes; None where it takes none of them.

    Raises:
        DeviceError: the GPU fails, or does not hold both.
        ToolchainError: what they call is not here.

    """
    with ExitStack() as opened:
        sessions = []
        for each in (off, on):
            sessions.append(InferenceSession(each))
            opened.callback(sessions[-1].close)
        for feeds, is_sized in samples:
            shapes = {name: list(array.shape) for name, array in feeds.items()} if is_sized else None
            try:
                off_us, on_us = (1e6 * seconds for seconds in fastest([
                    functools.partial(session.run, None, dict(feeds)) for session in sessions]))
            except (InputError, ShapeError):
                continue
            return Overlap(off_us, on_us, shapes)
    return None
