"""The plan of a model: for every layer the kernel that runs it, by prediction, measurement and error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from sparsec.backends.base import Backend, Judge
from sparsec.backends.job import Job
from sparsec.backends.layer_report import LayerReport
from sparsec.cost.option import Option
from sparsec.cost.plan import CHOICE, Choice, Measure, Prepare, choose
from sparsec.errors import VerificationError
from sparsec.formats import CODECS, FORMATS
from sparsec.graph.annotations import NETWORK
from sparsec.graph.large import derived
from sparsec.graph.nodes import weight_array

ALIKE = 1.1
"""Times the best prediction, up to which a kernel is taken that reads a weight as it is stored already."""
Stored = Callable[[ir.Node, Option], bool]
"""Whether the weight of a layer is stored as an option's kernel reads it, for another plan."""


def plan(graph: ir.Model, job: Job, backend: Backend, judge: Judge | None = None, stored: Stored | None = None,
         ) -> tuple[LayerReport, ...]:
    """Choose the option that runs each layer of a prepared graph, as its `CHOICE`; returns the rows of the report.

    Args:
        graph: what `prepare` makes of a model.
        job: what it is compiled for.
        backend: the target's.
        judge: the backend's for the graph and the job's inputs; without one, no kernel is passed over for its error.
        stored: tells options whose weight costs no bytes, which are taken where they are hardly slower than others.

    Raises:
        VerificationError: no kernel of a layer is exact enough.

    """
    rows = []
    for index, node in enumerate(graph.graph):
        job.announce("plan", index / len(graph.graph), 0.0 if job.log is None else job.log.budget_s)
        loss = backend.project(node) if job.options.project_2of4 else None
        options = backend.options(node, job)
        if not options:
            continue
        if not CODECS[job.options.codec].lossless and weight_array(node).dtype == np.float32:  # not codes already
            _quantize(node, job.options.codec)
            options = backend.options(node, job)
        if job.options.strict_ieee:
            options = [option for option in options if option.keeps_ieee]
        replaced = {option.replaces for option in options}
        options = [option for option in options if option.kernel not in replaced]
        choice, error, passed_over = _choose_stored(node, options, job, judge, stored)
        CHOICE.set(node, choice)
        option = choice.winner.option
        node.metadata_props["sparsec.format"], node.metadata_props["sparsec.kernel"] = option.name, option.kernel
        widened = None if passed_over else backend.widened(node, option, job)
        rows.append(replace(_row(node, choice, error, loss, passed_over), widened=widened))
    return tuple(rows)


def _row(node: ir.Node, choice: Choice, error: float | None, loss: float | None, passed_over: Mapping[str, float],
         ) -> LayerReport:
    option, weight, other = choice.winner.option, weight_array(node), choice.instead_of
    return LayerReport(
        layer=choice.layer, operator=node.op_type, shape=weight.shape, format=option.name, kernel=option.kernel,
        detail=option.detail, weights=weight.size, nonzeros=int(np.count_nonzero(weight)), bytes=option.nbytes,
        predicted_us=round(choice.winner.predicted_s * 1e6, 3), measured_us=choice.winner.measured_us, error=error,
        projection_error=loss, reason=choice.reason(choice.winner),
        instead_of=None if other is None else (other.name, other.kernel), passed_over=passed_over or None)


def _choose_stored(node: ir.Node, options: Sequence[Option], job: Job, judge: Judge | None, stored: Stored | None,
                   ) -> tuple[Choice, float | None, Mapping[str, float]]:
    """The choice among the options whose weight is stored already, where one is fast and exact enough, else of all."""
    machine = job.calibration.machine
    if stored is not None and (alike := [option for option in options if stored(node, option)]):
        limit = ALIKE * min(machine.seconds(option.work, job.threads) for option in options)
        alike = [option for option in alike if machine.seconds(option.work, job.threads) <= limit]
        with suppress(VerificationError):
            if alike:
                return _choose(node, alike, job, judge)
    return _choose(node, options, job, judge)


def _choose(node: ir.Node, options: Sequence[Option], job: Job, judge: Judge | None,
            ) -> tuple[Choice, float | None, Mapping[str, float]]:
    """The choice for a layer, and the error that narrow numbers cause in what it was seen to compute.

    Kernels by which the layer alone would err by more than an output may are passed over, and told with these errors.

    Raises:
        VerificationError: that leaves no kernel.

    """
    workers = 1 if job.measurer is None else job.measurer.workers
    passed_over: dict[str, float] = {}
    while options:
        choice = choose(node.name or node.op_type, options, threads=job.threads, machine=job.calibration.machine,
                        smallest=job.options.optimize == "size", workers=workers, measure=timer(node, job),
                        prepare=_ahead(node, job))
        winner = choice.winner.option
        error = None if judge is None else judge(node, winner)
        if error is None or job.limit is None or error <= job.limit:
            return choice, error, passed_over
        passed_over[winner.kernel] = error
        options = [option for option in options if option.kernel != winner.kernel]
    raise VerificationError(f"layer '{node.name}': every kernel errs by more than {job.limit} on the inputs; compile "
                            "with precision='fp32' or a larger max_error")


def timer(node: ir.Node, job: Job) -> Measure | None:
    """What times the options of a layer, by the log where it knows them; None where the cost model is trusted."""
    if job.measurer is None or job.log is None:
        return None
    measure = partial(job.measurer.measure, node, target=job.target, threads=job.threads)
    return partial(job.log.time, target=job.target, threads=job.threads, measure=measure, network=NETWORK.get(node))


def _ahead(node: ir.Node, job: Job) -> Prepare | None:
    """What compiles options of a layer before `timer`'s times them."""
    if job.measurer is None or job.log is None:
        return None
    prepare = partial(job.measurer.prepare, target=job.target, threads=job.threads)
    return partial(job.log.prepare, target=job.target, threads=job.threads, prepare=prepare, network=NETWORK.get(node))


def _quantize(node: ir.Node, codec: str) -> None:
    """Give a layer the weight that a codec stores."""
    value, dense = node.inputs[1], FORMATS["dense"]
    assert value is not None
    assert value.const_value is not None
    value.const_value = derived(value.const_value, lambda array: dense.decode(dense.encode(array, CODECS[codec])),
                                tuple(value.const_value.shape.numpy()))
