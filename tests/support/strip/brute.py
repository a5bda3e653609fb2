"""Running models in onnxruntime: on several inputs, with any constant replaced, or for all values in between."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from tests.support.strip.nets import VOCABULARY

onnxruntime.set_default_logger_severity(3)


def feeds(model, count=12):
    """Random inputs; integer ones take every value below VOCABULARY in every place."""
    rng = np.random.default_rng(0)
    constants = {tensor.name for tensor in model.graph.initializer}
    result = [{} for _ in range(count)]
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        first = rng.integers(0, VOCABULARY, shape)
        for i, feed in enumerate(result):
            integer = value.type.tensor_type.elem_type == onnx.TensorProto.INT64
            feed[value.name] = (first + i) % VOCABULARY if integer else rng.standard_normal(shape).astype(np.float32)
    return result


def overridable(model):
    """A session that takes every initializer as an optional input."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for tensor in model.graph.initializer:
        opened.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])


def matters(model, name, inputs):
    """Which elements of a constant change an output when they become zero, on one of the inputs."""
    session = overridable(model)
    data = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
    expected = [session.run(None, feed) for feed in inputs]
    result = np.zeros(data.shape, bool)
    for index in zip(*np.nonzero(data), strict=True):
        changed = data.copy()
        changed[index] = 0
        actual = [session.run(None, {**feed, name: changed}) for feed in inputs]
        result[index] = any(np.abs(a - b).max() > 1e-6 * np.abs(b).max()
                            for pair in zip(actual, expected, strict=True) for a, b in zip(*pair, strict=True))
    return result


def run(model, inputs):
    """The outputs for each of the inputs."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in inputs]


def intermediate(model, inputs):
    """The float values of all nodes, by name, for each of the inputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for node in model.graph.node for name in node.output
                               if name not in outputs)
    names = [value.name for value in opened.graph.output]
    return [dict(zip(names, values, strict=True)) for values in run(opened, inputs)]
