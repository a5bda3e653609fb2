"""A graph that onnxruntime hands to an execution provider, as ONNX.

It is read through onnxruntime's C interface, whose functions later versions only append to: a function's place in the
table never changes (`native/sources/src/onnxruntime/abi.hpp`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

Pointer = ctypes.c_void_p
_PLACES = {
    "GetErrorMessage": 2, "CastTypeInfoToTensorInfo": 55, "GetOnnxTypeFromTypeInfo": 56, "GetTensorElementType": 60,
    "GetDimensionsCount": 61, "GetDimensions": 62, "GetSymbolicDimensions": 63, "GetTensorTypeAndShape": 65,
    "ReleaseStatus": 93, "ReleaseValue": 96, "ReleaseTensorTypeAndShapeInfo": 99, "ReadOpAttr": 272,
    "GetValueInfoName": 289, "GetValueInfoTypeInfo": 290, "GetTensorSizeInBytes": 318,
    "ValueInfo_GetInitializerValue": 326, "ValueInfo_IsConstantInitializer": 331, "Graph_GetOnnxIRVersion": 335,
    "Graph_GetNumOperatorSets": 336, "Graph_GetOperatorSets": 337, "Graph_GetNumOutputs": 340, "Graph_GetOutputs": 341,
    "Graph_GetNumNodes": 344, "Graph_GetNodes": 345, "Node_GetName": 349, "Node_GetOperatorType": 350,
    "Node_GetDomain": 351, "Node_GetNumInputs": 353, "Node_GetInputs": 354, "Node_GetNumOutputs": 355,
    "Node_GetOutputs": 356, "Node_GetNumAttributes": 359, "Node_GetAttributes": 360,
    "OpAttr_GetTensorAttributeAsOrtValue": 362, "OpAttr_GetType": 363, "OpAttr_GetName": 364,
    "Node_GetNumSubgraphs": 365, "GetTensorData": 378}
"""Functions that are used, with their places in the table."""
_TENSOR = 1  # ONNXType
_INT, _INTS, _FLOAT, _FLOATS, _STRING, _STRINGS, _GRAPH, _TENSOR_ATTRIBUTE = range(1, 9)  # OrtOpAttrType
_NUMBERS: dict[int, tuple[Any, bool]] = {_INT: (ctypes.c_int64, False), _INTS: (ctypes.c_int64, True),
                                         _FLOAT: (ctypes.c_float, False), _FLOATS: (ctypes.c_float, True)}
MOST_IR = 10
"""The version of ONNX's files that everybody here reads; graphs of newer ones have nothing that takes it."""


@dataclass(frozen=True)
class Value:
    """A value of a graph.

    Attributes:
        name: in the graph.
        dtype: number of the element type, 0 where it is no tensor.
        shape: sizes, names of sizes, None for sizes without either; None where the rank is unknown.
        constant: what it holds, where that is known.

    """

    name: str
    dtype: int
    shape: tuple[int | str | None, ...] | None
    constant: np.ndarray | None = field(default=None, compare=False)

    def info(self) -> onnx.ValueInfoProto:
        """Its description in ONNX."""
        return helper.make_tensor_value_info(self.name, self.dtype, self.shape)


@dataclass(frozen=True)
class Node:
    """A node of a graph, with the values that it reads and makes; None where an optional one is left out.

    `holds_graphs`: it has attributes of other kinds than ONNX's numbers, texts and tensors.
    """

    proto: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    holds_graphs: bool


@dataclass(frozen=True)
class Graph:
    """A graph in topological order: nodes, names of the outputs, versions of domains, and of ONNX's files."""

    nodes: tuple[Node, ...]
    outputs: frozenset[str]
    opsets: dict[str, int]
    ir_version: int


