"""What stripping did: sparsity as claimed and as effective, units, FLOPs and bytes, layer by layer and in total."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness.analysis import weight_index
from sparsec.analysis.liveness.facts import dims
from sparsec.analysis.liveness.node import PARTS, RECURRENT, holder, is_constant, joined, weight_data
from sparsec.graph.large import count_nonzero
from sparsec.graph.nodes import node_name
from sparsec.passes.context import Note, Report


@dataclass(frozen=True)
class Size:
    """A layer, or a whole model, at one time.

    Attributes:
        weights: elements of the weight.
        nonzero: of these, not zero.
        units: output channels or features.
        flops: of the products, for one inference: two per multiply-add, zeros included; symbolic dimensions count as 1.
        bytes: of the weight, or of all constants of a model.

    """

    weights: int = 0
    nonzero: int = 0
    units: int = 0
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Layer:
    """A weight (or all of them) before and after.

    Attributes:
        name: the node that uses it first.
        operator: of that node.
        active: non-zero weights on a path from an input to an output, before.
        before: as given.
        after: as stripped; all zero if the layer is gone.

    """

    name: str
    operator: str
    active: int
    before: Size
    after: Size

    @property
    def direct_sparsity(self) -> float:
        """The fraction of weights that are zero (Vysogorets & Kempe 2023, section 3)."""
        return _sparsity(self.before.nonzero, self.before.weights)

    @property
    def effective_sparsity(self) -> float:
        """The fraction of weights that no output depends on through any path."""
        return _sparsity(self.active, self.before.weights)

    @property
    def direct_compression(self) -> float:
        """Weights over non-zero weights; infinite if there are none."""
        return _compression(self.before.nonzero, self.before.weights)

    @property
    def effective_compression(self) -> float:
        """Weights over active weights; infinite if there are none."""
        return _compression(self.active, self.before.weights)


@dataclass(frozen=True)
class Kept:
    """Units of a layer, or constant inputs, that could not go although no output needs them."""

    layer: str
    what: str
    count: int
    reason: str


@dataclass(frozen=True)
class Flow:
    """Where the analysis, the flow from inputs to outputs and groups of 2:4 end; see `StripReport`."""

    unknown: Mapping[str, str]
    collapsed: tuple[str, ...]
    severed: tuple[str, ...]
    regrouped: tuple[str, ...]


@dataclass(frozen=True)
class StripReport(Report):
    """What stripping did to a model.

    Attributes:
        layers: in the order of the graph; a weight that several nodes share counts once.
        total: all layers as one; its FLOPs count the products of activations too, its bytes all constants.
        kept: what could not go.
        unknown: by node, why the analysis did not follow it and kept everything alive around it.
        collapsed: layers whose output is constant although their input is not.
        severed: outputs of the model that no input reaches.
        regrouped: layers whose weight was 2:4 and is no more, because inputs in the midst of its groups went.

    """

    layers: tuple[Layer, ...] = ()
    total: Layer = Layer("total", "", 0, Size(), Size())
    kept: tuple[Kept, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)
    collapsed: tuple[str, ...] = ()
    severed: tuple[str, ...] = ()
    regrouped: tuple[str, ...] = ()


def _sparsity(left: int, weights: int) -> float:
    return 1 - left / weights if weights else 0.0


def _compression(left: int, weights: int) -> float:
    return weights / left if left else math.inf


@dataclass(frozen=True)
class Measure:
    """The sizes of a model's weights, with the name and operator of the first node that uses each, and of all of it."""

    layers: Mapping[ir.Value, tuple[str, str, Size]]
    total: Size


def measure(model: ir.Model) -> Measure:
    """The sizes of a model as it is."""
    layers: dict[ir.Value, tuple[str, str, Size]] = {}
    flops = 0
    for node in model.graph:
        weights = _weights(node)
        flops += sum(_flops_of(node, weight) for weight in weights) if weights else _flops(node)
        for weight in weights:
            if (found := _count(weight)) is not None:
                name, operator, size = layers.get(weight, (_layer_name(node, weight), node.op_type, Size()))
                layers[weight] = name, operator, _size(node, weight, found, size.flops + _flops_of(node, weight))
    sizes = [size for _, _, size in layers.values()]
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    return Measure(layers, Size(sum(s.weights for s in sizes), sum(s.nonzero for s in sizes),
                                sum(s.units for s in sizes), flops, stored))


def _layer_name(node: ir.Node, weight: ir.Value) -> str:
    """What the layer of a weight is called; recurrent ones have two."""
    part = PARTS[list(node.inputs).index(weight)] if node.op_type in RECURRENT and not node.domain else ""
    return f"{node_name(node)}{part}"


