"""sparsec's operators on quantised tensors written out in ONNX's own: exact, and slow beside kernels on integers.

Codes less their zero points are small integers, whose products and sums floating point holds exactly up to a bound:
float32 where a layer's weights keep all of its sums below 2^24, float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, DTypeLike

from sparsec.backends.relax.context import LoweringContext
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.constants import constant_value
from sparsec.graph.definition import Definition
from sparsec.graph.nodes import optional
from sparsec.graph.operators import integers, products
from sparsec.graph.operators.lookup import ENTRIES
from sparsec.graph.shapes import static_shape

OPSET = 20
EXACT = float(1 << 24)
"""The integers that float32 holds, from zero on."""
LARGEST = 255.0
"""The largest difference of two codes."""

Attributes = dict[str, Any]


class Body(Definition):
    """Lowers ONNX's operators one by one."""

    def __init__(self, context: LoweringContext, node: ir.Node) -> None:
        super().__init__(node, f"{node.outputs[0].name}/lowered")  # passes name what they write after nodes, too
        self._context = context

    def _place(self, node: ir.Node) -> None:
        node.version = OPSET
        self._context.lower_node(self._context, node)

    def constant(self, array: ArrayLike, dtype: DTypeLike = np.float32) -> ir.Value:
        """A constant of no graph."""
        self._count += 1
        return constant_value(f"{self._name}/{self._count - 1}.constant", np.asarray(array, dtype))

    def cast(self, value: ir.Value, dtype: str) -> ir.Value:
        """The value in another element type."""
        return self.put("Cast", value, to=int(ir.DataType.from_numpy(np.dtype(dtype))))

    def centred(self, codes: ir.Value | None, zero_point: int, dtype: str = "float32") -> ir.Value:
        """Codes less their zero point."""
        assert codes is not None
        return self.put("Sub", self.cast(codes, dtype), self.constant(zero_point, dtype))

    def scaled(self, value: ir.Value, factor: ArrayLike) -> ir.Value:
        """A float32 value times constants."""
        return self.put("Mul", value, self.constant(factor))

    def quantize(self, value: ir.Value, attributes: Attributes, letter: str = "y") -> ir.Value:
        """`graph.operators.integers.quantize` for Y, or for the product before the residual (letter p)."""
        prefix = "" if letter == "y" else f"{letter}_"
        y_type = attributes[f"{letter}_type"]
        low, high = integers.limits(y_type, attributes[f"{prefix}low"], attributes[f"{prefix}high"])
        moved = self.put("Add", self.put("Round", value), self.constant(attributes[f"{letter}_zero_point"]))
        return self.cast(self.put("Clip", moved, self.constant(low), self.constant(high)), y_type)


def lower(context: LoweringContext, node: ir.Node) -> None:
    """Bind the output of an operator on quantised tensors.

    Raises:
        UnsupportedOperatorError: it is none of them, or a part of it cannot be lowered.

    """
    write = WRITERS.get(node.op_type)
    if write is None:
        raise UnsupportedOperatorError("this version has no lowering for it")
    result = write(Body(context, node), node, _attributes(node))
    output = node.outputs[0]
    output.type, output.shape = output.type or result.type, output.shape or result.shape
    context.bind(output, context.tensor(result))


def _attributes(node: ir.Node) -> Attributes:
    """All attributes of the operator, defaults filled in."""
    from sparsec.graph.operators import SCHEMAS

    defaults = {name: ir.serde.deserialize_attribute(attribute.default_value).value
                for name, attribute in SCHEMAS[node.op_type].attributes.items() if attribute.default_value.name}
    return {**defaults, **{name: attribute.value for name, attribute in node.attributes.items()}}


def _vector(node: ir.Node, index: int) -> np.ndarray | None:
    value = optional(node, index)
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _weight(node: ir.Node) -> np.ndarray:
    """The constant weight less its zero points, in float64."""
    weight, zero = _vector(node, 1), _vector(node, products.ZERO_POINT)
    if weight is None:
        raise UnsupportedOperatorError("its weight is not a constant")
    centred = weight.astype(np.float64)
    return centred if zero is None else centred - zero.reshape(-1, *[1] * (weight.ndim - 1))


def _exact(weight: np.ndarray) -> str:
    """The element type that holds every partial sum of the weight's products exactly."""
    sums = np.abs(weight).reshape(len(weight), -1).sum(axis=1)
    return "float32" if LARGEST * sums.max(initial=0.0) < EXACT else "float64"


