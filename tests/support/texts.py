"""Small models written as text."""

import zlib

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser


def model(graph, opset=17, **weights):
    """The model of a graph in ONNX's textual syntax.

    A value declared between `<` and `>` that no node computes becomes a weight: from `weights`, else random by its name
    (positive if that starts with "var").
    """
    domains = {"": opset, "sparsec": 1, "local": 1, "com.microsoft": 1, "ai.onnx.ml": 3}
    imports = ", ".join(f'"{domain}": {version}' for domain, version in domains.items())
    proto = parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> {graph}")
    computed = {name for node in proto.graph.node for name in node.output}
    for info in [info for info in proto.graph.value_info if info.name not in computed]:
        proto.graph.value_info.remove(info)
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        array = weights.get(info.name, random(shape, info.name))
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array, dtype).reshape(shape), info.name))
    return proto


def random(shape, name):
    """Normal numbers that depend on the name, made positive for variances."""
    array = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32) * 0.5
    return np.abs(array) + 0.5 if name.startswith("var") else array


def outputs(proto):
    """Names of a model's outputs."""
    return [value.name for value in proto.graph.output]


def with_initializers_as_inputs(proto):
    """The same model as old exporters wrote it: every initializer is also a graph input."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in proto.graph.initializer:
        copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def dead(shape, *units, name="w"):
    """Random weights of which some units (output channels) are zero."""
    data = random(shape, name)
    data[list(units)] = 0
    return data
