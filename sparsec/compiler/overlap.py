"""Whether the kernels of a GPU are launched before those in front of them have ended (`backends.cuda.dependent`).

Only a measurement on the GPU can tell whether that gains: where one may be made, a model is compiled both ways, both
are compared with the reference, and sessions of both are timed in turns. Where nothing is timed, kernels wait.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace

from sparsec.artifact.file import Artifact
from sparsec.backends.job import Feeds
from sparsec.compiler.batches import fastest
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import simplify
from sparsec.compiler.threads import Compile
from sparsec.errors import DeviceError, InputError, VerificationError
from sparsec.graph import reader
from sparsec.runtime.session import InferenceSession

LEAST_GAIN = 0.02
"""The share of a call's time that the other way of launching must gain."""


@dataclass(frozen=True)
class Overlap:
    """What a call takes either way, in microseconds: kernels wait for the end of others to be launched, or do not."""

    off_us: float
    on_us: float

    @property
    def gains(self) -> bool:
        """Whether kernels are launched before others have ended."""
        return self.on_us <= (1 - LEAST_GAIN) * self.off_us


def overlapped_if_faster(compile_one: Compile) -> Compile:
    """What compiles both ways where that can be timed, and takes the faster; the report says so."""
    @functools.wraps(compile_one)
    def compile_either(model: reader.Source, options: CompileOptions) -> Artifact:
        if options.dependent_launch == "off":
            return compile_one(model, options)
        if options.dependent_launch == "on":
            return _told(compile_one(model, options), early=True)
        artifact = compile_one(model, replace(options, dependent_launch="off"))
        if not _is_timed(options):
            return artifact
        try:
            other = compile_one(model, replace(options, dependent_launch="on", dump_ir=None))
        except (VerificationError, DeviceError) as error:
            warnings.warn(f"kernels wait for the end of those in front of them, since they err or fail otherwise: "
                          f"{error}", stacklevel=2)
            return artifact
        simplified = simplify(model, replace(options, progress=None), symbolic=options.backend.sized)
        found = _measured(artifact, other, (*simplified.job.real, *simplified.job.generated)[0])
        if found is None:
            return artifact
        return _told(other if found.gains else artifact, early=found.gains, off_us=found.off_us, on_us=found.on_us)

    return compile_either


def _told(artifact: Artifact, *, early: bool, off_us: float | None = None, on_us: float | None = None) -> Artifact:
    """The artifact with what the report says of launches: the times where they were measured, in microseconds."""
    return replace(artifact, report={**artifact.report, "overlap": {
        "early": early, "off_us": off_us, "on_us": on_us}})


def _is_timed(options: CompileOptions) -> bool:
    """Whether there are two ways, and a machine that times programs."""
    backend, target = options.backend, options.resolved_target
    if options.tune == "off" or backend.reject_dependent_launch(target) is not None:
        return False
    measurer = backend.measurer(target, options.measure_on)
    return measurer is not None and measurer.here


def _measured(off: Artifact, on: Artifact, feeds: Feeds) -> Overlap | None:
    """Both in turns; None where the inputs, random ones, are none that the model takes."""
    sessions = [InferenceSession(each) for each in (off, on)]
    try:
        return Overlap(*(1e6 * seconds for seconds in fastest([
            functools.partial(session.run, None, dict(feeds)) for session in sessions])))
    except InputError:
        return None
    finally:
        for session in sessions:
            session.close()
