"""Where the float result of an operator ends: at a QuantizeLinear, past Relu, Clip and the addition of a bias."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph.activations import ACTIVATIONS
from sparsec.graph.constants import constant
from sparsec.graph.operators import integers
from sparsec.graph.quantized import dequantized, quantization
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite


@dataclass(frozen=True)
class Result:
    """What an operator on integers computes in place of one on floats.

    Attributes:
        last: the node whose output it gives: the QuantizeLinear, or what comes last before there is none.
        attributes: those of the operator that say what its result is.
        bias: by output, what is added in float32; None where nothing is.

    """

    last: ir.Node
    attributes: dict[str, Any]
    bias: np.ndarray | None = None
    passed: tuple[ir.Node, ...] = field(default=())


def result_of(node: ir.Node, channels: int | None = None) -> Result:
    """Where the result of a node ends; `channels` is the axis of its outputs where a bias may be added."""
    last, bias, passed = node, None, []
    if channels is not None and (found := _bias(node, channels)) is not None:
        last, bias = found
        passed.append(last)
    low, high, stop = -np.inf, np.inf, last
    while (user := rewrite.only_use(stop.outputs[0])) is not None and not user.domain:
        parameters = quantization(user, "QuantizeLinear")
        if parameters is not None:
            scale, zero_point, dtype = parameters
            bounds = [int(integers.quantize(integers.units(each, scale), zero_point, dtype))
                      for each in (low, high)]
            return Result(user, {"y_type": dtype, "y_scale": scale, "y_zero_point": zero_point, "low": bounds[0],
                                 "high": bounds[1]}, bias, tuple(passed))
        activation = ACTIVATIONS[user.op_type](user) if user.op_type in ("Relu", "Clip") else None
        if activation is None:
            break
        name, alpha, beta = activation
        least, most = (0.0, np.inf) if name == "relu" else (alpha, beta)
        low, high = min(max(low, least), most), max(min(high, most), least)
        passed.append(user)
        stop = user
    return Result(last, {"y_type": "float32"}, bias, tuple(passed[:1] if bias is not None else ()))


def _bias(node: ir.Node, axis: int) -> tuple[ir.Node, np.ndarray] | None:
    """The addition of a constant along one axis behind a node."""
    value = node.outputs[0]
    user, shape = rewrite.only_use(value), static_shape(value)
    if user is None or user.op_type != "Add" or user.domain or shape is None:
        return None
    other = user.inputs[1] if user.inputs[0] is value else user.inputs[0]
    codes = dequantized(other)
    array = codes.values() if codes is not None else constant(other)
    if array is None or static_shape(user.outputs[0]) != shape:
        return None
    aligned = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if any(dim != 1 for index, dim in enumerate(aligned.shape) if index != axis % len(shape)):
        return None
    return user, np.broadcast_to(aligned.reshape(-1), (shape[axis],)).astype(np.float32)


def become(node: ir.Node, result: Result, new: ir.Node) -> None:
    """Puts a new node in the place of a node up to where its result ends."""
    graph = node.graph
    assert graph is not None
    result.last.prepend(new)
    rewrite.take_over(new.outputs[0], result.last.outputs[0])
    graph.remove(result.last, safe=True)
    for each in (*result.passed[::-1], node):
        if each is not result.last and each.graph is graph and not each.outputs[0].uses():
            graph.remove(each, safe=True)
