"""The plan of a model for CPUs: for every layer the kernel that runs it, by prediction, measurement and error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.cpu.accuracy import LayerSamples, layer_error, observe
from sparsec.backends.cpu.planning import layer_options, measure
from sparsec.backends.cpu.remote import Remote
from sparsec.cost.calibration import Calibration
from sparsec.cost.option import Option
from sparsec.cost.plan import Choice, choose
from sparsec.cost.tuning import TuningLog
from sparsec.errors import UnsupportedOperatorError
from sparsec.formats import CODECS, FORMATS
from sparsec.graph.compare import Feeds
from sparsec.target import Target


@dataclass(frozen=True)
class Job:
    """What a backend is asked for.

    Attributes:
        generated, real: random inputs, and the real ones if there are any.
        limit: the largest error of an output, None where it has none.
        announce: is told of every step; a long one calls `announce(step, part)` with the share of it that is done.

    """

    target: Target
    threads: int
    precision: str
    project_2of4: bool
    optimize: str
    codec: str
    generated: Sequence[Feeds]
    real: Sequence[Feeds]
    limit: float | None
    log: TuningLog | None
    remote: Remote | None
    calibration: Calibration
    strict_ieee: bool
    announce: Callable[..., None]


def observed(graph: ir.Model, job: Job) -> Mapping[ir.Node, LayerSamples]:
    """What layers see in real inputs, else in random ones; nothing where nodes cannot be executed one by one.

    Real inputs calibrate 8-bit integers: `node.meta["ranges"]`.
    """
    try:
        seen = observe(graph, job.real or job.generated)
    except UnsupportedOperatorError as error:
        warnings.warn(f"layers are not judged one by one, and not calibrated: {error}", stacklevel=4)
        return {}
    if job.precision == "int8" and job.real:
        for node, each in seen.items():
            node.meta["ranges"] = each.ranges
    return seen


def plan(graph: ir.Model, job: Job, seen: Mapping[ir.Node, LayerSamples]) -> list[dict[str, Any]]:
    """Choose the option that runs each layer, into `node.meta["choice"]`; returns the table of the report."""
    rows = []
    for index, node in enumerate(graph.graph):
        job.announce("plan", index / len(graph.graph))
        options = layer_options(node, job.target, job.threads, job.precision)
        if not options:
            continue
        if not CODECS[job.codec].lossless:
            _quantise(node, job.codec)
            options = layer_options(node, job.target, job.threads, job.precision)
        if job.strict_ieee:
            options = [option for option in options if option.keeps_ieee]
        choice, error = _choose(node, options, job, seen.get(node))
        node.meta["choice"] = choice
        option, weight = choice.winner.option, _weight(node)
        node.metadata_props["sparsec.format"], node.metadata_props["sparsec.kernel"] = option.name, option.kernel
        rows.append({
            "layer": choice.layer, "operator": node.op_type, "shape": list(weight.shape), "format": option.name,
            "kernel": option.kernel, "detail": option.detail, "weights": weight.size,
            "nonzeros": int(np.count_nonzero(weight)), "bytes": option.nbytes,
            "predicted_us": round(choice.winner.predicted_s * 1e6, 3), "measured_us": choice.winner.measured_us,
            "error": error, "reason": choice.reason(choice.winner),
        })
    return rows


def _choose(node: ir.Node, options: Sequence[Option], job: Job, seen: LayerSamples | None,
            ) -> tuple[Choice, float | None]:
    """The choice for a layer, and the error that narrow numbers cause in what it was seen to compute.

    Kernels by which the layer alone would err by more than an output may are passed over.
    """
    timing = measure if job.remote is None else job.remote.measure
    timed = partial(timing, node, target=job.target, threads=job.threads)
    while True:
        choice = choose(node.name or node.op_type, options, threads=job.threads, machine=job.calibration.machine,
                        smallest=job.optimize == "size", workers=1 if job.remote is None else job.remote.servers,
                        measure=None if job.log is None else
                        partial(job.log.time, target=job.target, threads=job.threads, measure=timed))
        winner = choice.winner.option
        error = None if seen is None else layer_error(node, winner, seen)
        if error is None or job.limit is None or error <= job.limit:
            return choice, error
        options = [option for option in options if option.kernel != winner.kernel]


def _weight(node: ir.Node) -> np.ndarray:
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None  # the plan has options for constant weights only
    return value.const_value.numpy()


def _quantise(node: ir.Node, codec: str) -> None:
    """Give a layer the weight that a codec stores."""
    value, dense = node.inputs[1], FORMATS["dense"]
    assert value is not None
    value.const_value = ir.tensor(dense.decode(dense.encode(_weight(node), CODECS[codec])), name=value.name)
