"""What an operator brings back: from the gradient of its output those of its inputs, by the operator's name.

Most operators need no formula. Those that only move elements are run on the numbers of their elements, which says where
each has gone; elementwise ones are run on inputs a little larger and smaller, in float64. The rest is here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from scipy import special

from sparsec.errors import PruningError
from sparsec.graph import ort
from sparsec.oneshot.inputs import padding

Arrays = Sequence[np.ndarray | None]
MOVES = ("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
         "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze")
ELEMENTWISE = ("Abs", "Add", "Celu", "Clip", "Div", "Elu", "Exp", "HardSigmoid", "HardSwish",
               "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu",
               "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
               "Where")
STEP, SMALL = 1e-6, 1e-3
"""How far an elementwise operator is moved, relative to its inputs, and the input that counts at least."""


@dataclass(frozen=True)
class Node:
    """A node with all that it has read and made, and the version of its operators."""

    proto: onnx.NodeProto
    opset: int
    inputs: Arrays
    outputs: Arrays

    @functools.cached_property
    def attributes(self) -> dict[str, Any]:
        """By name."""
        return {each.name: helper.get_attribute_value(each) for each in self.proto.attribute}

    def read(self, place: int) -> np.ndarray:
        """An input that has to be there."""
        value = self.inputs[place]
        assert value is not None  # the operator's schema says so
        return value


Derivative = Callable[[Node, Arrays], list[np.ndarray | None]]
"""From a node and the gradients of its outputs to those of its inputs."""


def back(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """The gradients of a node's inputs, None of those that have none.

    Raises:
        PruningError: the operator has no derivative here.

    """
    kind = node.proto.op_type
    if node.proto.domain in ("", "ai.onnx"):
        if kind in MOVES:
            return _moved(node, gradients)
        if kind in ELEMENTWISE:
            return _elementwise(node, gradients)
        if kind in DERIVATIVES:
            return DERIVATIVES[kind](node, gradients)
    raise PruningError(f"node '{node.proto.name or node.proto.output[0]}': there is no derivative of {kind}; give "
                       "--criterion obs, which needs none")


def _evaluator(node: Node) -> ReferenceEvaluator:
    return _evaluators(node.proto.SerializeToString(), node.opset)


@functools.lru_cache(4096)
def _evaluators(serialized: bytes, opset: int) -> ReferenceEvaluator:
    proto = onnx.NodeProto.FromString(serialized)
    names = dict.fromkeys(name for name in proto.input if name)
    graph = helper.make_graph([proto], "node", [onnx.ValueInfoProto(name=name) for name in names],
                              [onnx.ValueInfoProto(name=name) for name in proto.output if name])
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def _run(node: Node, evaluator: ReferenceEvaluator, inputs: Arrays) -> list[np.ndarray]:
    given = {name: value for name, value in zip(node.proto.input, inputs, strict=True) if name}
    return [np.asarray(each) for each in evaluator.run(None, given)]


def _is_float(value: np.ndarray | None) -> bool:
    return value is not None and value.dtype.kind == "f"


def _moved(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """Every element of an output goes back to where it came from."""
    numbered, start = list[np.ndarray | None](), 1
    for value in node.inputs:
        if value is None or not _is_float(value):
            numbered.append(value)
            continue
        numbered.append(np.arange(start, start + value.size, dtype=np.float64).reshape(value.shape))
        start += value.size
    total = np.zeros(start)
    made = iter(_run(node, _evaluator(node), numbered))
    for name, gradient in zip(node.proto.output, gradients, strict=True):
        places = next(made) if name else None
        if places is not None and gradient is not None:
            total += np.bincount(places.reshape(-1).astype(np.int64), gradient.reshape(-1), start)
    return [total[each.reshape(-1).astype(np.int64)].reshape(each.shape) if each is not None and _is_float(value)
            else None for value, each in zip(node.inputs, numbered, strict=True)]


def _elementwise(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """The difference that a small step of each input makes."""
    evaluator, gradient = _evaluator(node), gradients[0]
    assert gradient is not None  # the only output
    exact = [value.astype(np.float64) if value is not None and _is_float(value) else value for value in node.inputs]
    found = list[np.ndarray | None]()
    for place, value in enumerate(exact):
        if value is None or not _is_float(value):
            found.append(None)
            continue
        step = STEP * np.maximum(np.abs(value), SMALL)
        high, low = (np.asarray(_run(node, evaluator, [*exact[:place], value + way, *exact[place + 1:]])[0], np.float64)
                     for way in (step, -step))
        found.append(_summed(gradient * (high - low) / (2 * np.broadcast_to(step, high.shape) if step.ndim else
                                                        2 * step), value.shape))
    return found


def _summed(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of what was broadcast."""
    extra = gradient.ndim - len(shape)
    axes = (*range(extra), *(axis + extra for axis, size in enumerate(shape) if size == 1))
    return np.asarray(gradient.sum(axis=axes).reshape(shape))


