"""Liveness of a graph: which elements are constant, and which an output needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.analysis.liveness import (
    attention,
    channels,
    contraction,
    conv,
    dynamic_quantization,
    elementwise,
    embedding,
    movement,
    normalization,
    pooling,
    reductions,
    reshape,
    resize,
    select,
)
from sparsec.analysis.liveness.facts import Known, LargeConstant, Mask, aligned, compact, constant, dims, unknown
from sparsec.analysis.liveness.node import RECURRENT, constant_of, is_constant
from sparsec.analysis.liveness.rule import Rule
from sparsec.graph.large import count_nonzero, is_large
from sparsec.graph.quantized import dequantized

RULES: Mapping[str, Rule] = {
    **elementwise.RULES, **conv.RULES, **pooling.RULES, **contraction.RULES, **reshape.RULES, **movement.RULES,
    **select.RULES, **embedding.RULES, **normalization.RULES,
    **reductions.RULES, **channels.RULES, **resize.RULES, **attention.RULES, **dynamic_quantization.RULES,
}
SEVERAL_OUTPUTS = ("DynamicQuantizeLinear", "Split")
"""Operators whose rules know of outputs behind the first."""
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Gather")


@dataclass(frozen=True)
class Liveness:
    """The facts of every value of a graph.

    Attributes:
        known: what each value is for every input of the model.
        needed: which elements of it change an output when they change.
        opaque: the nodes that the analysis does not follow, with the reason; they keep everything alive.

    """

    known: Mapping[ir.Value, Known]
    needed: Mapping[ir.Value, Mask]
    opaque: Mapping[ir.Node, str]


def weight_index(node: ir.Node) -> int | None:
    """The position of the node's weight: a constant of two or more axes that multiplies the data or is looked up.

    Constant codes that a DequantizeLinear turns into it count as such, too.
    """
    if node.op_type not in WEIGHTED or node.domain:
        return None
    places = {"Gather": (0,), "MatMul": (1, 0), "Gemm": (1, 0)}.get(node.op_type, (1,))
    for place in places:
        value = node.inputs[place]
        if value is not None and (is_constant(value) or dequantized(value)) and len(dims(value)) > 1:
            floating = value.dtype is not None and value.dtype.is_floating_point()
            return place if floating else None
    return None


def analyse(model: ir.Model) -> Liveness:
    """The liveness of every value of the main graph, which must be sorted and have inferred shapes."""
    known, opaque = _forward(model.graph)
    return Liveness(known, needed_elements(model.graph, known, opaque), opaque)


def active_weights(model: ir.Model, liveness: Liveness) -> dict[ir.Value, Mask]:
    """By weight, the elements on a path of non-zero weights from an input to an output.

    The active connections of Vysogorets & Kempe 2023, section 1; biases and normalisation parameters are no weights.
    """
    return {weight: _active(weight, mask, liveness) for weight, mask in _paths(model, liveness).items()}


def active_counts(model: ir.Model, liveness: Liveness) -> dict[ir.Value, int]:
    """By weight, how many elements `active_weights` has; it takes the memory of one weight."""
    paths = _paths(model, liveness)
    return {weight: count_nonzero(weight.const_value) if is_constant(weight) and mask.all()
            else int(np.count_nonzero(_active(weight, mask, liveness))) for weight, mask in paths.items()}


def _paths(model: ir.Model, liveness: Liveness) -> dict[ir.Value, Mask]:
    """By weight, which elements some path from an input to an output could go through."""
    paths = needed_elements(model.graph, liveness.known, liveness.opaque, paths=True)
    return {weight: paths[weight] for node in model.graph if (weight := _weight(node)) is not None}


def _active(weight: ir.Value, path: Mask, liveness: Liveness) -> Mask:
    found = path & liveness.known[weight].nonzero
    return np.broadcast_to(found, [1 if dim is None else dim for dim in dims(weight)])


def _weight(node: ir.Node) -> ir.Value | None:
    place = weight_index(node)
    return None if place is None else node.inputs[place]


def _rule(node: ir.Node) -> Rule | None:
    return RULES.get(node.op_type) if node.domain == "" else None


def reject(node: ir.Node, known: Mapping[ir.Value, Known]) -> str | None:
    """Why the analysis does not follow the node, or None."""
    rule = _rule(node)
    if node.op_type in RECURRENT and not node.domain:
        return "recurrent layers keep all their units"
    if rule is None:
        return f"operator {node.domain + '.' if node.domain else ''}{node.op_type} is unknown"
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if any(value.shape is None for value in values):
        return "a shape could not be inferred"
    if node.op_type not in SEVERAL_OUTPUTS and any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return f"the second output of {node.op_type} is used"
    return rule.reject(node, [None if value is None else known[value] for value in node.inputs])


def _forward(graph: ir.Graph) -> tuple[dict[ir.Value, Known], dict[ir.Node, str]]:
    known = {value: unknown(value) for value in graph.inputs}
    for value in graph.initializers.values():
        known[value] = _initial(value)
    opaque: dict[ir.Node, str] = {}
    for node in graph:
        reason, rule = reject(node, known), _rule(node)
        if reason is not None:
            opaque[node] = reason
        facts = [unknown(value) for value in node.outputs]
        if reason is None and rule is not None:
            computed = rule.forward(node, [None if value is None else known[value] for value in node.inputs])
            facts[:len(computed)] = computed
        known.update(zip(node.outputs, facts, strict=True))
    return known, opaque


def _initial(value: ir.Value) -> Known:
    """What is known of an initializer."""
    tensor = value.const_value
    if tensor is not None and is_large(tensor) and is_constant(value):
        return LargeConstant(tensor)
    data = constant_of(value)
    return unknown(value) if data is None else constant(data)


def captured(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values of the graph that a subgraph of one of its nodes reads."""
    for node in graph.all_nodes():
        if node.graph is not graph:
            yield from (value for value in node.inputs if value is not None and value.graph is graph)


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def needed_elements(graph: ir.Graph, known: Mapping[ir.Value, Known], opaque: Mapping[ir.Node, str], *,
                    paths: bool = False) -> dict[ir.Value, Mask]:
    """Which elements of every value an output needs; with `paths` only those that depend on an input of the model."""
    everything = np.ones((), bool)
    needed: dict[ir.Value, Mask] = {value: np.zeros((1,) * _rank(value), bool) for value in known}

    def mark(value: ir.Value | None, mask: Mask | None) -> None:
        if value is not None and mask is not None:
            needed[value] = needed[value] | aligned(mask, max(_rank(value), mask.ndim))

    for output in (*graph.outputs, *captured(graph)):
        mark(output, everything)
    for node in reversed(graph):
        if node in opaque:
            for value in node.inputs:
                mark(value, everything)
            continue
        outs = [needed[value] for value in node.outputs]
        if paths:
            outs = [compact(out & ~known[value].mask) for out, value in zip(outs, node.outputs, strict=True)]
        if any(out.any() for out in outs):
            masks = RULES[node.op_type].backward(node, outs, _facts(node, known, paths=paths))
            for value, found in zip(node.inputs, masks, strict=False):
                mark(value, found)
    return needed


def _facts(node: ir.Node, known: Mapping[ir.Value, Known], *, paths: bool) -> list[Known | None]:
    """The facts of a node's inputs; on paths, weights are not reached through constants, whatever their value."""
    facts = [None if value is None else known[value] for value in node.inputs]
    place = weight_index(node)
    if paths and place is not None:
        for i in {0, 1} - {place}:
            fact = facts[i]
            if fact is not None:
                facts[i] = Known(fact.mask, np.zeros_like(fact.value))
    return facts