def _weights(node: ir.Node) -> list[ir.Value]:
    """What a node multiplies its data with; recurrent layers have a weight for their inputs and one for their state."""
    if node.op_type in RECURRENT and not node.domain:
        return [value for value in node.inputs[1:3] if value is not None and not value.is_graph_input()]
    place = weight_index(node)
    weight = None if place is None else node.inputs[place]
    return [] if weight is None else [weight]


def _count(weight: ir.Value) -> tuple[int, int, int] | None:
    """The elements of a weight, those that are not zero, and its bytes; None where it is no constant."""
    if is_constant(weight) and weight.const_value is not None:
        return math.prod(dim or 0 for dim in dims(weight)), count_nonzero(weight.const_value), weight.const_value.nbytes
    data = weight_data(weight)
    if data is None:
        data = joined(weight)
    if data is None:
        return None
    stored = holder(weight).const_value
    return data.size, int(np.count_nonzero(data)), data.nbytes if stored is None else stored.nbytes


def _size(node: ir.Node, weight: ir.Value, found: tuple[int, int, int], flops: int) -> Size:
    weights, nonzero, nbytes = found
    return Size(weights, nonzero, _units(node, weight), flops, nbytes)


def _units(node: ir.Node, weight: ir.Value) -> int:
    """The output channels or features of a layer; those of a recurrent one belong to the weight of its inputs."""
    if node.op_type in RECURRENT:
        hidden = node.attributes.get_int("hidden_size", 0) or 0
        return (dims(weight)[0] or 1) * hidden if weight is node.inputs[1] else 0
    shape = dims(node.outputs[0]) if node.outputs[0].shape is not None else ()
    return (shape[1 if node.op_type.startswith("Conv") else -1] if shape else 0) or 0


def _flops_of(node: ir.Node, weight: ir.Value) -> int:
    """Of the products with a weight."""
    if node.op_type not in RECURRENT:
        return _flops(node)
    data = node.inputs[0]
    positions = _elements(dims(data)[:2]) if data is not None and data.shape is not None else 1
    return 2 * positions * _elements(dims(weight))


def _flops(node: ir.Node) -> int:
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm") or node.outputs[0].shape is None:
        return 0
    data, weight = (dims(value) if value is not None and value.shape is not None else () for value in node.inputs[:2])
    if node.op_type.startswith("Conv"):
        positions = dims(node.outputs[0]) if node.op_type == "Conv" else data
        return 2 * _elements(positions) * _elements(weight[1:])
    depth = data[0 if node.attributes.get_int("transA", 0) else -1] if data else 1
    return 2 * _elements(dims(node.outputs[0])) * (depth or 1)


def _elements(shape: tuple[int | None, ...]) -> int:
    return math.prod(1 if dim is None else dim for dim in shape)


def compose(before: Measure, after: Measure, active: Mapping[ir.Value, int], counts: Mapping[str, int],
            kept: Sequence[Kept], flow: Flow) -> StripReport:
    """The report, from the measures of a model, its active weights before, and what the steps have said."""
    layers = []
    for weight, (name, operator, size) in before.layers.items():
        left = after.layers[weight][2] if weight in after.layers else Size()
        layers.append(Layer(name, operator, active.get(weight, size.nonzero), size, left))
    total = Layer("total", "", sum(layer.active for layer in layers), before.total, after.total)
    counts = {"units removed": total.before.units - total.after.units, **counts,
              "weights zeroed or removed": total.before.nonzero - total.after.nonzero}
    notes = [Note(each.layer, f"{each.count} x {each.what} kept: {each.reason}") for each in kept]
    notes += map(Note, flow.unknown, flow.unknown.values())
    notes += [Note(name, "its weight was 2:4 and is no more: inputs in the midst of groups went")
              for name in flow.regrouped]
    return StripReport("strip", any(counts.values()), counts, tuple(notes), tuple(layers), total, tuple(kept),
                       flow.unknown, flow.collapsed, flow.severed, flow.regrouped)


def as_dict(report: StripReport) -> dict[str, Any]:
    """The report in JSON's types; an infinite compression is None."""
    fields = {**asdict(report), "layers": [_layer_dict(layer) for layer in report.layers],
              "total": _layer_dict(report.total)}
    plain: dict[str, Any] = json.loads(json.dumps(fields))  # tuples become lists
    return plain


def _layer_dict(layer: Layer) -> dict[str, Any]:
    ratios = {name: getattr(layer, name) for name in ("direct_sparsity", "effective_sparsity", "direct_compression",
                                                      "effective_compression")}
    return {**asdict(layer), **{name: None if math.isinf(value) else value for name, value in ratios.items()}}