def _finish(body: Body, node: ir.Node, sums: ir.Value, column: Callable[[np.ndarray], np.ndarray],
            a: Attributes) -> ir.Value:
    """`graph.operators.products.finish`; `column` shapes a number for every output so that it broadcasts."""
    bias, addend = _vector(node, products.BIAS), _vector(node, products.FLOAT_BIAS)
    scales = _vector(node, products.SCALE)
    residual = optional(node, products.RESIDUAL)
    assert scales is not None
    sums = body.cast(sums, "int32")
    if bias is not None:
        sums = body.put("Add", sums, body.constant(column(bias), "int32"))
    acc = body.cast(sums, "float32")
    dynamic = optional(node, products.X_SCALE)
    scale = column(np.float32(a["x_scale"]) * scales)
    if a["y_type"] == "float32":
        y = body.put("Mul", acc, body.put("Mul", dynamic, body.constant(column(scales)))) if dynamic is not None else (
            body.scaled(acc, scale))
        y = y if addend is None else body.put("Add", y, body.constant(column(addend)))
        y = y if residual is None else body.put("Add", y, residual)
        return _activate(body, y, a)
    if residual is None:
        return body.quantize(body.scaled(acc, integers.units(scale, a["y_scale"])), a)
    own = body.quantize(body.scaled(acc, integers.units(scale, a["p_scale"])), a, "p")
    total = body.put("Add", _in_units(body, own, a, "p"), _in_units(body, residual, a, "r"))
    return body.quantize(total, a)


def _in_units(body: Body, codes: ir.Value | None, a: Attributes, letter: str) -> ir.Value:
    """What codes stand for, in units of the output's scale."""
    return body.scaled(body.centred(codes, a[f"{letter}_zero_point"]),
                       integers.units(a[f"{letter}_scale"], a["y_scale"]))


def _activate(body: Body, y: ir.Value, a: Attributes) -> ir.Value:
    """The epilogue's activation."""
    if a["activation"] == "clip":
        return body.put("Clip", y, body.constant(a["alpha"]), body.constant(a["beta"]))
    if a["activation"] not in ACTIVATIONS:
        raise UnsupportedOperatorError(f"no lowering for the activation '{a['activation']}'")
    return ACTIVATIONS[a["activation"]](body, y, a)


ACTIVATIONS: dict[str, Callable[[Body, ir.Value, Attributes], ir.Value]] = {
    "none": lambda _body, y, _a: y,
    "relu": lambda body, y, _a: body.put("Relu", y),
    "leaky_relu": lambda body, y, a: body.put("LeakyRelu", y, alpha=a["alpha"]),
    "hard_sigmoid": lambda body, y, a: body.put("HardSigmoid", y, alpha=a["alpha"], beta=a["beta"]),
    "hard_swish": lambda body, y, _a: body.put("HardSwish", y),
    "sigmoid": lambda body, y, _a: body.put("Sigmoid", y),
    "silu": lambda body, y, _a: body.put("Mul", y, body.put("Sigmoid", y)),
    "tanh": lambda body, y, _a: body.put("Tanh", y),
    "gelu_erf": lambda body, y, _a: body.put("Gelu", y),
    "gelu_tanh": lambda body, y, _a: body.put("Gelu", y, approximate="tanh"),
}


def _centred_input(body: Body, node: ir.Node, a: Attributes, dtype: str) -> ir.Value:
    """X less its zero point, be that known now or found at run time."""
    codes, dynamic = node.inputs[0], optional(node, products.X_ZERO_POINT)
    if dynamic is None:
        return body.centred(codes, a["x_zero_point"] if optional(node, products.X_SCALE) is None else 0, dtype)
    assert codes is not None
    return body.put("Sub", body.cast(codes, dtype), body.cast(dynamic, dtype))


def _conv(body: Body, node: ir.Node, a: Attributes) -> ir.Value:
    weight = _weight(node)
    dtype, rank = _exact(weight), weight.ndim - 2
    geometry = {name: list(a[name]) for name in ("strides", "pads", "dilations") if a.get(name) is not None}
    sums = body.put("Conv", _centred_input(body, node, a, dtype), body.constant(weight, dtype), group=a["group"],
                **geometry)
    return _finish(body, node, sums, lambda vector: vector.reshape(1, -1, *[1] * rank), a)


def _matmul(body: Body, node: ir.Node, a: Attributes) -> ir.Value:
    weight = _weight(node)
    dtype = _exact(weight)
    x = _centred_input(body, node, a, dtype)
    return _finish(body, node, body.put("MatMul", x, body.constant(weight.T, dtype)), lambda vector: vector, a)


def _batch_matmul(body: Body, node: ir.Node, a: Attributes) -> ir.Value:
    depth = (static_shape(node.inputs[0]) or (0,))[-1]
    dtype = "float32" if depth * LARGEST * LARGEST < EXACT else "float64"
    left, right = (body.centred(value, a[f"{letter}_zero_point"], dtype)
                   for value, letter in zip(node.inputs, "ab", strict=True))
    acc = body.cast(body.put("MatMul", left, right), "float32")
    scale = np.float32(a["a_scale"]) * np.float32(a["b_scale"])
    if a["y_type"] == "float32":
        return body.scaled(acc, scale)
    return body.quantize(body.scaled(acc, integers.units(scale, a["y_scale"])), a)


