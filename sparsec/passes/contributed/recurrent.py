"""RNN, GRU and LSTM in forms that no kernel takes, written out in ONNX's operators.

Batches that come first move behind the steps, and a coupled LSTM, whose gate of forgetting is 1 - i, gets the weights
of i with another sign there, which is the same of a sigmoid. What is left, such as float64 and rare activations,
becomes a Scan over the steps. Definitions follow ONNX's Operators.md, and onnxruntime where that says nothing: a clip
bounds what the gates' activations take, and not what that of an LSTM's cell does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.constants import constant
from sparsec.graph.operators.recurrence import CELL, Activation
from sparsec.graph.recurrent import DEFAULTS, activations_of, all_activations
from sparsec.passes.contributed.body import Body

SCAN_SINCE = 9
"""The opset from which on a Scan has no batch of its own."""
ORDERS = ((2, 0, 1, 3), (1, 0, 2), (1, 0, 2))
"""The axes of the outputs where the batch comes first."""
W, R, B, LENGTHS, H, C, P = range(1, 8)
"""The inputs behind the first."""


def wanted(node: ir.Node) -> bool:
    """Whether a layer has a form that is written out."""
    return bool(node.attributes.get_int("layout", 0)) or _is_coupled(node) or _needs_scan(node)


def is_known_to_none(node: ir.Node) -> bool:
    """Whether a layer has a form that onnxruntime does not run."""
    x = node.inputs[0]
    return bool(node.attributes.get_int("layout", 0)) or (x is not None and x.dtype == ir.DataType.DOUBLE)


def recurrent(b: Body) -> None:
    """A layer whose batch comes behind its steps, of gates by themselves, as one node or as Scans."""
    inputs = [b.input(place) for place in range(8)]
    batch_first = bool(b.integer("layout"))
    if batch_first:
        for place in (0, H, C):
            value = inputs[place]
            inputs[place] = None if value is None else b.put("Transpose", value, perm=[1, 0, 2])
    if _is_coupled(b.node) and _has_sigmoids(b.node):
        inputs[W], inputs[R], inputs[B], inputs[P] = (
            _coupled(b, inputs[place], gates) for place, gates in ((W, 4), (R, 4), (B, 8), (P, 3)))
        coupled = False
    else:
        coupled = _is_coupled(b.node)
    outputs = _scans(b, inputs, coupled=coupled) if coupled or _needs_scan(b.node) else _same(b, inputs)
    for place, value in enumerate(outputs):
        b.result(place, b.put("Transpose", value, perm=list(ORDERS[place])) if batch_first else value)


def _is_coupled(node: ir.Node) -> bool:
    return node.op_type == "LSTM" and bool(node.attributes.get_int("input_forget", 0))


def _has_sigmoids(node: ir.Node) -> bool:
    """Whether the gates of all directions are sigmoids."""
    return all(each == Activation("sigmoid") for each in all_activations(node)[::len(DEFAULTS[node.op_type])])


def _needs_scan(node: ir.Node) -> bool:
    """Whether no kernel has the numbers or the activations of a layer."""
    x = node.inputs[0]
    return activations_of(node) is None or (x is not None and x.dtype not in (None, ir.DataType.FLOAT))


def _same(b: Body, inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
    """The layer again."""
    kept = {name: each.value for name, each in b.node.attributes.items() if name not in ("layout", "input_forget")}
    return b.several(b.node.op_type, len(b.node.outputs), *inputs[:7 + (b.node.op_type == "LSTM")][:_count(inputs)],
                     **kept)


def _count(inputs: Sequence[ir.Value | None]) -> int:
    """The inputs up to the last that is there."""
    return max(place for place, value in enumerate(inputs) if value is not None) + 1


def _coupled(b: Body, value: ir.Value | None, gates: int) -> ir.Value | None:
    """Constants of gates i, o, f, c, whose f is that of i with another sign."""
    if value is None:
        return None
    known = constant(value)
    if known is not None:
        blocks = np.split(known, gates, 1)
        blocks[2::4] = [-each for each in blocks[::4]][:len(blocks[2::4])]
        return b.constant(np.concatenate(blocks, 1), known.dtype)
    parts = b.split(value, 1, [b.dim(value, 1) // gates] * gates)
    for first in range(0, gates, 4):
        parts[first + 2] = b.put("Neg", parts[first])
    return b.put("Concat", *parts, axis=1)


def _scans(b: Body, inputs: Sequence[ir.Value | None], *, coupled: bool) -> list[ir.Value]:
    """All directions, one Scan each: all states, the last ones, the last cells."""
    if b.opset < SCAN_SINCE:
        raise b.refused(f"it needs a Scan, which opset {b.opset} does not have in this form: export with a newer one")
    weight = inputs[R]
    assert weight is not None
    found = [_scan(b, inputs, number, coupled=coupled) for number in range(b.dim(weight, 0))]
    parts = zip(*found, strict=True)
    outputs = []
    for axis, each in zip((1, 0, 0), parts, strict=False):
        apart = [b.unsqueeze(value, axis) for value in each]
        outputs.append(apart[0] if len(apart) == 1 else b.put("Concat", *apart, axis=axis))
    return outputs[:len(b.node.outputs)]


def _scan(b: Body, inputs: Sequence[ir.Value | None], number: int, *, coupled: bool) -> tuple[ir.Value, ...]:
    """A direction's states, last state and last cell."""
    x, hidden = inputs[0], b.integer("hidden_size") or b.dim(_given(inputs[R]), 2)
    assert x is not None
    w, r, bias, h, c, p = (None if (value := inputs[place]) is None
                           else b.put("Gather", value, b.constant(number, np.int64), axis=0)
                           for place in (W, R, B, H, C, P))
    given, fed_back = (None, None) if bias is None else b.split(bias, 0, [b.dim(_given(inputs[B]), 1) // 2] * 2)
    shares = b.add(b.put("MatMul", x, b.put("Transpose", _given(w), perm=[1, 0])), given)
    scanned = [shares]
    if inputs[LENGTHS] is not None:
        zero, one = b.constant(0, np.int64), b.constant(1, np.int64)
        steps = b.put("Range", zero, b.length(x, 0), one)
        ends = b.put("Cast", _given(inputs[LENGTHS]), to=ir.DataType.INT64)
        scanned.append(b.put("Less", b.unsqueeze(steps, 1, 2), b.unsqueeze(ends, 0, 2)))
    count = len(DEFAULTS[b.node.op_type])
    cell = _Cell(b, hidden, all_activations(b.node)[number * count:(number + 1) * count],
                 b.put("Transpose", _given(r), perm=[1, 0]), fed_back, p, coupled=coupled)
    states = [value if value is not None else _zeros(b, x, hidden) for value in (h, c)]
    states = states[:2 if b.node.op_type == "LSTM" else 1]
    backwards = int(number == 1 or b.node.attributes.get_string("direction", "forward") == "reverse")
    last = b.several("Scan", len(states) + 1, *states, *scanned, num_scan_inputs=len(scanned),
                     body=cell.body(len(states), len(scanned)),
                     scan_input_directions=[backwards] * len(scanned), scan_output_directions=[backwards])
    return (last[-1], *last[:-1])


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _zeros(b: Body, x: ir.Value, hidden: int) -> ir.Value:
    """The first state of every member."""
    members = b.put("Slice", b.put("Shape", x), b.integers(1), b.integers(2))
    return b.put("Expand", b.number(0), b.put("Concat", members, b.integers(hidden), axis=0))


@dataclass
class _Cell:
    """A step of a direction, as the body of a Scan, that reads the weights from outside."""

    b: Body
    hidden: int
    functions: Sequence[Activation]
    weight: ir.Value
    bias: ir.Value | None
    peepholes: ir.Value | None
    coupled: bool
    nodes: list[ir.Node] = field(default_factory=list)

    def body(self, states: int, scanned: int) -> ir.Graph:
        """The graph: states, the inputs' share and whether a member goes on -> the next states, and what is put out."""
        kinds = [self.b.float] * (states + 1) + [ir.DataType.BOOL] * (scanned - 1)
        names = [f"{self.b.node.name}/body/{place}" for place in range(len(kinds))]
        inputs = [ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape([None, None]))
                  for name, kind in zip(names, kinds, strict=True)]
        before, share = inputs[:states], inputs[states]
        after = list(STEPS[self.b.node.op_type](self, share, *before))
        out = after[0]
        if scanned > 1:
            going = inputs[-1]
            out = self.put("Where", going, after[0], self.b.number(0))
            after = [self.put("Where", going, new, old) for new, old in zip(after, before, strict=True)]
        outputs = [self.put("Identity", value) for value in (*after, out)]
        for value in outputs:
            value.type, value.shape = ir.TensorType(self.b.float), ir.Shape([None, None])
        return ir.Graph(inputs, outputs, nodes=self.nodes, name=f"{self.b.node.name}/body")

    def put(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node of the body."""
        return self.several(op_type, 1, *inputs, **attributes)[0]

    def several(self, op_type: str, outputs: int, *inputs: ir.Value | None,
                **attributes: Any) -> list[ir.Value]:
        """The outputs of a new node of the body."""
        name = f"{self.b.node.name}/body/n{len(self.nodes)}"
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs, name=name)
        for place, value in enumerate(node.outputs):
            value.name = f"{name}.{place}"
        self.nodes.append(node)
        return list(node.outputs)

    def gates(self, value: ir.Value, count: int, axis: int = 1) -> list[ir.Value]:
        """The parts of gates side by side."""
        return self.several("Split", count, value, self.b.integers(*[self.hidden] * count), axis=axis)

    def add(self, value: ir.Value, other: ir.Value | None) -> ir.Value:
        """A sum, if there is something to add."""
        return value if other is None else self.put("Add", value, other)

    def act(self, place: int, x: ir.Value) -> ir.Value:
        """One of the activations, by its place."""
        clip = self.b.real("clip", 0.0)
        if clip and place < CELL:
            x = self.put("Min", self.put("Max", x, self.b.number(-clip)), self.b.number(clip))
        function = self.functions[place]
        if function.name not in FUNCTIONS:
            raise self.b.refused(f"its activation is {function.name}")
        return FUNCTIONS[function.name](self, x, function.alpha, function.beta)

    def scaled(self, x: ir.Value, alpha: float) -> ir.Value:
        """A product with a number."""
        return self.put("Mul", x, self.b.number(alpha))

    def less(self, x: ir.Value) -> ir.Value:
        """1 - x."""
        return self.put("Sub", self.b.number(1), x)


def _rnn(s: _Cell, share: ir.Value, h: ir.Value) -> tuple[ir.Value]:
    return (s.act(0, s.put("Add", share, s.add(s.put("MatMul", h, s.weight), s.bias))),)


def _gru(s: _Cell, share: ir.Value, h: ir.Value) -> tuple[ir.Value]:
    inputs = s.gates(share, 3)
    weights = s.gates(s.weight, 3)
    biases = [None] * 3 if s.bias is None else s.gates(s.bias, 3, axis=0)
    fed = [s.add(s.put("MatMul", h, weights[gate]), biases[gate]) for gate in (0, 1)]
    update, reset = (s.act(0, s.put("Add", inputs[gate], fed[gate])) for gate in (0, 1))
    late = bool(s.b.integer("linear_before_reset"))
    state = h if late else s.put("Mul", reset, h)
    product = s.add(s.put("MatMul", state, weights[2]), biases[2])
    new = s.act(1, s.put("Add", inputs[2], s.put("Mul", reset, product) if late else product))
    return (s.put("Add", s.put("Mul", s.less(update), new), s.put("Mul", update, h)),)


def _lstm(s: _Cell, share: ir.Value, h: ir.Value, c: ir.Value) -> tuple[ir.Value, ir.Value]:
    entering, leaving, kept, new = s.gates(s.put("Add", share, s.add(s.put("MatMul", h, s.weight), s.bias)), 4)
    seen = [None] * 3 if s.peepholes is None else s.gates(s.peepholes, 3, axis=0)

    def gate(value: ir.Value, peephole: ir.Value | None, cell: ir.Value) -> ir.Value:
        return s.act(0, s.add(value, None if peephole is None else s.put("Mul", peephole, cell)))

    entering = gate(entering, seen[0], c)
    kept = s.less(entering) if s.coupled else gate(kept, seen[2], c)
    c = s.put("Add", s.put("Mul", kept, c), s.put("Mul", entering, s.act(1, new)))
    return s.put("Mul", gate(leaving, seen[1], c), s.act(2, c)), c


STEPS: dict[str, Callable[..., tuple[ir.Value, ...]]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
FUNCTIONS: dict[str, Callable[[_Cell, ir.Value, float, float], ir.Value]] = {
    "affine": lambda s, x, alpha, beta: s.put("Add", s.scaled(x, alpha), s.b.number(beta)),
    "elu": lambda s, x, alpha, _b: s.put("Elu", x, alpha=alpha),
    "hard_sigmoid": lambda s, x, alpha, beta: s.put("HardSigmoid", x, alpha=alpha, beta=beta),
    "leaky_relu": lambda s, x, alpha, _b: s.put("LeakyRelu", x, alpha=alpha),
    "relu": lambda s, x, _a, _b: s.put("Relu", x),
    "scaled_tanh": lambda s, x, alpha, beta: s.scaled(s.put("Tanh", s.scaled(x, beta)), alpha),
    "sigmoid": lambda s, x, _a, _b: s.put("Sigmoid", x),
    "softplus": lambda s, x, _a, _b: s.put("Softplus", x),
    "softsign": lambda s, x, _a, _b: s.put("Softsign", x),
    "tanh": lambda s, x, _a, _b: s.put("Tanh", x),
    "thresholded_relu": lambda s, x, alpha, _b: s.put("ThresholdedRelu", x, alpha=alpha),
}
"""The activations of a layer, by their names in small letters."""

WRITERS: dict[str, Callable[[Body], None]] = dict.fromkeys(DEFAULTS, recurrent)
"""By operator of ONNX."""
