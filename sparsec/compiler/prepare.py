"""From a model to the graph that layers are planned in: one sequence of steps for all that look at a model so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.backends.base import Backend
from sparsec.backends.job import Announce, Feeds, Job, Measurer, silent
from sparsec.compiler.batches import Batch, divide
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.pipeline import Phase, run_passes
from sparsec.compiler.samples import open_samples, sampled
from sparsec.compiler.verification import tolerance
from sparsec.cost.calibration import Calibration
from sparsec.cost.precisions import CALIBRATED
from sparsec.cost.tuning import TuningLog, default_path
from sparsec.errors import InputError, UsageError
from sparsec.graph import reader
from sparsec.graph.compare import random_feeds, split_samples
from sparsec.graph.nodes import node_name
from sparsec.graph.samples import check_finite, declared
from sparsec.graph.shapes import static_shape
from sparsec.graph.sizes import bound_dims, check_dims, fixed, ranges
from sparsec.machine import tvm_compiler  # noqa: F401 - before backends import TVM by name
from sparsec.passes.context import NOTHING, Context, Report, Spared

MOST_SAMPLES = 16
"""The first samples among real inputs: those that layers are judged and outputs verified on."""


@dataclass(frozen=True)
class Prepared:
    """A graph whose layers can be planned.

    Attributes:
        graph: after all passes, for as many rows as run at once.
        backend: what plans and builds it.
        job: what it is compiled for, with inputs for the rows of the whole model.
        batch: how its rows run, None where there is but one or they are not to be divided.
        passes: what every pass did.

    """

    graph: ir.Model
    backend: Backend
    job: Job
    batch: Batch | None
    passes: tuple[Report, ...]

    @property
    def part(self) -> Job:
        """The job with inputs for the rows that run at once."""
        return self.job if self.batch is None else self.batch.job(self.graph, self.job)


@dataclass(frozen=True)
class Simplified:
    """A graph of ONNX's operators after the passes of the first phase, with what the second one needs."""

    graph: ir.Model
    job: Job
    context: Context
    passes: tuple[Report, ...]


def prepare(model: reader.Source, options: CompileOptions, *, divided: bool = False,
            calibration: Calibration | None = None, announce: Announce = silent,
            graph: ir.Model | None = None) -> Prepared:
    """Read a model and run the passes.

    Args:
        model: as `reader.load` takes it.
        options: those of `sparsec.compile`; shapes have single sizes.
        divided: take the graph for as many rows as run at once, where the backend divides batches.
        calibration: rates in place of the backend's.
        announce: told of the steps "read" and "rewrite".
        graph: the model as `reader.load` has read it at these sizes, where that has been done; it is changed.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        InputError: the real inputs are not the model's.
        CalibrationError: nothing measures where `measure_on` says.

    """
    simplified = simplify(model, options, calibration=calibration, announce=announce, graph=graph)
    return specialise(simplified, options, divided=divided)


def simplify(model: reader.Source, options: CompileOptions, *, calibration: Calibration | None = None,
             announce: Announce = silent, symbolic: bool = False, spared: Spared = NOTHING,
             graph: ir.Model | None = None) -> Simplified:
    """The first half of `prepare`; with `symbolic`, dimensions that no option binds stay symbolic; `spared` fails."""
    announce("read")
    dims = options.dims or {}
    limits = ranges(dims)
    if dims:
        check_dims(reader.load(model, symbolic=True), dims, options.shapes)
    if graph is None:
        graph = reader.load(model, shapes=fixed(options.shapes or {}), symbolic=symbolic, dims=bound_dims(dims))
    for node in graph.graph:
        node.name = node_name(node)  # before passes number those without
    job = _job(graph, options, calibration, announce, limits)
    announce("rewrite")
    context = Context(job.target, options.strict_ieee, spared, job.precision,
                      compact=options.optimize != options.backend.goals[0], threads=options.threads)
    passes = run_passes(graph, context, options.dump_ir, Phase.SIMPLIFY)
    return Simplified(graph, job, context, tuple(passes))


def specialise(simplified: Simplified, options: CompileOptions, *, divided: bool = False) -> Prepared:
    """The second half of `prepare`."""
    graph, job, context = simplified.graph, simplified.job, simplified.context
    batch = None
    if divided and options.backend.divides:
        graph, batch = divide(graph, job, context, options.backend)
    passes = (*simplified.passes, *run_passes(graph, context, options.dump_ir, Phase.SPECIALISE))
    options.backend.join(graph, job)
    return Prepared(graph, options.backend, job, batch, passes)


def _job(graph: ir.Model, options: CompileOptions, calibration: Calibration | None, announce: Announce,
         limits: Mapping[str, tuple[int, int]]) -> Job:
    """What a model is compiled for; where sizes are symbolic, inputs are generated for several."""
    target, backend, precision = options.resolved_target, options.backend, options.resolved_precision
    if options.inputs and all(np.size(array) == 0 for array in options.inputs.values()):
        shapes = ", ".join(f"'{name}' is {'x'.join(map(str, np.shape(array)))}"
                           for name, array in options.inputs.items())
        raise UsageError(f"the inputs hold no sample: {shapes}; give at least one")
    if options.inputs and precision in CALIBRATED:
        check_finite(declared(graph), options.inputs)
    static = all(static_shape(value) is not None for value in graph.graph.inputs)
    given = [] if not options.inputs else _samples(graph, options.inputs) if static else (
        open_samples(graph, options.inputs, limits)[:MOST_SAMPLES])
    limit = options.max_error
    if limit is None:
        limit = tolerance(backend.precisions[precision], options.codec)
    measurer = backend.measurer(target, options.measure_on) if options.tune == "measure" else None
    return Job(options=options, target=target, precision=precision,
               calibration=calibration or backend.calibration(target, options.threads),
               generated=[random_feeds(graph)] if static else sampled(graph, limits),
               real=given,
               limit=limit if backend.limited else None, measurer=measurer,
               log=None if measurer is None else _log(measurer, options.tune_seconds), announce=announce)


def _samples(graph: ir.Model, inputs: Feeds) -> list[Feeds]:
    """The first of the real inputs; an InputError where they are not the model's."""
    samples = split_samples(graph, inputs)[:MOST_SAMPLES]
    expected = {value.name: f"{value.dtype.numpy().name} {list(static_shape(value) or ())}"
                for value in graph.graph.inputs if value.dtype is not None}
    for sample in samples:
        given = {name: f"{np.asarray(array).dtype.name} {list(np.shape(array))}" for name, array in sample.items()}
        if given != expected:
            raise InputError(f"the model takes the inputs {expected}; given: {given}")
    return samples


def _log(measurer: Measurer, seconds: float) -> TuningLog:
    """Where measured times are kept."""
    return TuningLog(default_path(), seconds, measurer.machine)
