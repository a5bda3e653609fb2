"""Conv, MatMul, Gemm and BatchNormalization of float32 by constants become `sparsec::Conv` and `sparsec::MatMul`.

The new operators have their padding spelled out and their matrix as outputs x inputs; Gemm's alpha, beta and
transpositions go into the constants. A node that is left alone is reported with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsec.graph import operators
from sparsec.graph.constants import add_constant, add_derived, constant, constant_shape
from sparsec.graph.nodes import node_name
from sparsec.graph.shapes import static_shape
from sparsec.passes import rewrite
from sparsec.passes.context import Context, Note, Report


def run(model: ir.Model, context: Context) -> Report:
    """Lifts every node it can, in place."""
    counts: Counter[str] = Counter()
    notes = []
    for node in list(model.graph):
        lift = RULES.get(node.op_type) if node.domain == "" else None
        if lift is None:
            continue
        kind = node.op_type
        reason = _no_float32(node) or context.spared.reason(node) or lift(node)
        if reason:
            notes.append(Note(node_name(node), f"{kind} stays: {reason}"))
        else:
            counts[kind] += 1
    rewrite.clean(model)
    return Report("lift", bool(counts), counts, tuple(notes))


def _no_float32(node: ir.Node) -> str | None:
    if node.outputs[0].dtype != ir.DataType.FLOAT:
        return f"computes in {node.outputs[0].dtype}, not float32"
    shapes = [static_shape(value) for value in (*node.inputs, node.outputs[0]) if value is not None]
    if any(shape is None for shape in shapes):
        return "its shapes are not static"
    if any(0 in shape for shape in shapes if shape is not None):
        return "it has a tensor without elements"
    return None


def _become(node: ir.Node, op_type: str, inputs: list[ir.Value | None],
            attributes: Mapping[str, str | int | list[int]]) -> None:
    """Turns the node, in place, into one of sparsec's operators."""
    node.domain, node.op_type, node.version = operators.DOMAIN, op_type, None
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes.clear()
    for attribute in ir.convenience.convert_attributes(attributes):
        node.attributes.add(attribute)


def _conv(node: ir.Node) -> str | None:
    x, w, *rest = node.inputs
    bias = rest[0] if rest else None
    weight, image = constant_shape(w), static_shape(x)
    assert image is not None  # `_no_float32` has checked
    if weight is None or (bias is not None and constant_shape(bias) is None):
        return "its weight or bias is not a constant"
    rank = len(weight) - 2
    if rank not in (1, 2):
        return f"it has {rank} spatial dimensions, not 1 or 2"
    _become(node, "Conv", [x, w] if bias is None else [x, w, bias], spelled_geometry(node, weight, image))
    return None


def spelled_geometry(node: ir.Node, weight: tuple[int, ...], image: tuple[int, ...]) -> dict[str, Any]:
    """Strides, padding, dilations and groups of a convolution or pooling, nothing left to defaults."""
    ones = [1] * (len(weight) - 2)
    strides = list(node.attributes.get_ints("strides", ones))
    dilations = list(node.attributes.get_ints("dilations", ones))
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight[2:], strict=True)]
    return {"strides": strides, "pads": _pads(node, image[2:], strides, reach), "dilations": dilations,
            "group": node.attributes.get_int("group", 1)}


