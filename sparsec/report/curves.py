"""What the layers of a model would take pruned: the cost model at some sparsities, with zeros of a pattern."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.backends.registry import BACKENDS
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import Prepared, prepare
from sparsec.cost.option import Option
from sparsec.cost.plan import Candidate, Choice, choose
from sparsec.errors import UsageError
from sparsec.graph import reader
from sparsec.graph.layout import layout_of
from sparsec.graph.nodes import node_name, operand, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.target import Target

SPARSITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""What layers are imagined pruned to, at random places."""
LARGE, SOME_SPARSITIES = 1 << 22, (0.0, 0.5, 0.8, 0.9, 0.95)
"""Weights from which on only some of `SPARSITIES` are priced, and which; straight lines give the others."""
SOME = 97
"""One of so many weights is asked whether 16 bits hold it."""

Mask = Callable[[np.ndarray, float], np.ndarray]
"""From scores (outputs, inputs), channels innermost in convolutions, and a sparsity to what is kept."""


@dataclass(frozen=True)
class Point:
    """The predicted microseconds of the best dense and the best sparse kernel at a sparsity; None without one.

    `sparse_format` is what the best sparse kernel reads, empty without one.
    """

    sparsity: float
    dense_us: float | None
    sparse_us: float | None
    sparse_format: str = ""

    @property
    def best_us(self) -> float:
        """That of the better one."""
        return min(time for time in (self.dense_us, self.sparse_us) if time is not None)

    @property
    def best_format(self) -> str:
        """What the better one reads."""
        return self.sparse_format if self.best_us == self.sparse_us else "dense"


Curve = tuple[Point, ...]


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


def anywhere(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Zeros at random places, for scores that are even random numbers of 0 to 1."""
    return np.asarray(scores >= sparsity)


def options_of(target: str | Target, threads: int, shapes: Mapping[str, Sequence[int]] | None,
               precision: str | None = None) -> CompileOptions:
    """The options of a model whose layers are to be priced.

    Raises:
        UsageError: the target has no cost model.

    """
    options = CompileOptions(target, threads=threads, shapes=shapes, precision=precision, tune="off")
    if not options.backend.explains:
        explained = ", ".join(kind for kind, each in BACKENDS.items() if each.explains)
        raise UsageError(f"there is no cost model for target '{options.resolved_target.name}'; explain a target of "
                         f"kind {explained}, or `sparsec simulate` an accelerator")
    return options


def layer_curves(model: reader.Source, options: CompileOptions, sparsities: Sequence[float], mask: Mask = anywhere,
                 ) -> dict[str, Curve]:
    """By the names of layers what they would take, pruned so.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.

    """
    return curves_of(prepare(model, options), sparsities, mask)


def curves_of(prepared: Prepared, sparsities: Sequence[float], mask: Mask = anywhere) -> dict[str, Curve]:
    """By the names of layers what they would take, pruned so."""
    known, found = dict[Geometry, Curve](), dict[str, Curve]()
    for node in prepared.graph.graph:
        if prepared.backend.options(node, prepared.job):
            geometry = geometry_of(node)
            if geometry not in known:
                known[geometry] = curve(node, geometry, prepared, sparsities, mask)
            found[node_name(node)] = known[geometry]
    return found


def geometry_of(node: ir.Node) -> Geometry:
    """All that a layer's curve depends on: it is that of other weights, of as many bits."""
    tensors = [(static_shape(value), layout_of(value)) for value in (*node.inputs, *node.outputs) if value is not None]
    weight = weight_array(node)
    some = weight.reshape(-1)[::SOME]
    return Geometry(node.op_type, str(sorted(map(str, node.attributes.values()))), weight.shape, tuple(tensors),
                    half=bool((some.astype(np.float16) == some).all()))


def curve(node: ir.Node, geometry: Geometry, prepared: Prepared, sparsities: Sequence[float] = SPARSITIES,
          mask: Mask = anywhere) -> Curve:
    """The predicted time of the best dense and the best sparse kernel at every sparsity."""
    if sparsities == SPARSITIES and math.prod(geometry.weight) >= LARGE:
        points = _curve(node, geometry, prepared, SOME_SPARSITIES, mask)
        if all(None not in (point.dense_us, point.sparse_us) for point in points):
            return _between(points, sparsities)
    return _curve(node, geometry, prepared, sparsities, mask)


def _between(points: Curve, sparsities: Sequence[float]) -> Curve:
    """The curve through points that have all times, at other sparsities; formats are those of the point before."""
    at, dense, sparse = (np.array([getattr(point, name) for point in points], float)
                         for name in ("sparsity", "dense_us", "sparse_us"))
    before = at.searchsorted(sparsities, "right") - 1
    return tuple(Point(each, float(np.interp(each, at, dense)), float(np.interp(each, at, sparse)),
                       points[place].sparse_format) for each, place in zip(sparsities, before, strict=True))


def _curve(node: ir.Node, geometry: Geometry, prepared: Prepared, sparsities: Sequence[float], mask: Mask) -> Curve:
    """The times at every one of these sparsities."""
    value, score = operand(node, 1), np.random.default_rng(0).random(geometry.weight, np.float32)
    values = _values(score, weight_array(node).dtype, half=geometry.half)
    inner = np.moveaxis(score, 1, -1)
    matrix = inner.reshape(len(score), -1)
    kept, points, pruned = value.const_value, list[Point](), np.empty_like(values)
    try:
        for sparsity in sparsities:
            chosen = np.moveaxis(mask(matrix, sparsity).reshape(inner.shape), -1, 1)
            value.const_value = ir.tensor(np.multiply(values, chosen, out=pruned), name=value.name)
            choice = decide(node, prepared.backend.options(node, prepared.job), prepared)
            sparse = fastest(choice, dense=False)
            points.append(Point(sparsity, microseconds(choice, dense=True), microseconds(choice, dense=False),
                                sparse.option.format if sparse else ""))
    finally:
        value.const_value = kept
    return tuple(points)


def _values(score: np.ndarray, dtype: np.dtype[Any], *, half: bool) -> np.ndarray:
    """Weights that are not zero, for even random numbers of 0 to 1: floats, or codes where the layer has such."""
    if np.issubdtype(dtype, np.integer):
        return (1 + score * (np.iinfo(dtype).max - 1)).astype(dtype)
    return score.astype(np.float16).astype(np.float32) if half else score


def decide(node: ir.Node, options: list[Option], prepared: Prepared) -> Choice:
    """The choice among options by the cost model."""
    job = prepared.job
    return choose(node_name(node), options, threads=job.threads, machine=job.calibration.machine)


def microseconds(choice: Choice, *, dense: bool) -> float | None:
    """The predicted time of the fastest candidate that is dense, or of the fastest other; None where there is none."""
    found = fastest(choice, dense=dense)
    return found.predicted_s * 1e6 if found else None


def fastest(choice: Choice, *, dense: bool) -> Candidate | None:
    """The fastest candidate that is dense, or of the others."""
    return min((each for each in (choice.winner, *choice.losers) if each.option.is_dense is dense),
               key=lambda each: each.predicted_s, default=None)