def _only(gradients: Arrays) -> np.ndarray:
    gradient = gradients[0]
    assert gradient is not None  # that of the first output is asked for
    return gradient


def _matmul(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    a, b, gradient = node.read(0), node.read(1), _only(gradients)
    if a.ndim == 1 or b.ndim == 1:
        raise PruningError(f"node '{node.proto.name}': there is no derivative of a MatMul of a vector")
    return [_summed(gradient @ np.swapaxes(b, -1, -2), a.shape), _summed(np.swapaxes(a, -1, -2) @ gradient, b.shape)]


def _gemm(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    moved, gradient = [node.attributes.get(name, 0) for name in ("transA", "transB")], _only(gradients)
    a, b = (node.read(place).T if moved[place] else node.read(place) for place in (0, 1))
    alpha = node.attributes.get("alpha", 1.0)
    found = [alpha * gradient @ b.T, alpha * a.T @ gradient]
    third = node.inputs[2] if len(node.inputs) > 2 else None
    return [*(each.T if way else each for each, way in zip(found, moved, strict=True)),
            *([] if len(node.inputs) < 3 else
              [None if third is None else _summed(node.attributes.get("beta", 1.0) * gradient, third.shape)])]


def _conv(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """That of the image alone: weights get theirs from what they multiply."""
    x, weight = node.read(0), node.read(1)
    return [_spread(x, weight, _only(gradients), node.attributes, weight.shape[2:]), *[None] * (len(node.inputs) - 1)]


def _spread(x: np.ndarray, weight: np.ndarray, gradient: np.ndarray, attributes: dict[str, Any],
            kernel: Sequence[int]) -> np.ndarray:
    """The gradient of a convolution's image: the transposed convolution of that of its outputs."""
    axes = len(kernel)
    strides, dilations = (list(attributes.get(name) or [1] * axes) for name in ("strides", "dilations"))
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    sides = padding(attributes, x.shape[2:], extents, strides)
    rest = [size + sum(side) - ((out - 1) * stride + extent) for size, side, out, stride, extent in zip(
        x.shape[2:], sides, gradient.shape[2:], strides, extents, strict=True)]
    session = _transposed(tuple(strides), tuple(dilations), attributes.get("group", 1))
    whole, = session.run(None, {"g": gradient.astype(np.float32), "w": weight.astype(np.float32)})
    whole = np.pad(whole, [(0, 0), (0, 0), *((0, max(extra, 0)) for extra in rest)])
    return np.asarray(whole[(slice(None), slice(None), *(slice(before, before + size) for (before, _), size in zip(
        sides, x.shape[2:], strict=True)))])


@functools.cache
def _transposed(strides: tuple[int, ...], dilations: tuple[int, ...], groups: int) -> Any:
    shape = [None] * (len(strides) + 2)
    node = helper.make_node("ConvTranspose", ["g", "w"], ["y"], strides=strides, dilations=dilations, group=groups)
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("g", "w", "y")]
    return ort.session(helper.make_model(helper.make_graph([node], "back", values[:2], values[2:]), ir_version=8,
                                         opset_imports=[helper.make_opsetid("", 13)]))


def _max_pool(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """To the largest of every window."""
    x, gradient = node.read(0), _only(gradients)
    proto = helper.make_node("MaxPool", ["x"], ["y", "i"], **node.attributes)
    values = [helper.make_tensor_value_info(name, kind, [None] * x.ndim) for name, kind in (
        ("x", onnx.TensorProto.FLOAT), ("y", onnx.TensorProto.FLOAT), ("i", onnx.TensorProto.INT64))]
    session = ort.session(helper.make_model(helper.make_graph([proto], "pool", values[:1], values[1:]), ir_version=8,
                                            opset_imports=[helper.make_opsetid("", max(node.opset, 12))]))
    places = session.run(["i"], {"x": x.astype(np.float32)})[0]
    return [np.bincount(places.reshape(-1), gradient.reshape(-1), x.size).reshape(x.shape)]


def _average_pool(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    x, gradient, kernel = node.read(0), _only(gradients), node.attributes["kernel_shape"]
    if node.attributes.get("ceil_mode") or not (node.attributes.get("count_include_pad") or not any(
            node.attributes.get("pads") or [0])) or node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise PruningError(f"node '{node.proto.name or node.proto.output[0]}': there is no derivative of an "
                           "AveragePool whose windows differ; give --criterion obs, which needs none")
    ones = np.full((x.shape[1], 1, *kernel), 1 / math.prod(kernel), np.float32)
    return [_spread(x, ones, gradient, node.attributes | {"group": x.shape[1]}, kernel)]


def _mean(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """Of ReduceMean, ReduceSum and GlobalAveragePool."""
    x, gradient = node.read(0), _only(gradients)
    if node.proto.op_type == "GlobalAveragePool":
        axes: Sequence[int] = range(2, x.ndim)
    else:
        given = node.inputs[1] if len(node.inputs) > 1 else node.attributes.get("axes")
        axes = [int(axis) % x.ndim for axis in given] if given is not None and len(given) else range(x.ndim)
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    count = 1 if node.proto.op_type == "ReduceSum" else math.prod(x.shape[axis] for axis in axes)
    return [np.broadcast_to(gradient.reshape(shape) / count, x.shape), *[None] * (len(node.inputs) - 1)]


def _softmax(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """Of Softmax and LogSoftmax; before opset 13 over all axes from the first one on."""
    made, gradient = node.outputs[0], _only(gradients)
    assert made is not None  # the gradient is its
    last = node.opset >= 13
    axis = node.attributes.get("axis", -1 if last else 1) % made.ndim
    axes = axis if last else tuple(range(axis, made.ndim))
    if node.proto.op_type == "LogSoftmax":
        return [gradient - np.exp(made) * gradient.sum(axis=axes, keepdims=True)]
    return [made * (gradient - (gradient * made).sum(axis=axes, keepdims=True))]


def _batch_norm(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    scale, variance, epsilon = node.read(1), node.read(4), node.attributes.get("epsilon", 1e-5)
    gradient = _only(gradients)
    factor = (scale / np.sqrt(variance + epsilon)).reshape(-1, *[1] * (gradient.ndim - 2))
    return [gradient * factor, None, None, None, None]


def _layer_norm(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    x, scale, gradient = node.read(0).astype(np.float64), node.read(1), _only(gradients)
    axes = tuple(range(node.attributes.get("axis", -1) % x.ndim, x.ndim))
    rest = x - x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.square(rest).mean(axis=axes, keepdims=True) + node.attributes.get("epsilon", 1e-5))
    normal, inner = rest / deviation, gradient * scale
    along = (inner * normal).mean(axis=axes, keepdims=True)
    return [(inner - inner.mean(axis=axes, keepdims=True) - normal * along) / deviation,
            *[None] * (len(node.inputs) - 1)]


def _quantized(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """Of QuantizeLinear and DequantizeLinear: straight through, as if nothing were rounded."""
    scale, x, gradient = node.read(1).astype(np.float64), node.read(0), _only(gradients)
    if scale.ndim == 1 and scale.size > 1:
        axis = node.attributes.get("axis", 1) % x.ndim
        scale = scale.reshape([-1 if place == axis else 1 for place in range(x.ndim)])
    factor = scale if node.proto.op_type == "DequantizeLinear" else 1 / scale
    return [gradient * factor, *[None] * (len(node.inputs) - 1)]


def _erf(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    return [_only(gradients) * 2 / math.sqrt(math.pi) * np.exp(-np.square(node.read(0).astype(np.float64)))]


def _gelu(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    x, gradient = node.read(0).astype(np.float64), _only(gradients)
    if node.attributes.get("approximate", b"none") != b"none":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        bend = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2) * (1 - np.tanh(inner) ** 2)
        return [gradient * 0.5 * (1 + np.tanh(inner) + x * bend)]
    return [gradient * (0.5 * (1 + special.erf(x / math.sqrt(2))) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))]


def _same(node: Node, gradients: Arrays) -> list[np.ndarray | None]:
    """Of Cast, and of Dropout, which leaves all as it is where nothing is trained."""
    return [gradients[0], *[None] * (len(node.inputs) - 1)]


DERIVATIVES: dict[str, Derivative] = {
    "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Cast": _same, "Conv": _conv,
    "DequantizeLinear": _quantized, "Dropout": _same, "Erf": _erf, "Gelu": _gelu, "Gemm": _gemm,
    "GlobalAveragePool": _mean, "LayerNormalization": _layer_norm, "LogSoftmax": _softmax, "MatMul": _matmul,
    "MaxPool": _max_pool, "QuantizeLinear": _quantized, "ReduceMean": _mean, "ReduceSum": _mean, "Softmax": _softmax}
