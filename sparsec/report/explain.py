"""Why every layer runs as it does: structure, candidates, and what more pruning would buy, as dictionaries for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.analysis import structure
from sparsec.backends.job import Job
from sparsec.backends.registry import BACKENDS
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import Prepared, prepare
from sparsec.cost.calibration import Calibration
from sparsec.cost.option import Option
from sparsec.cost.plan import Candidate, Choice, best_by_format, choose
from sparsec.errors import UsageError
from sparsec.formats.smallest import smallest
from sparsec.graph import reader
from sparsec.graph.layout import layout_of
from sparsec.graph.nodes import operand, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.target import Target

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""What layers are imagined pruned to, at random places."""
PROMISED = (0.8, 0.9, 0.95)
"""Those that the expected time of the whole network is given for."""
SOME = 97
"""One of so many weights is asked whether 16 bits hold it."""

LIFTING = ("convolutions", "lift", "recurrent")
"""The passes that make layers; what they leave runs outside of sparsec's kernels."""

Curve = list[dict[str, Any]]


@dataclass(frozen=True)
class Geometry:
    """What a curve belongs to.

    Attributes:
        operator, attributes: the node's, the latter as text.
        weight: its shape.
        tensors: the shape and the layout of every operand.
        half: 16 bits hold the weights.

    """

    operator: str
    attributes: str
    weight: tuple[int, ...]
    tensors: tuple[Any, ...]
    half: bool


def explain(model: reader.Source, target: str | Target = "cpu", *, threads: int = 1,
            shapes: Mapping[str, Sequence[int]] | None = None, precision: str | None = None,
            calibration: Calibration | None = None, progress: Callable[[float], None] = lambda _share: None,
            ) -> dict[str, Any]:
    """The plan of a model by the cost model, without compiling it; `precision` is that of `sparsec.compile`.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UsageError: the target has no cost model.

    """
    options = CompileOptions(target, threads=threads, shapes=shapes, precision=precision, tune="off")
    if not options.backend.explains:
        explained = ", ".join(kind for kind, each in BACKENDS.items() if each.explains)
        raise UsageError(f"there is no cost model for target '{options.resolved_target.name}'; explain a target of "
                         f"kind {explained}, or `sparsec simulate` an accelerator")
    prepared = prepare(model, options, calibration=calibration)
    job, nodes = prepared.job, prepared.graph.graph
    layers, curves = [], dict[Geometry, Curve]()
    for index, node in enumerate(nodes):
        progress(index / len(nodes))
        if offers := prepared.backend.options(node, job):
            layers.append(_layer(node, offers, prepared, curves))
    return {
        "target": job.target.name, "threads": threads, "precision": job.precision, "machine": job.calibration.source,
        "layers": layers,
        "total": _total(layers),
        "if_pruned": [_if_pruned(layers, SPARSITIES.index(sparsity)) for sparsity in PROMISED],
        "outside": [asdict(note) for report in prepared.passes if report.name in LIFTING for note in report.notes]
        + [{"node": node.name, "text": reason} for node in nodes if (reason := prepared.backend.outside(node))],
    }


def _layer(node: ir.Node, options: list[Option], prepared: Prepared, curves: dict[Geometry, Curve]) -> dict[str, Any]:
    weight = weight_array(node)
    found = structure.find(weight)
    choice = _choose(node, options, prepared.job)
    stored = smallest(weight)
    geometry = _geometry(node, weight)
    if geometry not in curves:
        curves[geometry] = _curve(node, geometry, prepared)
    curve = curves[geometry]
    return {
        "layer": choice.layer, "operator": node.op_type, "shape": list(weight.shape), "weights": weight.size,
        "nonzeros": int(np.count_nonzero(weight)), **asdict(found), "structure": str(found),
        "candidates": [_candidate(choice, each) for each in best_by_format(choice)],
        "smallest": {"format": stored.format.name, "bytes": stored.nbytes},
        "dense_us": _microseconds(choice, dense=True),
        "curve": curve, "break_even": _break_even(curve), **_asked(node, prepared),
    }


