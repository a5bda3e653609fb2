"""Recurrent layers as products over all steps and steps around a sparse kernel equal onnxruntime's."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec import InferenceSession
from sparsec import compile as compiled
from sparsec.graph import verify
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.passes import recurrent
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model, random

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
T, I, H = 4, 6, 20
LAYERS = [
    # cell, batch, directions, optional inputs, attributes
    ("LSTM", 1, 1, "", ""),
    ("LSTM", 3, 2, "lengths state peepholes", ""),
    ("LSTM", 2, 1, "state", 'direction="reverse"'),
    ("LSTM", 1, 1, "", 'activations=["Sigmoid", "Relu", "Tanh"]'),
    ("GRU", 1, 2, "bias", "linear_before_reset=1"),
    ("GRU", 9, 1, "bias lengths state", "linear_before_reset=1"),
    ("GRU", 1, 2, "bias", "linear_before_reset=0"),
    ("GRU", 6, 1, "bias lengths state", ""),
    ("RNN", 13, 2, "state bias", 'activations=["Relu", "Tanh"]'),
    ("RNN", 2, 1, "lengths", ""),
    ("GRU", 2, 1, "bias lengths", 'clip=0.3, activations=["HardSigmoid", "LeakyRelu"], activation_alpha=[0.3, 0.1]'),
    ("LSTM", 2, 2, "peepholes state", "clip=0.25"),
]
WRITTEN = [  # what becomes another form, or a Scan
    (("LSTM", 2, 2, "bias peepholes state", "input_forget=1, clip=0.5"), ["MatMul", "Recurrence"] * 2),
    (("LSTM", 2, 1, "lengths peepholes", 'input_forget=1, activations=["HardSigmoid", "Tanh", "Tanh"]'), []),
    (("GRU", 2, 2, "bias lengths state", """activations=["Softsign", "ScaledTanh", "Sigmoid", "Elu"],
      activation_alpha=[1.5, 0.5], activation_beta=[0.7], linear_before_reset=1, clip=0.4"""), []),
    (("RNN", 3, 1, "state bias", """activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1],
      direction="reverse\""""), []),
]


def layer(cell, batch, directions, given, attributes):
    """A layer of 90 % zeros and its inputs."""
    gates, rng = GATES[cell] * H, np.random.default_rng(0)
    weights = {name: random((directions, gates, width), name) * (rng.random((directions, gates, width)) > 0.9)
               for name, width in (("w", I), ("r", H))}
    cells = cell == "LSTM"
    names = ["x", "w", "r", "b" if "bias" in given else "", "lengths" if "lengths" in given else "",
             "h" if "state" in given else "", *(["c" if "state" in given else ""] if cells else []),
             *(["p"] if "peepholes" in given else [])]
    state = f"float[{directions},{batch},{H}]"
    inputs = [f"float[{T},{batch},{I}] x"]
    inputs += [f"int32[{batch}] lengths"] * ("lengths" in given) + [f"{state} h"] * ("state" in given)
    inputs += [f"{state} c"] * ("c" in names)
    outputs = ["y", "yh", *(["yc"] if cells else [])]
    direction = f', direction="{"bidirectional" if directions == 2 else "forward"}"' * ("direction" not in attributes)
    proto = model(
        f"g ({', '.join(inputs)}) => (float[{T},{directions},{batch},{H}] y, "
        f"{', '.join(f'{state} {name}' for name in outputs[1:])}) <float[{directions},{gates},{I}] w, "
        f"float[{directions},{gates},{H}] r, float[{directions},{2 * gates}] b, float[{directions},{3 * H}] p>"
        f"{{ {', '.join(outputs)} = {cell}<hidden_size={H}{direction}{', ' * bool(attributes)}{attributes}>"
        f"({', '.join(names).rstrip(', ')}) }}", **weights)
    feeds = {"x": random((T, batch, I), "x"), "lengths": np.int32([max(1, T - i % T) for i in range(batch)]),
             **{name: random((directions, batch, H), name) for name in ("h", "c")}}
    return proto, {value.name: feeds[value.name] for value in proto.graph.input}


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: " ".join(map(str, case)))
def test_a_layer_becomes_products_and_keeps_its_answers(case):
    proto, feeds = layer(*case)
    graph = load(proto)
    report = recurrent.run(graph, Context(resolve("cpu-generic")))
    assert report.counts == {case[0]: 1}, report.notes
    verify.infer(graph, "the graph")
    verify.check(graph, "the graph")
    expected = run_onnxruntime(proto, feeds)
    for found, wanted in zip(evaluate(graph, feeds), expected, strict=True):
        assert relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize("case", LAYERS[1::2], ids=lambda case: " ".join(map(str, case)))
def test_a_compiled_layer_equals_onnxruntime(case):
    proto, feeds = layer(*case)
    artifact = compiled(proto, tune="off", inputs=feeds, strict=True)
    for found, wanted in zip(InferenceSession(artifact).run(None, feeds), run_onnxruntime(proto, feeds), strict=True):
        assert relative_error(found, wanted) < 1e-5
    assert [each["operator"] for each in artifact.report["layers"]] == ["MatMul", "Recurrence"] * case[2]


@pytest.mark.parametrize(("case", "kernels"), WRITTEN, ids=lambda each: " ".join(map(str, each)))
def test_other_forms_equal_onnxruntime(case, kernels):
    proto, feeds = layer(*case)
    artifact = compiled(proto, tune="off")
    for found, wanted in zip(InferenceSession(artifact).run(None, feeds), run_onnxruntime(proto, feeds), strict=True):
        assert relative_error(found, wanted) < 1e-5
    assert [row["operator"] for row in artifact.report["layers"]][:len(kernels)] == kernels


def swapped(proto, feeds):
    """A layer whose batch comes first, and its inputs, of one whose steps do."""
    proto.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
        if value.name in feeds:
            feeds[value.name] = feeds[value.name].swapaxes(0, 1) if feeds[value.name].ndim > 1 else feeds[value.name]
            for size in feeds[value.name].shape:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    return proto, {name: np.ascontiguousarray(array) for name, array in feeds.items()}


@pytest.mark.parametrize("case", LAYERS[1:9:3], ids=lambda case: " ".join(map(str, case)))
def test_batches_may_come_first(case):
    proto, feeds = layer(*case)
    expected = run_onnxruntime(proto, feeds)
    other, turned = swapped(proto, feeds)
    artifact = compiled(other, tune="off", strict=True)
    for found, wanted, axes in zip(InferenceSession(artifact).run(None, turned), expected,
                                   ((2, 0, 1, 3), (1, 0, 2), (1, 0, 2)), strict=False):
        assert relative_error(found, wanted.transpose(axes)) < 1e-5


def test_float64_is_a_scan():
    proto, feeds = layer("LSTM", 2, 2, "lengths bias state", "")
    expected = run_onnxruntime(proto, feeds)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feeds.items()}
    for found, wanted in zip(InferenceSession(compiled(proto, tune="off")).run(None, wide), expected, strict=True):
        assert found.dtype == np.float64
        assert relative_error(found, wanted) < 1e-5


def test_a_layer_without_kernels_is_left_and_says_why():
    proto, _ = layer("RNN", 1, 1, "", 'activations=["Elu"]')
    (note,) = recurrent.run(load(proto), Context(resolve("cpu-generic"))).notes
    assert "its activations are Elu" in note.text
