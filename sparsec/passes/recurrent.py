"""RNN, GRU and LSTM by constants become products, one for the inputs of all steps and one that every step repeats.

Each direction becomes a `sparsec::MatMul` over all steps at once and a `sparsec::Recurrence`, both with sparse kernels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.nodes import node_name, operand, optional
from sparsec.graph.operators.recurrence import EARLY, GATES
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.recurrent import DEFAULTS, activations_of
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.chain import Chain
from sparsec.passes.context import Context, Note, Report


def run(model: ir.Model, context: Context) -> Report:
    """Rewrites every layer it can, in place; none for a target without vectors."""
    counts: Counter[str] = Counter()
    notes = []
    for node in list(model.graph):
        if node.domain or node.op_type not in GATES:
            continue
        reason = context.spared.reason(node) or (
            reason_against(node) if context.target.lanes else "the target has no kernels for it")
        if reason is None:
            _rewrite(node)
            counts[node.op_type] += 1
        else:
            notes.append(Note(node_name(node), f"{node.op_type} stays: {reason}"))
    if counts:
        rewrite.clean(model)
    return Report("recurrent", bool(counts), counts, tuple(notes))


def reason_against(node: ir.Node, *, any_size: bool = False) -> str | None:
    """Why a layer stays as it is; at any size steps and batch may be unknown."""
    attributes = node.attributes
    shapes = [static_shape(value) for value in (node.inputs[1:3] if any_size else node.inputs) if value is not None]
    given = [value for value in node.inputs[1:4] if value is not None]
    reasons = {
        "its weights or bias are not constants": any(constant(value) is None for value in given),
        "its peepholes are not constants": (p := optional(node, 7)) is not None and constant(p) is None,
        "its shapes are not static, or empty": any(shape is None or 0 in shape for shape in shapes),
        "it does not compute in float32": operand(node, 0).dtype != ir.DataType.FLOAT,
        "its batch comes first": bool(attributes.get_int("layout", 0)),
        "its gates are coupled": bool(attributes.get_int("input_forget", 0)),
        f"its activations are {', '.join(sorted(attributes.get_strings('activations', ()) or ()))}": (
            activations_of(node) is None),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _rewrite(node: ir.Node) -> None:
    chain, steps = Chain(node), (static_shape(node.inputs[0]) or ())[0]
    directions = [_direction(chain, number) for number in range((static_shape(node.inputs[1]) or ())[0])]
    used = [(place, output) for place, output in enumerate(node.outputs)
            if output.name and (output.uses() or output.is_graph_output())]
    for place, output in used:
        if place == 0:
            parts = [chain.add("Unsqueeze", chain.slice(each, 0, 0, steps), np.array([1], np.int64))
                     for each in directions]
        else:
            parts = [chain.slice(each, 0, steps + place - 1, steps + place) for each in directions]
        joined = parts[0] if len(parts) == 1 else chain.add("Concat", *parts, axis=1 if place == 0 else 0)
        rewrite.take_over(joined, output)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _direction(chain: Chain, number: int) -> ir.Value:
    """The `sparsec::Recurrence` of a direction on its inputs' share of the gates."""
    d = direction(chain.node, number)
    name = f"{node_name(chain.node)}.{number}"
    shares = chain.add("MatMul", chain.node.inputs[0], d.inputs, d.bias, name=f"{name}.inputs", domain=DOMAIN,
                       side="right")
    return chain.add(
        "Recurrence", shares, d.weight, d.inner, _state(chain, 5, number), _state(chain, 6, number),
        optional(chain.node, 4), d.peepholes, name=f"{name}.steps", domain=DOMAIN, cell=d.cell,
        activations=d.activations, reverse=d.reverse, clip=d.clip)


@dataclass(frozen=True)
class Direction:
    """The constants of a direction.

    Attributes:
        inputs, bias: of the product with the inputs, (gates * hidden, inputs).
        weight, inner: of the product with the state; a bias of zeros is None.
        peepholes: None where there are none.
        cell, activations, reverse, clip: as `sparsec::Recurrence` takes them.

    """

    inputs: np.ndarray
    bias: np.ndarray
    weight: np.ndarray
    inner: np.ndarray | None
    peepholes: np.ndarray | None
    cell: str
    activations: str
    reverse: int
    clip: float


def direction(node: ir.Node, number: int) -> Direction:
    """The constants of a layer's direction, by its number."""
    kind = node.op_type
    cell = EARLY if kind == "GRU" and not node.attributes.get_int("linear_before_reset", 0) else kind
    w, r = (_part(node, place, number) for place in (1, 2))
    assert w is not None
    assert r is not None
    bias = _part(node, 3, number)
    given, fed_back = np.zeros((2, len(r)), np.float32) if bias is None else bias.reshape(2, -1).copy()
    inner = np.zeros_like(fed_back)
    if cell == "GRU":  # the reset gate scales the third gate's
        third = 2 * r.shape[1]
        inner[third:], fed_back[third:] = fed_back[third:], 0
    functions, count = activations_of(node) or (), len(DEFAULTS[kind])
    return Direction(
        w, given + fed_back, r, inner if inner.any() else None, _part(node, 7, number), cell,
        " ".join(map(str, functions[number * count:(number + 1) * count])),
        int(number == 1 or node.attributes.get_string("direction", "forward") == "reverse"),
        node.attributes.get_float("clip", 0.0) or 0.0)


def _part(node: ir.Node, place: int, number: int) -> np.ndarray | None:
    """A direction's part of a constant input, None where it is absent."""
    value = optional(node, place)
    array = None if value is None else constant(value)
    return None if array is None else np.ascontiguousarray(array[number])


def _state(chain: Chain, place: int, number: int) -> ir.Value | np.ndarray | None:
    """A direction's first state or cell, None where that is zero."""
    value = optional(chain.node, place)
    if value is None:
        return None
    array = constant(value)
    if array is None:
        return chain.add("Gather", value, np.array(number, np.int64), axis=0)
    return array[number] if array.any() else None