def _asked(node: ir.Node, prepared: Prepared) -> dict[str, Any]:
    """Why formats are no candidates, and the choice by the number of tokens, where the backend knows."""
    backend, job = prepared.backend, prepared.job
    buckets = []
    for columns, options in backend.options_by_columns(node, job).items():
        choice = _choose(node, options, job)
        buckets.append({"columns": columns, "format": choice.winner.option.name,
                        "predicted_us": choice.winner.predicted_s * 1e6, "dense_us": _microseconds(choice, dense=True)})
    return {"refused": backend.refused(node, job), "buckets": buckets}


def _choose(node: ir.Node, options: list[Option], job: Job) -> Choice:
    return choose(node.name or node.op_type, options, threads=job.threads, machine=job.calibration.machine)


def _candidate(choice: Choice, candidate: Candidate) -> dict[str, Any]:
    option = candidate.option
    return {"format": option.name, "kernel": option.kernel, "detail": option.detail, "bytes": option.nbytes,
            "predicted_us": candidate.predicted_s * 1e6, "bound": choice.machine.bound(option.work),
            "reason": choice.reason(candidate)}


def _microseconds(choice: Choice, *, dense: bool) -> float | None:
    """The predicted time of the fastest candidate that is dense, or of the fastest other; None where there is none."""
    times = [each.predicted_s * 1e6 for each in (choice.winner, *choice.losers) if each.option.is_dense is dense]
    return min(times, default=None)


def _geometry(node: ir.Node, weight: np.ndarray) -> Geometry:
    """All that a layer's curve depends on: it is that of other weights, of as many bits."""
    tensors = [(static_shape(value), layout_of(value)) for value in (*node.inputs, *node.outputs) if value is not None]
    some = weight.reshape(-1)[::SOME]
    return Geometry(node.op_type, str(sorted(map(str, node.attributes.values()))), weight.shape, tuple(tensors),
                    half=bool((some.astype(np.float16) == some).all()))


def _curve(node: ir.Node, geometry: Geometry, prepared: Prepared) -> Curve:
    """The predicted time of the best dense and the best sparse kernel at every one of `SPARSITIES`."""
    value, score = operand(node, 1), np.random.default_rng(0).random(geometry.weight, np.float32)
    values = score.astype(np.float16).astype(np.float32) if geometry.half else score
    kept, points = value.const_value, []
    try:
        for sparsity in SPARSITIES:
            value.const_value = ir.tensor(np.where(score >= sparsity, values, np.float32(0)), name=value.name)
            choice = _choose(node, prepared.backend.options(node, prepared.job), prepared.job)
            points.append({"sparsity": sparsity,
                           "dense_us": _microseconds(choice, dense=True),
                           "sparse_us": _microseconds(choice, dense=False)})
    finally:
        value.const_value = kept
    return points


def _break_even(curve: Sequence[Mapping[str, Any]]) -> float | None:
    """The sparsity from which on the sparse kernel is faster, between two points by a straight line; None if never."""
    if any(point["dense_us"] is None or point["sparse_us"] is None for point in curve):
        return None
    gains = [point["dense_us"] - point["sparse_us"] for point in curve]
    if gains[-1] < 0:
        return None
    last_loss = max((i for i, gain in enumerate(gains) if gain < 0), default=None)
    if last_loss is None:
        return 0.0
    low, high = curve[last_loss]["sparsity"], curve[last_loss + 1]["sparsity"]
    return float(low + (high - low) * gains[last_loss] / (gains[last_loss] - gains[last_loss + 1]))


def _total(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "layers": len(layers), "weights": sum(each["weights"] for each in layers),
        "nonzeros": sum(each["nonzeros"] for each in layers),
        "predicted_us": sum(each["candidates"][0]["predicted_us"] for each in layers),
        "dense_us": sum(each["dense_us"] or 0.0 for each in layers),
        "bytes": sum(each["candidates"][0]["bytes"] for each in layers),
        "smallest_bytes": sum(each["smallest"]["bytes"] for each in layers),
    }


def _if_pruned(layers: Sequence[Mapping[str, Any]], index: int) -> dict[str, Any]:
    """What the layers would take together at one of `SPARSITIES`."""
    times = [min(t for t in (each["curve"][index]["dense_us"], each["curve"][index]["sparse_us"]) if t is not None)
             for each in layers]
    return {"sparsity": SPARSITIES[index], "predicted_us": sum(times)}
