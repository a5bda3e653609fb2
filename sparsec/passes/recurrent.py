"""RNN, GRU and LSTM by constants become products, one for the inputs of all steps and one that every step repeats.

Each direction becomes a `sparsec::MatMul` over all steps at once and a `sparsec::Recurrence`, both with sparse kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import add_constant, constant
from sparsec.graph.nodes import operand, optional
from sparsec.graph.operators.recurrence import GATES
from sparsec.graph.operators.schema import DOMAIN
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report

ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
"""The defaults of a direction."""


def run(model: ir.Model, context: Context) -> Report:
    """Rewrites every layer it can, in place; none for a target without vectors."""
    counts: Counter[str] = Counter()
    notes = []
    for node in list(model.graph):
        if node.domain or node.op_type not in GATES:
            continue
        reason = "the target has no kernels for it" if not context.target.lanes else _reason(node)
        if reason is None:
            _rewrite(node)
            counts[node.op_type] += 1
        else:
            notes.append(Note(rewrite.node_name(node), f"{node.op_type} stays: {reason}"))
    if counts:
        rewrite.clean(model)
    return Report("recurrent", bool(counts), counts, tuple(notes))


def _reason(node: ir.Node) -> str | None:
    """Why a layer stays as it is."""
    attributes = node.attributes
    shapes = [static_shape(value) for value in node.inputs if value is not None]
    names = {name.lower() for name in attributes.get_strings("activations", ()) or ()}
    given = [value for value in node.inputs[1:4] if value is not None]
    reasons = {
        "its weights or bias are not constants": any(constant(value) is None for value in given),
        "its peepholes are not constants": (p := optional(node, 7)) is not None and constant(p) is None,
        "its shapes are not static, or empty": any(shape is None or 0 in shape for shape in shapes),
        "it does not compute in float32": operand(node, 0).dtype != ir.DataType.FLOAT,
        "its batch comes first": bool(attributes.get_int("layout", 0)),
        "it clips its gates": "clip" in attributes,
        "its gates are coupled": bool(attributes.get_int("input_forget", 0)),
        "it resets before the product": node.op_type == "GRU" and not attributes.get_int("linear_before_reset", 0),
        f"its activations are {', '.join(sorted(names))}": not names <= {"sigmoid", "tanh", "relu"},
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass(frozen=True)
class _Layer:
    """A node that is being rewritten; what is added goes in front of it."""

    node: ir.Node

    def add(self, op_type: str, inputs: Sequence[ir.Value | None], name: str = "", domain: str = "",
            **attributes: int | str | Sequence[int]) -> ir.Value:
        """The output of a new node."""
        new = ir.node(op_type, inputs, attributes, domain=domain, name=name or None)
        self.node.prepend(new)
        new.outputs[0].dtype = ir.DataType.FLOAT
        return new.outputs[0]

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer."""
        assert self.node.graph is not None
        return add_constant(self.node.graph, f"{rewrite.node_name(self.node)}.{name}", array)


def _rewrite(node: ir.Node) -> None:
    layer, steps = _Layer(node), (static_shape(node.inputs[0]) or ())[0]
    lengths = optional(node, 4)
    ends = None if lengths is None else layer.add("Cast", [lengths], to=ir.DataType.FLOAT)
    directions = [_direction(layer, number, ends) for number in range((static_shape(node.inputs[1]) or ())[0])]
    used = [output for output in node.outputs if output.name and (output.uses() or output.is_graph_output())]
    for place, output in enumerate(node.outputs):
        if output not in used:
            continue
        first, end = (0, steps) if place == 0 else (steps + place - 1, steps + place)
        parts = [_slice(layer, each, first, end) for each in directions]
        if place == 0:
            axis = layer.constant("axis", np.array([1], np.int64))
            parts = [layer.add("Unsqueeze", [part, axis]) for part in parts]
        axis_of_directions = 1 if place == 0 else 0
        joined = parts[0] if len(parts) == 1 else layer.add("Concat", parts, axis=axis_of_directions)
        rewrite.take_over(joined, output)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _slice(layer: _Layer, value: ir.Value, first: int, end: int) -> ir.Value:
    """Steps [first, end) of a recurrence's output."""
    bounds = [layer.constant(name, np.array([number], np.int64))
              for name, number in (("first", first), ("end", end), ("axes", 0))]
    return layer.add("Slice", [value, *bounds])


def _direction(layer: _Layer, number: int, lengths: ir.Value | None) -> ir.Value:
    """The `sparsec::Recurrence` of a direction on its inputs' share of the gates."""
    node, cell = layer.node, layer.node.op_type
    name = f"{rewrite.node_name(node)}.{number}"
    w, r = (_part(node, place, number) for place in (1, 2))
    assert w is not None
    assert r is not None
    bias = _part(node, 3, number)
    given, fed_back = np.zeros((2, len(r)), np.float32) if bias is None else bias.reshape(2, -1).copy()
    inner = np.zeros_like(fed_back)
    if cell == "GRU":  # the reset gate scales the third gate's
        third = 2 * r.shape[1]
        inner[third:], fed_back[third:] = fed_back[third:], 0
    shares = layer.add("MatMul", [node.inputs[0], layer.constant(f"{number}.w", w),
                                  layer.constant(f"{number}.b", given + fed_back)],
                       f"{name}.inputs", DOMAIN, side="right")
    peepholes = _part(node, 7, number) if len(node.inputs) > 7 else None
    names = node.attributes.get_strings("activations") or ACTIVATIONS[cell] * (number + 1)
    count = len(ACTIVATIONS[cell])
    return layer.add(
        "Recurrence",
        [shares, layer.constant(f"{number}.r", r), layer.constant(f"{number}.rb", inner) if inner.any() else None,
         _state(layer, 5, number), _state(layer, 6, number), lengths,
         None if peepholes is None else layer.constant(f"{number}.p", peepholes)],
        f"{name}.steps", DOMAIN, cell=cell,
        activations=" ".join(each.lower() for each in names[number * count:(number + 1) * count]),
        reverse=int(number == 1 or node.attributes.get_string("direction", "forward") == "reverse"))


def _part(node: ir.Node, place: int, number: int) -> np.ndarray | None:
    """A direction's part of a constant input, None where it is absent."""
    value = optional(node, place)
    array = None if value is None else constant(value)
    return None if array is None else np.ascontiguousarray(array[number])


def _state(layer: _Layer, place: int, number: int) -> ir.Value | None:
    """A direction's first state or cell, None where that is zero."""
    value = optional(layer.node, place)
    if value is None:
        return None
    array = constant(value)
    if array is not None:
        return layer.constant(f"{number}.state{place}", array[number]) if array.any() else None
    return layer.add("Gather", [value, layer.constant(f"{number}.number", np.array(number, np.int64))], axis=0)
