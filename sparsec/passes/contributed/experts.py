"""Mixture of experts as one operator: every expert on every token, weighted by what the router gives it."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsec.passes.contributed.body import Body


def mixture(b: Body) -> None:
    """MoE: softmax of the router, its k largest, and for each expert fc2(activation(fc1(x)) [* fc3(x)])."""
    x, gates = b.needed(0), b.needed(1)
    if b.integer("use_sparse_mixer"):
        raise b.refused("it mixes by the sparse mixer")
    experts = b.dim(b.needed(2), 0)
    shares = _shares(b, gates)
    rows = b.reshape(x, -1, b.dim(x, -1))
    parts = b.split(shares, -1, [1] * experts)
    weights = [None if b.input(index) is None else b.split(b.needed(index), 0, [1] * experts) for index in range(2, 8)]
    total: ir.Value | None = None
    for expert, share in enumerate(parts):
        own = [None if each is None else b.put("Squeeze", each[expert], b.integers(0)) for each in weights]
        y = b.put("Mul", _expert(b, rows, own), share)
        total = y if total is None else b.put("Add", total, y)
    assert total is not None
    b.result(0, total if b.rank(x) == 2 else b.put("Reshape", total, b.put("Shape", x)))


def _shares(b: Body, gates: ir.Value) -> ir.Value:
    """What every expert counts for a token (tokens, experts): 0 but for the k largest."""
    values, index = b.several("TopK", 2, b.put("Softmax", gates, axis=-1), b.integers(b.integer("k", 1)), axis=-1)
    if b.integer("normalize_routing_weights"):
        values = b.put("Div", values, b.put("ReduceSum", values, b.integers(-1), keepdims=1))
    nothing = b.put("Mul", gates, b.number(0))
    return b.put("ScatterElements", nothing, index, values, axis=-1)


def _expert(b: Body, x: ir.Value, own: list[ir.Value | None]) -> ir.Value:
    """One expert's network on all tokens; weights are (outputs, inputs)."""
    name = b.node.attributes.get_string("activation_type", "relu") or ""
    if name not in ACTIVATIONS:
        raise b.refused(f"its activation is '{name}'")
    h = ACTIVATIONS[name](b, _linear(b, x, own[0], own[1]))
    if own[4] is not None:
        h = b.put("Mul", h, _linear(b, x, own[4], own[5]))
    return _linear(b, h, own[2], own[3])


def _linear(b: Body, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None) -> ir.Value:
    if weight is None:
        raise b.refused("a weight of it is absent")
    return b.add(b.put("MatMul", x, b.put("Transpose", weight, perm=[1, 0])), bias)


def _swiglu(b: Body, x: ir.Value) -> ir.Value:
    """Gate * sigmoid(alpha * gate) * (linear + beta), clipped: both side by side in pairs, or in halves."""
    fusion, limit = b.integer("swiglu_fusion"), b.real("swiglu_limit", float("inf"))
    if fusion == 1:
        pairs = b.reshape(x, 0, -1, 2)
        gate, linear = (b.put("Squeeze", part, b.integers(2)) for part in b.split(pairs, 2, [1, 1]))
    elif fusion == 2:
        gate, linear = b.split(x, -1, [b.dim(x, -1) // 2] * 2)
    else:
        raise b.refused("its gate has a weight of its own")
    if limit != float("inf"):
        gate = b.put("Min", gate, b.number(limit))
        linear = b.put("Clip", linear, b.number(-limit), b.number(limit))
    gate = b.put("Mul", gate, b.put("Sigmoid", b.put("Mul", gate, b.number(b.real("activation_alpha", 1.0)))))
    return b.put("Mul", gate, b.put("Add", linear, b.number(b.real("activation_beta", 0.0))))


ACTIVATIONS: dict[str, Callable[[Body, ir.Value], ir.Value]] = {
    "relu": lambda b, x: b.put("Relu", x),
    "gelu": lambda b, x: b.gelu(x),
    "silu": lambda b, x: b.put("Mul", x, b.put("Sigmoid", x)),
    "identity": lambda _b, x: x,
    "swiglu": _swiglu,
}

WRITERS: dict[str, Callable[[Body], None]] = {"MoE": mixture}
"""By operator of com.microsoft."""
