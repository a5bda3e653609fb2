"""Whether a small network runs on one thread although it may use several, which cost more to wake than they save.

Layers that have a kernel for one thread choose it by themselves (`cost.plan`); the rest is compiled for one number of
threads. So a network that is predicted to be faster on one is compiled for that, too, and both are timed in turns where
measuring is allowed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from sparsec.artifact.file import Artifact
from sparsec.backends.job import Feeds, silent
from sparsec.backends.program import SIZED, STAGES
from sparsec.compiler.batches import fastest
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import Prepared, prepare
from sparsec.errors import InputError
from sparsec.graph import reader
from sparsec.runtime.session import InferenceSession

LARGEST_US = 1000.0
"""Predicted microseconds of a network from which on waking threads does not count."""

Compile = Callable[[reader.Source, CompileOptions], Artifact]


@dataclass(frozen=True)
class Single:
    """Why a network that may use several threads runs on one: microseconds of an inference on each, and who says so."""

    one_us: float
    all_us: float
    measured: bool


def on_one_if_faster(compile_one: Compile) -> Compile:
    """What compiles for one thread instead of several where that is faster; the report says so, as "single"."""
    @functools.wraps(compile_one)
    def compile_either(model: reader.Source, options: CompileOptions) -> Artifact:
        artifact = compile_one(model, options)
        predicted_us = artifact.report.get("network_us")
        if (options.threads == 1 or predicted_us is None or predicted_us > LARGEST_US
                or artifact.manifest.entry in (SIZED, STAGES)):
            return artifact
        alone = replace(options, threads=1, dump_ir=None)
        prepared = prepare(model, replace(alone, progress=None), divided=True)
        one_us = 1e6 * _seconds(prepared)
        if one_us >= predicted_us:
            return artifact
        other = compile_one(model, alone)
        found = Single(one_us, predicted_us, measured=False)
        if prepared.job.measurer is not None and prepared.job.measurer.here:
            found = _measured(other, artifact, (*prepared.job.real, *prepared.job.generated)[0]) or found
        if found.one_us >= found.all_us:
            return artifact
        return replace(other, manifest=replace(other.manifest, threads=options.threads),
                       report={**other.report, "single": vars(found)})

    return compile_either


def _seconds(prepared: Prepared) -> float:
    """The predicted time of all rows, where nothing is measured."""
    backend, job = prepared.backend, replace(prepared.part, log=None, measurer=None, announce=silent)
    plan(prepared.graph, job, backend, backend.judge(prepared.graph, job))
    return (1 if prepared.batch is None else prepared.batch.parts) * backend.graph_seconds(prepared.graph.graph, job)


def _measured(one: Artifact, several: Artifact, feeds: Feeds) -> Single | None:
    """Both in turns; None where the inputs, random ones, are none that the model takes."""
    sessions = [InferenceSession(each) for each in (one, several)]
    try:
        one_us, all_us = (1e6 * seconds for seconds in fastest([
            functools.partial(session.run, None, dict(feeds)) for session in sessions]))
    except InputError:
        return None
    finally:
        for session in sessions:
            session.close()
    return Single(one_us, all_us, measured=True)
