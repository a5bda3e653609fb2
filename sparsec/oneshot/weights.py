"""The layers of an ONNX model that can be pruned, and their weights as matrices of products."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsec.formats.nm import columns
from sparsec.oneshot.codes import Codes, codes_of
from sparsec.oneshot.criteria.moments import Grid

PRODUCTS = ("Conv", "Gemm", "MatMul")
UNSUPPORTED = {"ConvTranspose": 1, "RNN": 1, "GRU": 1, "LSTM": 1, "QLinearConv": 3, "QLinearMatMul": 3,
               "ConvInteger": 1, "MatMulInteger": 1}
"""Operators whose weight, the input of this number, stays as it is."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
MOVES = ("Identity", "Transpose")


@dataclass(frozen=True)
class Layer:
    """A node whose product has a constant weight.

    Attributes:
        index: of the node in the graph.
        name: the node's, or its output's where it has none.
        operator, attributes: the node's.
        weight: the name of the constant that holds the weight.
        moves: permutations of its axes that lie between constant and node.
        side: the number of the input that is the weight.
        input: the name of the other operand.
        shape: the weight's as the node reads it.
        codes: what the constant's integers stand for; None where it holds floats.

    """

    index: int
    name: str
    operator: str
    attributes: dict[str, Any]
    weight: str
    moves: tuple[tuple[int, ...], ...]
    side: int
    input: str
    shape: tuple[int, ...]
    codes: Codes | None = None

    @property
    def groups(self) -> int:
        """The groups of a convolution, else 1."""
        return int(self.attributes.get("group", 1)) if self.operator == "Conv" else 1

    @property
    def input_count(self) -> int:
        """The inputs of the product, of one group."""
        if self.operator == "Conv":
            return math.prod(self.shape[1:])
        return self.shape[1 if self._outputs_first() else 0]

    @property
    def output_count(self) -> int:
        """The outputs of all groups."""
        return math.prod(self.shape) // self.input_count

    def matrix(self, stored: np.ndarray) -> np.ndarray:
        """The stored weight, codes or values, as (groups, outputs, inputs of the product) in float32.

        The inputs of a convolution are ordered by place in the kernel, then by channel: the order in which the kernels
        for 2:4 weights group them.
        """
        if self.codes is not None and stored.dtype == self.codes.zero.dtype:
            stored = self.codes.values(stored)
        for move in self.moves:
            stored = stored.transpose(move)
        if self.operator == "Conv":
            stored = columns(stored).reshape(self.groups, stored.shape[0] // self.groups, -1)
        else:
            stored = (stored if self._outputs_first() else stored.T)[np.newaxis]
        return np.ascontiguousarray(stored, np.float32)

    def grids(self, stored_shape: tuple[int, ...]) -> list[Grid | None]:
        """By group the values that weights may have; None for floats, and where steps differ within an output."""
        if self.codes is None:
            return [None] * self.groups
        limits = np.iinfo(self.codes.zero.dtype)
        step, zero = (self.matrix(np.broadcast_to(each.astype(np.float32), stored_shape))
                      for each in (self.codes.scale, self.codes.zero))
        if (step != step[:, :, :1]).any() or (zero != zero[:, :, :1]).any():
            return [None] * self.groups
        return [Grid(s, (limits.min - z) * s, (limits.max - z) * s) for s, z in zip(
            step[:, :, 0], zero[:, :, 0], strict=True)]

    def stored(self, matrix: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """The inverse of `matrix`, in the type of the file."""
        if self.operator == "Conv":
            outputs, inputs, *kernel = self.shape
            weight = np.moveaxis(matrix.reshape(outputs, *kernel, inputs), -1, 1)
        else:
            weight = matrix[0] if self._outputs_first() else matrix[0].T
        for move in reversed(self.moves):
            weight = weight.transpose(np.argsort(move))
        return np.ascontiguousarray(self.codes.nearest(weight) if self.codes is not None else weight.astype(dtype))

    def _outputs_first(self) -> bool:
        if self.operator == "MatMul":
            return self.side == 0
        return bool(self.attributes.get("transB" if self.side else "transA", 0)) is bool(self.side)


@dataclass(frozen=True)
class Left:
    """A layer that is not pruned, and why."""

    layer: str
    reason: str


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors of initializers and Constant nodes, which are those of the model and may be written to."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def layers(model: onnx.ModelProto) -> tuple[list[Layer], list[Left]]:
    """The layers of the main graph that can be pruned, in order, and those with weights that cannot."""
    tensors, makers = constants(model.graph), {name: node for node in model.graph.node for name in node.output}
    computed = _computed(model.graph, tensors)
    found: list[Layer] = []
    left: list[Left] = []
    for index, node in enumerate(model.graph.node):
        name = printable_name(node)
        if node.op_type in UNSUPPORTED or (node.op_type == "Einsum" and any(each in tensors for each in node.input)):
            left.append(Left(name, f"{node.op_type} is not pruned"))
        if node.domain not in ("", "ai.onnx") or node.op_type not in PRODUCTS:
            continue
        for side in (1, 0)[:1 if node.op_type == "Conv" else 2]:
            outcome = _layer(index, node, side, tensors, makers)
            if isinstance(outcome, Layer):
                found.append(outcome)
                break
            if outcome or node.input[side] in computed:
                left.append(Left(name, outcome or f"its weight is computed by {makers[node.input[side]].op_type}"))
    return found, left


def _computed(graph: onnx.GraphProto, tensors: Collection[str]) -> set[str]:
    """The names of what nodes make of constants alone."""
    found = set[str]()
    for node in graph.node:
        if node.input and all(name in tensors or name in found for name in node.input if name):
            found.update(node.output)
    return found


def printable_name(node: onnx.NodeProto) -> str:
    """A node's name, or that of its output."""
    return str(node.name or node.output[0])


def _layer(index: int, node: onnx.NodeProto, side: int, tensors: dict[str, onnx.TensorProto],
           makers: dict[str, onnx.NodeProto]) -> Layer | str:
    """The layer whose weight is this input; otherwise why it is none, empty where the input is no weight at all."""
    moves: list[tuple[int, ...]] = []
    codes: Codes | None = None
    name = node.input[side]
    while name not in tensors:
        maker = makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in tensors:
            known = codes_of(maker, tensors)
            if isinstance(known, str):
                return known
            codes, name = known, maker.input[0]
            continue
        if maker is None or maker.op_type not in (*MOVES, "Cast"):
            return ""
        if maker.op_type == "Transpose":
            perm = next((tuple(attribute.ints) for attribute in maker.attribute if attribute.name == "perm"), None)
            moves.insert(0, perm or ())
        name = maker.input[0]
    tensor = tensors[name]
    if codes is None and tensor.data_type not in FLOATS:
        return f"its weight is of type {onnx.TensorProto.DataType.Name(tensor.data_type)}"
    shape = tuple(tensor.dims)
    whole = tuple(move or tuple(reversed(range(len(shape)))) for move in moves)
    for move in whole:
        shape = tuple(shape[axis] for axis in move)
    if node.op_type != "Conv" and len(shape) != 2:
        return f"its weight has {len(shape)} dimensions; 2 are pruned"
    if not math.prod(shape):
        return "its weight is empty"
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    other = node.input[0 if side else 1]
    return Layer(index, printable_name(node), node.op_type, attributes, name, whole, side, other, shape, codes)


def write(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    """Replace what a tensor holds; its name stays."""
    fresh = numpy_helper.from_array(array, tensor.name)
    if tensor.HasField("doc_string"):
        fresh.doc_string = tensor.doc_string
    tensor.CopyFrom(fresh)
