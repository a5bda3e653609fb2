"""Why every layer runs as it does: structure, candidates, and what more pruning would buy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from sparsec.analysis import structure
from sparsec.backends.job import Feeds
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.prepare import Prepared, prepare
from sparsec.compiler.samples import SHARES
from sparsec.compiler.stages import in_parts, interpreted_in, rows_by_values
from sparsec.cost.calibration import Calibration
from sparsec.cost.option import Option
from sparsec.cost.plan import CHOICE, Candidate, Choice, best_by_format
from sparsec.cost.precisions import CALIBRATED
from sparsec.errors import ShapeError, UsageError
from sparsec.formats import CODECS
from sparsec.formats.smallest import likely_smallest
from sparsec.graph import reader
from sparsec.graph.evaluate import zeros_of
from sparsec.graph.nodes import is_depthwise, node_name, weight_array
from sparsec.graph.shapes import static_shape
from sparsec.graph.sizes import Dims
from sparsec.passes.context import Spared
from sparsec.passes.strip import StripReport
from sparsec.report.any_size import AnySize, Outside, Priced, any_size, priced
from sparsec.report.curves import (
    SPARSITIES,
    Curve,
    Geometry,
    curve,
    decide,
    geometry_of,
    microseconds,
    options_of,
)
from sparsec.target import Target

PROMISED = (0.8, 0.9, 0.95)
"""Those that the expected time of the whole network is given for."""

MOST_NEAR = 3
"""Names that the refusal of an unknown one offers."""

CONVOLUTIONS = ("Conv", "QConv")

LIFTING = ("convolutions", "lift", "recurrent")
"""The passes that make layers; what they leave runs outside of sparsec's kernels."""


@dataclass(frozen=True)
class Kernel:
    """A candidate for a layer.

    Attributes:
        format, kernel, detail: how the weight is stored, and the kernel with its tiling.
        bytes: of the stored weight.
        predicted_us: microseconds of a run.
        bound: what limits it: "compute", "bandwidth" or "overhead".
        reason: why it won or lost.

    """

    format: str
    kernel: str
    detail: str
    bytes: int
    predicted_us: float
    bound: str
    reason: str


@dataclass(frozen=True)
class Bucket:
    """The choice for another number of tokens, `columns`, with its microseconds beside the best dense kernel's."""

    columns: int
    format: str
    predicted_us: float
    dense_us: float | None


@dataclass(frozen=True)
class Stored:
    """The format that stores a weight in the fewest bytes."""

    format: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Layer(structure.Structure):
    """A layer with the structure of its zeros.

    Attributes:
        layer, operator, shape: the node's name and type, and its weight's shape.
        weights, nonzeros: their numbers.
        structure: the structure in words.
        candidates: the best kernel of every format, the winner first.
        smallest: the smallest format; of large weights, that of some of their rows.
        dense_us: predicted microseconds of the best dense kernel, None where there is none.
        curve: the times at all of `SPARSITIES`, pruned at random places.
        break_even: the sparsity from which on a sparse kernel is chosen; None if never.
        refused: why formats or kernels are no candidates, by their names.
        buckets: the choices for other numbers of tokens.
        zeros: the share of zeros among the activations that it reads, where real inputs are given.

    """

    layer: str
    operator: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    structure: str
    candidates: tuple[Kernel, ...]
    smallest: Stored
    dense_us: float | None
    curve: Curve
    break_even: float | None
    refused: Mapping[str, str]
    buckets: tuple[Bucket, ...]
    zeros: float | None = None


@dataclass(frozen=True, kw_only=True)
class Total:
    """All layers together; bytes are those of the winners and of the smallest formats."""

    layers: int
    weights: int
    nonzeros: int
    predicted_us: float
    dense_us: float
    bytes: int
    smallest_bytes: int


@dataclass(frozen=True)
class Pruned:
    """What all layers would take together, were each pruned to a sparsity."""

    sparsity: float
    predicted_us: float


