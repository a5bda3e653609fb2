"""Why every layer runs as it does: structure, candidates, and what more pruning would buy, as dictionaries for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.analysis import structure
from sparsec.backends.cpu.planning import layer_options
from sparsec.backends.cuda import planning as cuda
from sparsec.compiler.pipeline import run_passes
from sparsec.cost.calibration import Calibration
from sparsec.cost.option import HALF_PRECISIONS, PRECISIONS, Option
from sparsec.cost.plan import Choice, best_by_format, choose
from sparsec.errors import UsageError
from sparsec.formats.smallest import smallest
from sparsec.graph import reader
from sparsec.passes.context import Context
from sparsec.target import Target, resolve

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""What layers are imagined pruned to, at random places."""
PROMISED = (0.8, 0.9, 0.95)
"""Those that the expected time of the whole network is given for."""


@dataclass(frozen=True)
class Planner:
    """How layers are planned for the targets of one kind.

    Attributes:
        options: the ways to run a layer, from node, target, threads and precision.
        precisions: those that there are.
        refused: why formats are not among the options, by name.
        buckets: the options by the number of tokens.
        outside: why a node runs without the kernel that its operator has.

    """

    options: Callable[[ir.Node, Target, int, str], list[Option]]
    precisions: Mapping[str, float]
    refused: Callable[[ir.Node, Target, str], dict[str, str]] = lambda *_: {}
    buckets: Callable[[ir.Node, Target, str], dict[int, list[Option]]] = lambda *_: {}
    outside: Callable[[ir.Node], str | None] = lambda _: None


PLANNERS = {
    "cpu": Planner(layer_options, PRECISIONS),
    "cuda": Planner(lambda node, target, _threads, precision: cuda.layer_options(node, target, precision)[0],
                    HALF_PRECISIONS, lambda *question: cuda.layer_options(*question)[1], cuda.by_bucket, cuda.outside),
}
"""By the kind of target."""


@dataclass(frozen=True)
class _Question:
    """What a layer is planned for."""

    target: Target
    threads: int
    precision: str
    calibration: Calibration

    def options(self, node: ir.Node) -> list[Option]:
        """The ways to run a layer."""
        return PLANNERS[self.target.kind].options(node, self.target, self.threads, self.precision)


def explain(model: reader.Source, target: str | Target = "cpu", *, threads: int = 1,
            shapes: Mapping[str, Sequence[int]] | None = None, precision: str | None = None, calibration: Calibration,
            progress: Callable[[float], None] = lambda _share: None) -> dict[str, Any]:
    """The plan of a model by the cost model, without compiling it; `precision` is that of `sparsec.compile`.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UsageError: the target has no cost model.

    """
    resolved = resolve(target)
    planner = PLANNERS.get(resolved.kind)
    if planner is None:
        raise UsageError(f"there is no cost model for target '{resolved.name}'; explain a target of kind "
                         f"{', '.join(PLANNERS)}, or `sparsec simulate` an accelerator")
    precision = precision or next(iter(planner.precisions))
    if precision not in planner.precisions:
        raise UsageError(f"precision='{precision}' on target '{resolved.name}'; choose one of "
                         f"{', '.join(planner.precisions)}")
    question = _Question(resolved, threads, precision, calibration)
    graph = reader.load(model, shapes=shapes)
    passes = run_passes(graph, Context(resolved))
    layers = []
    for index, node in enumerate(graph.graph):
        progress(index / len(graph.graph))
        if options := question.options(node):
            layers.append(_layer(node, options, question))
    return {
        "target": resolved.name, "threads": threads, "precision": precision, "machine": calibration.source,
        "layers": layers,
        "total": _total(layers),
        "if_pruned": [_if_pruned(layers, SPARSITIES.index(sparsity)) for sparsity in PROMISED],
        "outside": [asdict(note) for report in passes if report.name == "lift" for note in report.notes]
        + [{"node": node.name, "text": reason} for node in graph.graph if (reason := planner.outside(node))],
    }


def _layer(node: ir.Node, options: list[Option], question: _Question) -> dict[str, Any]:
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None  # the backend has options for constant weights only
    weight = value.const_value.numpy()
    found = structure.find(weight)
    choice = _choose(node, options, question)
    stored = smallest(weight)
    curve = _curve(node, value, weight, question)
    return {
        "layer": choice.layer, "operator": node.op_type, "shape": list(weight.shape), "weights": weight.size,
        "nonzeros": int(np.count_nonzero(weight)), **asdict(found), "structure": str(found),
        "candidates": [_candidate(choice, each) for each in best_by_format(choice)],
        "smallest": {"format": stored.format.name, "bytes": stored.nbytes},
        "dense_us": _microseconds(choice, dense=True),
        "curve": curve, "break_even": _break_even(curve), **_asked(node, question),
    }


def _asked(node: ir.Node, question: _Question) -> dict[str, Any]:
    """Why formats are no candidates, and the choice by the number of tokens, where the target's planner knows."""
    planner = PLANNERS[question.target.kind]
    buckets = []
    for columns, options in planner.buckets(node, question.target, question.precision).items():
        choice = _choose(node, options, question)
        buckets.append({"columns": columns, "format": choice.winner.option.name,
                        "predicted_us": choice.winner.predicted_s * 1e6, "dense_us": _microseconds(choice, dense=True)})
    return {"refused": planner.refused(node, question.target, question.precision), "buckets": buckets}


def _choose(node: ir.Node, options: list[Option], question: _Question) -> Choice:
    return choose(node.name or node.op_type, options, threads=question.threads, machine=question.calibration.machine)


def _candidate(choice: Choice, candidate: Any) -> dict[str, Any]:
    option = candidate.option
    return {"format": option.name, "kernel": option.kernel, "detail": option.detail, "bytes": option.nbytes,
            "predicted_us": candidate.predicted_s * 1e6, "bound": choice.machine.bound(option.work),
            "reason": choice.reason(candidate)}


def _microseconds(choice: Choice, *, dense: bool) -> float | None:
    """The predicted time of the fastest candidate that is dense, or of the fastest other; None where there is none."""
    times = [each.predicted_s * 1e6 for each in (choice.winner, *choice.losers) if each.option.is_dense is dense]
    return min(times, default=None)


def _curve(node: ir.Node, value: ir.Value, weight: np.ndarray, question: _Question) -> list[dict[str, Any]]:
    """The predicted time of the best dense and the best sparse kernel at every one of `SPARSITIES`."""
    kept, score = value.const_value, np.random.default_rng(0).random(weight.shape, np.float32)
    points = []
    try:
        for sparsity in SPARSITIES:
            value.const_value = ir.tensor((score >= sparsity).astype(np.float32), name=value.name)
            choice = _choose(node, question.options(node), question)
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