class Api:
    """The functions of a table, whose errors are raised."""

    def __init__(self, table: int) -> None:
        self._table = ctypes.cast(table, ctypes.POINTER(Pointer))

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a status."""
        status = self.plain(name, Pointer, *arguments)
        if status:
            message: bytes = self.plain("GetErrorMessage", ctypes.c_char_p, Pointer(status))
            self.plain("ReleaseStatus", None, Pointer(status))
            raise RuntimeError(message.decode())

    def plain(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call a function that returns what it says."""
        function = ctypes.CFUNCTYPE(result)(self._table[_PLACES[name]])
        return function(*arguments)

    def got(self, name: str, kind: Any, *arguments: Any) -> Any:
        """What a function puts into its last argument."""
        out = kind()
        self.call(name, *arguments, ctypes.byref(out))
        return out.value

    def text(self, name: str, of: Pointer) -> str:
        """A text that a function gives."""
        found: bytes | None = self.got(name, ctypes.c_char_p, of)
        return (found or b"").decode()

    def several(self, count: str, name: str, of: Pointer) -> list[Pointer | None]:
        """The objects that a function gives, as many as another says."""
        array = (Pointer * self.got(count, ctypes.c_size_t, of))()
        self.call(name, of, array, ctypes.c_size_t(len(array)))
        return [None if each is None else Pointer(each) for each in array]


def read(table: int, graph: int) -> Graph:
    """The graph at an address, by the table of functions at another."""
    api, at = Api(table), Pointer(graph)
    values: dict[str, Value] = {}
    nodes = tuple(_node(api, each, values) for each in api.several("Graph_GetNumNodes", "Graph_GetNodes", at) if each)
    outputs = api.several("Graph_GetNumOutputs", "Graph_GetOutputs", at)
    count = api.got("Graph_GetNumOperatorSets", ctypes.c_size_t, at)
    domains, versions = (ctypes.c_char_p * count)(), (ctypes.c_int64 * count)()
    api.call("Graph_GetOperatorSets", at, domains, versions, ctypes.c_size_t(count))
    opsets = {(domain or b"").decode(): version for domain, version in zip(domains, versions, strict=True)}
    return Graph(nodes, frozenset(api.text("GetValueInfoName", each) for each in outputs if each), opsets,
                 api.got("Graph_GetOnnxIRVersion", ctypes.c_int64, at))


def model_of(graph: Graph, nodes: Sequence[Node], outputs: Sequence[Value], inputs: Sequence[Value]) -> onnx.ModelProto:
    """A model of some nodes, with what they read of constants."""
    held = {value.name: value.constant for node in nodes for value in node.inputs
            if value is not None and value.constant is not None}
    made = helper.make_graph([node.proto for node in nodes], "part", [each.info() for each in inputs],
                             [each.info() for each in outputs],
                             [numpy_helper.from_array(array, name) for name, array in held.items()])
    used = {"", *(node.proto.domain for node in nodes)}
    imports = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items() if domain in used]
    return helper.make_model(made, opset_imports=imports, ir_version=min(graph.ir_version, MOST_IR))


def _node(api: Api, at: Pointer, values: dict[str, Value]) -> Node:
    inputs, outputs = (
        tuple(_value(api, each, values) for each in api.several(f"Node_GetNum{side}", f"Node_Get{side}", at))
        for side in ("Inputs", "Outputs"))
    proto = helper.make_node(api.text("Node_GetOperatorType", at), [each.name if each else "" for each in inputs],
                             [each.name if each else "" for each in outputs], name=api.text("Node_GetName", at),
                             domain=api.text("Node_GetDomain", at))
    others = api.got("Node_GetNumSubgraphs", ctypes.c_size_t, at) > 0
    for attribute in api.several("Node_GetNumAttributes", "Node_GetAttributes", at):
        assert attribute is not None  # the function gives those that there are
        name, value = api.text("OpAttr_GetName", attribute), _attribute(api, attribute)
        others |= value is None
        if value is not None:
            proto.attribute.append(helper.make_attribute(name, value[1], attr_type=value[0]))
    return Node(proto, inputs, outputs, others)