@dataclass(frozen=True)
class Between:
    """Nodes of an operator that have one kernel each, and none to choose among, with what they take together."""

    operator: str
    nodes: tuple[str, ...]
    predicted_us: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The plan of a model.

    Attributes:
        target, threads, precision: what it is for.
        machine: where its rates come from.
        layers: those with weights of their own, in order.
        total: all of these.
        network_us: predicted microseconds of a whole inference, None where the target has no model of that.
        between: what of these the layers do not take, the most first.
        if_pruned: what more pruning would buy.
        outside: the nodes without a kernel of sparsec's.
        sizes: those of symbolic dimensions that the figures are for.
        stripped: whether layers have lost what pruning made inactive, so that the share of zeros is not the file's.
        any_size: the artifact that the run tells the sizes, where `compile` makes such a one.

    """

    target: str
    threads: int
    precision: str
    machine: str
    layers: tuple[Layer, ...]
    total: Total
    network_us: float | None
    between: tuple[Between, ...]
    if_pruned: tuple[Pruned, ...]
    outside: tuple[Outside, ...]
    sizes: Mapping[str, int]
    stripped: bool
    any_size: AnySize | None = None


def explain(model: reader.Source, target: str | Target = "cpu", *, threads: int = 1,
            shapes: Mapping[str, Sequence[int]] | None = None, dims: Dims | None = None,
            precision: str | None = None, calibration: Calibration | None = None,
            inputs: Mapping[str, np.ndarray] | None = None, wanted: Collection[str] = (),
            progress: Callable[[float], None] = lambda _share: None) -> Explanation:
    """The plan of a model by the cost model, without compiling it; `precision` is that of `sparsec.compile`.

    `shapes` and `dims` are those of `sparsec.compile`. The layers are priced at one size of every symbolic dimension,
    that of real `inputs`, or one that is usual where nothing gives it (`compiler.samples.usual`). Zeros among
    activations are counted in the inputs, which also calibrate 8 bits as they do for `sparsec.compile`. Nodes that are
    `wanted` must be there; "all" is no name.

    Raises:
        ModelError, ShapeError: the model cannot be read, or its shapes are not static.
        UsageError: the target has no cost model, or a node that is wanted is not there.

    """
    at, options, prepared = _prepared(model, shapes or {}, dims or {}, calibration, lambda at: replace(
        options_of(target, threads, at.shapes, precision), dims=at.sizes, inputs=inputs), inputs or {})
    all_sizes = {**at.sizes, **at.assumed}
    job, nodes = prepared.job, prepared.graph.graph
    _check_wanted(wanted, nodes)
    layers, curves = list[Layer](), dict[Geometry, Curve]()
    parted = _is_parted(prepared)
    if job.real and job.precision in CALIBRATED and not parted:
        prepared.backend.judge(prepared.graph, job)  # tells the layers' ranges
    zeros = zeros_of(prepared.graph, job.real, nodes) if job.real else {}
    for index, node in enumerate(nodes):
        progress(index / len(nodes))
        offered, refused = prepared.backend.offers(node, job)
        refused = {name: in_parts(reason) for name, reason in refused.items()} if parted else refused
        if offered:
            layers.append(replace(_layer(node, offered, refused, prepared, curves), zeros=zeros.get(node)))
    notes = [Outside(note.node, note.text) for report in prepared.passes if report.name in LIFTING
             for note in report.notes]
    notes += [Outside(node.name or node.op_type, reason, node.op_type) for node in nodes
              if (reason := prepared.backend.outside(node))]
    spared = Spared(interpreted=prepared.backend.lacking(prepared.graph, job) if prepared.backend.sized else {})
    notes += [Outside(node_name(node), reason, node.op_type)
              for node, reason in interpreted_in(nodes, spared, prepared.backend.device)]
    of_rows = rows_by_values(prepared.graph, spared, prepared.backend.device)
    notes = [note for note in notes if note.node not in of_rows]
    return Explanation(
        target=job.target.name, threads=threads, precision=job.precision, machine=job.calibration.source,
        layers=tuple(layers), total=_total(layers), network_us=_network_us(prepared), between=_between(prepared),
        if_pruned=tuple(_if_pruned(layers, SPARSITIES.index(sparsity)) for sparsity in PROMISED), outside=tuple(notes),
        sizes=all_sizes,
        stripped=any(any(each.counts.values()) for each in prepared.passes if isinstance(each, StripReport)),
        any_size=any_size(model, replace(options, shapes=shapes, dims=dims),
                          calibration, all_sizes) if at.assumed else None)


def _prepared(model: reader.Source, shapes: Mapping[str, Sequence[int]], dims: Dims, calibration: Calibration | None,
              options_at: Callable[[Priced], CompileOptions], inputs: Feeds,
              ) -> tuple[Priced, CompileOptions, Prepared]:
    """A model at the sizes of real inputs, or the largest of its usual ones that it takes, where none are given."""
    for share in SHARES:
        at = priced(model, shapes, dims, share, inputs)
        options = options_at(at)
        try:
            return at, options, prepare(model, options, calibration=calibration, graph=at.graph)
        except ShapeError:
            if not at.assumed or share == SHARES[-1]:
                raise
    raise AssertionError(SHARES)


def _is_parted(prepared: Prepared) -> bool:
    """Whether values choose sizes, so that a device runs compiled parts, which samples do not calibrate."""
    return bool(prepared.backend.device) and any(
        static_shape(value) is None for node in prepared.graph.graph for value in node.outputs)


def _check_wanted(wanted: Collection[str], nodes: Iterable[ir.Node]) -> None:
    """Refuse names that no node has, with the layers that are called like it."""
    names = {node_name(node): node for node in nodes}
    if unknown := sorted({*wanted} - {*names} - {"all"}):
        weighted = [name for name, node in names.items() if any(map(_is_weight, node.inputs))]
        near = difflib.get_close_matches(unknown[0], weighted, MOST_NEAR, cutoff=0)
        raise UsageError(f"no layer '{unknown[0]}'; " + (
            f"nearest are {', '.join(map(repr, near))}" if near else "the model has none with weights"))


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and len(value.const_value.shape) > 1


def _layer(node: ir.Node, options: list[Option], refused: Mapping[str, str], prepared: Prepared,
           curves: dict[Geometry, Curve]) -> Layer:
    weight = weight_array(node)
    found = structure.find(weight)
    choice = decide(node, options, prepared)
    CHOICE.set(node, choice)
    stored = likely_smallest(weight, CODECS["int8" if np.issubdtype(weight.dtype, np.integer) else "f32"])
    geometry = geometry_of(node)
    if geometry not in curves:
        curves[geometry] = curve(node, geometry, prepared)
    own = curves[geometry]
    return Layer(
        **vars(found), layer=choice.layer, operator=node.op_type, shape=weight.shape, weights=weight.size,
        nonzeros=int(np.count_nonzero(weight)), structure=str(found),
        candidates=tuple(_candidate(choice, each) for each in best_by_format(choice)),
        smallest=Stored(stored.format.name, stored.nbytes), dense_us=microseconds(choice, dense=True), curve=own,
        break_even=_break_even(own, prepared.job.calibration.machine.error), refused=refused,
        buckets=_buckets(node, prepared))


def _buckets(node: ir.Node, prepared: Prepared) -> tuple[Bucket, ...]:
    """The choice by the number of tokens, where the backend knows."""
    choices = {columns: decide(node, options, prepared)
               for columns, options in prepared.backend.options_by_columns(node, prepared.job).items()}
    return tuple(Bucket(columns, choice.winner.option.name, choice.winner.predicted_s * 1e6,
                        microseconds(choice, dense=True)) for columns, choice in choices.items())


def _network_us(prepared: Prepared) -> float | None:
    """The predicted time of all nodes, of which layers have their choices."""
    if not prepared.backend.divides:
        return None
    return prepared.backend.graph_seconds(prepared.graph.graph, prepared.job) * 1e6


def _between(prepared: Prepared) -> tuple[Between, ...]:
    """The nodes without a choice, by operator."""
    if not prepared.backend.divides:
        return ()
    found: dict[str, list[tuple[str, float]]] = {}
    for node, seconds in prepared.backend.node_seconds(prepared.graph.graph, prepared.job):
        if CHOICE.get(node) is None:
            name = f"{node.op_type} by channel" if node.op_type in CONVOLUTIONS and is_depthwise(node) else node.op_type
            found.setdefault(name, []).append((node_name(node), seconds))
    groups = [Between(name, tuple(each for each, _ in nodes), sum(seconds for _, seconds in nodes) * 1e6)
              for name, nodes in found.items()]
    return tuple(sorted(groups, key=lambda group: -group.predicted_us))


def _candidate(choice: Choice, candidate: Candidate) -> Kernel:
    option = candidate.option
    return Kernel(option.name, option.kernel, option.detail, option.nbytes, candidate.predicted_s * 1e6,
                  choice.machine.bound(option.work), choice.reason(candidate))


def _break_even(curve: Curve, error: float) -> float | None:
    """The sparsity from which on the sparse kernel is chosen, between two points by a straight line; None if never.

    Predictions err: dense kernels are chosen up to `error` times the time of the sparse one.
    """
    gains = [point.dense_us - error * point.sparse_us for point in curve
             if point.dense_us is not None and point.sparse_us is not None]
    if len(gains) < len(curve) or gains[-1] < 0:
        return None
    last_loss = max((i for i, gain in enumerate(gains) if gain < 0), default=None)
    if last_loss is None:
        return 0.0
    low, high = curve[last_loss].sparsity, curve[last_loss + 1].sparsity
    return low + (high - low) * gains[last_loss] / (gains[last_loss] - gains[last_loss + 1])


def _total(layers: Sequence[Layer]) -> Total:
    winners = [each.candidates[0] for each in layers]
    return Total(
        layers=len(layers), weights=sum(each.weights for each in layers),
        nonzeros=sum(each.nonzeros for each in layers), predicted_us=sum(each.predicted_us for each in winners),
        dense_us=sum(each.dense_us or 0.0 for each in layers), bytes=sum(each.bytes for each in winners),
        smallest_bytes=sum(each.smallest.bytes for each in layers))


def _if_pruned(layers: Sequence[Layer], index: int) -> Pruned:
    """What the layers would take together at one of `SPARSITIES`."""
    points = [each.curve[index] for each in layers]
    return Pruned(SPARSITIES[index], sum(point.best_us for point in points))