def _pads(node: ir.Node, sizes: tuple[int, ...], strides: list[int], reach: list[int]) -> list[int]:
    """Explicit padding, all begins before all ends; `reach` is the extent of the dilated kernel."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(node.attributes.get_ints("pads", [0] * 2 * len(sizes)))
    if auto == "VALID":
        return [0] * 2 * len(sizes)
    totals = [max((-(-size // stride) - 1) * stride + extent - size, 0)
              for size, stride, extent in zip(sizes, strides, reach, strict=True)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*large, *small] if auto == "SAME_LOWER" else [*small, *large]


def _matmul(node: ir.Node) -> str | None:
    a, b = node.inputs
    (value, x), from_left = ((b, a), False) if constant_shape(b) is not None else ((a, b), True)
    shape = constant_shape(value)
    if shape is None or value is None:
        return "neither operand is a constant"
    rank = len(static_shape(x) or ())
    if len(shape) > 2 and rank >= len(shape) and all(dim == 1 for dim in shape[:-2]):
        shape = shape[-2:]
    if len(shape) not in (1, 2):
        return f"its constant has rank {len(shape)}, it is not one matrix"
    matrix = _Matrix((1, *shape)[-2:], turned=len(shape) == 2 and not from_left)
    _linear(node, x, value, matrix, left=from_left and rank > 1)
    if len(shape) == 1:
        _drop_unit_dimension(node)
    return None


@dataclass(frozen=True)
class _Matrix:
    """How a weight of some shape, without leading dimensions of 1, becomes a matrix (outputs, inputs)."""

    stored: tuple[int, ...]
    turned: bool
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored[::-1] if self.turned else self.stored

    def __call__(self, weight: np.ndarray) -> np.ndarray:
        matrix = weight.reshape(self.stored)
        matrix = matrix.T if self.turned else matrix
        return matrix if self.factor == 1.0 else matrix * np.float32(self.factor)


def _linear(node: ir.Node, x: ir.Value | None, value: ir.Value, matrix: _Matrix, *epilogue: ir.Value | None,
            left: bool) -> None:
    """Turns the node into sparsec::MatMul by an (outputs, inputs) matrix."""
    assert node.graph is not None
    weight = add_derived(node.graph, f"{node_name(node)}.weight", value, matrix, matrix.shape, shared=True)
    _become(node, "MatMul", [x, weight, *epilogue], {"side": "left" if left else "right"})


def _drop_unit_dimension(node: ir.Node) -> None:
    """ONNX multiplies by a vector without a dimension for it; sparsec::MatMul has one output there, reshaped away."""
    assert node.graph is not None
    old = node.outputs[0]
    shape = static_shape(old) or ()
    name = node_name(node)
    target = add_constant(node.graph, f"{name}.shape", np.array(shape, np.int64))
    reshape = ir.node("Reshape", [None, target])
    node.append(reshape)
    rewrite.take_over(reshape.outputs[0], old)
    reshape.replace_input_with(0, old)
    old.name = f"{name}.product"
    old.shape = ir.Shape((*shape[:-1], 1, shape[-1]) if node.attributes.get_string("side") == "left" else (*shape, 1))


def _gemm(node: ir.Node) -> str | None:
    assert node.graph is not None
    a, b, *rest = node.inputs
    trans_a, trans_b = (bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB"))
    alpha = node.attributes.get_float("alpha", 1.0) or 0.0
    if b is not None and (shape := constant_shape(b)) is not None:
        value, x, flip, left = b, a, trans_a, False
        matrix = _Matrix(shape, turned=not trans_b, factor=alpha)
    elif a is not None and (shape := constant_shape(a)) is not None:
        value, x, flip, left = a, b, trans_b, True
        matrix = _Matrix(shape, turned=trans_a, factor=alpha)
    else:
        return "neither operand is a constant"
    addend = _addend(node, rest[0] if rest else None, left=left)
    if isinstance(addend, str):
        return addend
    if flip and x is not None:
        transpose = ir.node("Transpose", [x], {"perm": [1, 0]})
        node.prepend(transpose)
        rows, columns = static_shape(x) or (0, 0)
        x = transpose.outputs[0]
        x.shape, x.dtype = ir.Shape((columns, rows)), ir.DataType.FLOAT
    _linear(node, x, value, matrix, *addend, left=left)
    return None


def _addend(node: ir.Node, c: ir.Value | None, *, left: bool) -> list[ir.Value | None] | str:
    """Gemm's beta * C as the bias or the residual, or why it is neither."""
    assert node.graph is not None
    rows, columns = static_shape(node.outputs[0]) or (0, 0)
    beta = node.attributes.get_float("beta", 1.0)
    if c is None or beta == 0.0:
        return []
    array = constant(c)
    if array is None:
        if beta == 1.0 and static_shape(c) == (rows, columns):
            return [None, c]
        return "its addend is neither a constant nor of the output's shape"
    array = np.broadcast_to(array * np.float32(beta), (1,) * (2 - array.ndim) + array.shape)
    name = f"{node_name(node)}.bias"
    if array.shape[1 if left else 0] == 1:
        outputs = rows if left else columns
        return [add_constant(node.graph, name, np.broadcast_to(array.reshape(-1), (outputs,)))]
    return [None, add_constant(node.graph, name, np.broadcast_to(array, (rows, columns)))]


def _batch_norm(node: ir.Node) -> str | None:
    """A BatchNorm that no weight has absorbed is a depthwise convolution by a kernel of one element."""
    assert node.graph is not None
    found, rank = rewrite.batch_norm(node), len(static_shape(node.inputs[0]) or ())
    if found is None:
        return "its parameters are not constants, or it is training"
    if rank not in (3, 4):
        return f"its input has rank {rank}, not 3 or 4: neither an image nor a sequence"
    scale, offset = (array.astype(np.float32) for array in found)
    name, channels, ones = node_name(node), len(scale), [1] * (rank - 2)
    weight = add_constant(node.graph, f"{name}.weight", scale.reshape(channels, 1, *ones))
    bias = add_constant(node.graph, f"{name}.bias", offset)
    _become(node, "Conv", [node.inputs[0], weight, bias],
            {"strides": ones, "pads": [0, 0] * len(ones), "dilations": ones, "group": channels})
    return None


RULES: dict[str, Callable[[ir.Node], str | None]] = {
    "BatchNormalization": _batch_norm, "Conv": _conv, "Gemm": _gemm, "MatMul": _matmul,
}
"""By operator: turns the node into a sparsec operator, or returns why not."""