def _attribute(api: Api, at: Pointer) -> tuple[int, Any] | None:
    """ONNX's type of an attribute and its value, None for one that is no number, text or tensor."""
    kind = api.got("OpAttr_GetType", ctypes.c_int, at)
    if kind == _TENSOR_ATTRIBUTE:
        value = Pointer(api.got("OpAttr_GetTensorAttributeAsOrtValue", Pointer, at))
        array = _array(api, value)
        api.plain("ReleaseValue", None, value)
        return None if array is None else (onnx.AttributeProto.TENSOR, numpy_helper.from_array(array))
    if kind == _STRING:
        return onnx.AttributeProto.STRING, _read(api, at, kind, ctypes.c_char, many=True)
    if kind not in _NUMBERS:
        return None
    element, many = _NUMBERS[kind]
    types = {_INT: onnx.AttributeProto.INT, _INTS: onnx.AttributeProto.INTS, _FLOAT: onnx.AttributeProto.FLOAT,
             _FLOATS: onnx.AttributeProto.FLOATS}
    return types[kind], _read(api, at, kind, element, many=many)


def _read(api: Api, at: Pointer, kind: int, element: Any, *, many: bool) -> Any:
    size = ctypes.c_size_t()
    status = api.plain("ReadOpAttr", Pointer, at, ctypes.c_int(kind), None, ctypes.c_size_t(0), ctypes.byref(size))
    if status:  # it says how long the value is
        api.plain("ReleaseStatus", None, Pointer(status))
    array = (element * (size.value // ctypes.sizeof(element)))()
    if size.value:
        api.call("ReadOpAttr", at, ctypes.c_int(kind), array, size, ctypes.byref(size))
    if element is ctypes.c_char:
        return array.raw
    return list(array) if many else array[0]


def _value(api: Api, at: Pointer | None, values: dict[str, Value]) -> Value | None:
    if at is None:
        return None
    name = api.text("GetValueInfoName", at)
    if not name:
        return None
    if name not in values:
        info = Pointer(api.got("GetValueInfoTypeInfo", Pointer, at))
        if api.got("GetOnnxTypeFromTypeInfo", ctypes.c_int, info) == _TENSOR:
            tensor = Pointer(api.got("CastTypeInfoToTensorInfo", Pointer, info))
            dtype, shape = _described(api, tensor)
        else:
            dtype, shape = 0, None
        values[name] = Value(name, dtype, shape, _constant(api, at))
    return values[name]


def _described(api: Api, tensor: Pointer) -> tuple[int, tuple[int | str | None, ...]]:
    """Element type and sizes."""
    rank = api.got("GetDimensionsCount", ctypes.c_size_t, tensor)
    sizes, names = (ctypes.c_int64 * rank)(), (ctypes.c_char_p * rank)()
    api.call("GetDimensions", tensor, sizes, ctypes.c_size_t(rank))
    api.call("GetSymbolicDimensions", tensor, names, ctypes.c_size_t(rank))
    shape = tuple(size if size >= 0 else (name or b"").decode() or None
                  for size, name in zip(sizes, names, strict=True))
    return api.got("GetTensorElementType", ctypes.c_int, tensor), shape


def _constant(api: Api, at: Pointer) -> np.ndarray | None:
    if not api.got("ValueInfo_IsConstantInitializer", ctypes.c_bool, at):
        return None
    value = api.got("ValueInfo_GetInitializerValue", Pointer, at)
    return None if value is None else _array(api, Pointer(value))


def _array(api: Api, value: Pointer) -> np.ndarray | None:
    """A copy of a tensor, None where numpy has no such elements."""
    info = Pointer(api.got("GetTensorTypeAndShape", Pointer, value))
    number, shape = _described(api, info)
    api.plain("ReleaseTensorTypeAndShapeInfo", None, info)
    if number == onnx.TensorProto.STRING:
        return None
    half = number == onnx.TensorProto.BFLOAT16
    dtype = np.dtype(ml_dtypes.bfloat16) if half else helper.tensor_dtype_to_np_dtype(number)
    size = api.got("GetTensorSizeInBytes", ctypes.c_size_t, value)
    data = ctypes.string_at(api.got("GetTensorData", Pointer, value), size) if size else b""
    return np.frombuffer(data, dtype).reshape([int(each or 0) for each in shape])