def _attention(body: Body, node: ir.Node, a: Attributes) -> ir.Value:
    heads, (batch, tokens, features) = a["heads"], static_shape(node.inputs[0]) or (0, 0, 0)

    def split(value: ir.Value | None, perm: list[int]) -> ir.Value:
        four = body.constant([batch, -1, heads, features // heads], "int64")
        return body.put("Transpose", body.put("Reshape", value, four), perm=perm)

    def quantized(value: ir.Value, letter: str) -> ir.Value:
        bounds = {"low": a["low"], "high": a["high"]} if letter == "y" else {"low": -128, "high": 255}
        return body.quantize(value, {**bounds, **{f"y_{name}": a[f"{letter}_{name}"]
                                                  for name in ("type", "scale", "zero_point")}})

    def product(left: tuple[ir.Value, str], right: tuple[ir.Value, str], letter: str, depth: int) -> ir.Value:
        dtype = "float32" if depth * LARGEST * LARGEST < EXACT else "float64"
        factors = [body.centred(value, a[f"{of}_zero_point"], dtype) for value, of in (left, right)]
        scale = np.float32(a[f"{left[1]}_scale"]) * np.float32(a[f"{right[1]}_scale"])
        acc = body.cast(body.put("MatMul", *factors), "float32")
        return quantized(body.scaled(acc, integers.units(scale, a[f"{letter}_scale"])), letter)

    q, k, v = (split(value, perm) for value, perm in zip(node.inputs, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
                                                         strict=False))
    scores, mask = product((q, "q"), (k, "k"), "s", features // heads), optional(node, 3)
    if mask is not None:
        terms = [body.scaled(body.centred(value, a[f"{letter}_zero_point"]),
                             integers.units(a[f"{letter}_scale"], a["t_scale"]))
                 for value, letter in ((scores, "s"), (mask, "m"))]
        scores = quantized(body.put("Add", *terms), "t")
    weights = body.put("Softmax", body.scaled(body.centred(scores, a["t_zero_point"]), a["t_scale"]), axis=-1)
    codes = quantized(body.put("Div", weights, body.constant(a["p_scale"])), "p")
    mixed = body.put("Transpose", product((codes, "p"), (v, "v"), "y", (static_shape(node.inputs[1]) or (0, 0))[1]),
                 perm=[0, 2, 1, 3])
    return body.put("Reshape", mixed, body.constant([batch, tokens, features], "int64"))


def _binary(body: Body, node: ir.Node, a: Attributes) -> ir.Value:
    left, right = node.inputs
    if a["function"] == "mul":
        pair = body.put("Mul", body.centred(left, a["a_zero_point"]), body.centred(right, a["b_zero_point"]))
        scale = np.float32(a["a_scale"]) * np.float32(a["b_scale"])
        return body.quantize(body.scaled(pair, integers.units(scale, a["y_scale"])), a)
    operator = {"add": "Add", "sub": "Sub"}[a["function"]]
    return body.quantize(body.put(operator, _in_units(body, left, a, "a"), _in_units(body, right, a, "b")), a)


def _average_pool(body: Body, node: ir.Node, a: Attributes) -> ir.Value:
    channels, *size = (static_shape(node.inputs[0]) or ())[1:]
    kernel = list(a["kernel_shape"])
    geometry = {name: list(a[name]) for name in ("strides", "pads") if a.get(name) is not None}
    ones = np.ones((channels, 1, *kernel))
    dtype = _exact(ones)
    acc = body.cast(body.put("Conv", body.centred(node.inputs[0], a["x_zero_point"], dtype), body.constant(ones, dtype),
                         group=channels, **geometry), "float32")
    inside = body.constant(np.ones((1, 1, *size)))
    count: Any = np.float32(np.prod(kernel))
    if not a["count_include_pad"] and any(geometry.get("pads", ())):
        counted = body.put("Conv", inside, body.constant(np.ones((1, 1, *kernel))), **geometry)
        share = body.put("Div", body.constant(a["x_scale"]), counted if a["y_type"] == "float32" else
                     body.scaled(counted, a["y_scale"]))
        y = body.put("Mul", acc, share)
    else:
        unit = np.float32(1) if a["y_type"] == "float32" else np.float32(a["y_scale"])
        y = body.scaled(acc, np.float32(a["x_scale"]) / (count * unit))
    return y if a["y_type"] == "float32" else body.quantize(y, a)


def _lookup(body: Body, node: ir.Node, _a: Attributes) -> ir.Value:
    codes = node.inputs[0]
    assert codes is not None
    index = body.cast(codes, "int32")
    if codes.dtype == ir.DataType.INT8:
        index = body.put("Add", index, body.constant(ENTRIES // 2, "int32"))
    return body.put("Gather", node.inputs[1], index)


def _fake_quantize(body: Body, node: ir.Node, _attributes: Attributes) -> ir.Value:
    codes, scale, zero = body.several("DynamicQuantizeLinear", 3, node.inputs[0])
    return body.put("DequantizeLinear", codes, scale, zero)


WRITERS: dict[str, Callable[[Body, ir.Node, Attributes], ir.Value]] = {
    "FakeQuantize": _fake_quantize, "Lookup": _lookup, "QAttention": _attention, "QAveragePool": _average_pool,
    "QBatchMatMul": _batch_matmul, "QBinary": _binary, "QConv": _conv, "QMatMul": _matmul,
}
