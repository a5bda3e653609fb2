"""Inputs and outputs keep the names, order, types and values that the file gives them, whatever they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.interface import output_names, restore
from sparsec.graph.reader import load
from sparsec.graph.writer import save
from sparsec.passes import optimize
from sparsec.passes.context import Context
from sparsec.passes.strip import strip
from sparsec.target import resolve

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
KINDS = {"x": (FLOAT, [3, 8]), "step": (INT, []), "none": (FLOAT, [0, 4]), "anchors": (FLOAT, [2, 3]),
         "y": (FLOAT, [3, 6]), "again": (FLOAT, [3, 6]), "heads": (FLOAT, [3, 2, 3]), "step_out": (INT, []),
         "constant": (FLOAT, [3, 4]), "version": (INT, [2]),
         "flag": (INT, [])}
OUTPUTS = {
    "an input": ["x", "y"],
    "a scalar input and one without elements": ["none", "step"],
    "only inputs, twice": ["x", "x"],
    "initializers": ["anchors", "flag", "y"],
    "a value and copies of it": ["again", "y", "heads"],
    "one value twice": ["y", "again", "y"],
    "an input by an identity": ["step_out", "y", "x"],
    "constants": ["constant", "version", "y"],
}


def network(outputs):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 6)), "zero": np.zeros(6), "dead": np.zeros((8, 4)), "anchors": np.ones((2, 3))}
    inits = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    inits += [numpy_helper.from_array(np.array(array, np.int64), name)
              for name, array in {"flag": 3, "shape": [3, 2, 3], "version": [1, 2]}.items()]
    nodes = [helper.make_node("Gemm", ["x", "w", "zero"], ["y"], name="fc"),
             helper.make_node("Identity", ["y"], ["again"]), helper.make_node("Reshape", ["y", "shape"], ["heads"]),
             helper.make_node("Identity", ["step"], ["step_out"]),
             helper.make_node("MatMul", ["x", "dead"], ["constant"])]

    def values(names):
        return [helper.make_tensor_value_info(name, *KINDS[name]) for name in names]

    graph = helper.make_graph(nodes, "g", values(["x", "step", "none"]), values(outputs), inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FEEDS = {"x": np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32), "step": np.array(7),
         "none": np.zeros((0, 4), np.float32)}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_compiled_model_has_the_interface_of_the_file(case):
    proto = network(OUTPUTS[case])
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off"))
    assert [value.name for value in session.get_outputs()] == OUTPUTS[case]
    assert [value.name for value in session.get_inputs()] == list(FEEDS)
    found = session.run(None, FEEDS)
    for array, expected in zip(found, run_onnxruntime(proto, FEEDS), strict=True):
        assert (array.shape, array.dtype) == (np.shape(expected), expected.dtype)
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
    owned = [array for array in found if array.size]
    assert not any(np.shares_memory(a, b) for a in owned for b in FEEDS.values())
    assert not any(np.shares_memory(a, b) for i, a in enumerate(owned) for b in owned[i + 1:])


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_stripped_model_has_the_interface_of_the_file(case, tmp_path):
    proto = network(OUTPUTS[case])
    graph = load(proto)
    strip(graph)
    assert output_names(graph) == OUTPUTS[case]
    restore(graph)
    save(graph, tmp_path / "stripped.onnx")
    stripped = onnx.load(tmp_path / "stripped.onnx")
    assert [value.name for value in stripped.graph.output] == OUTPUTS[case]
    for array, expected in zip(run_onnxruntime(stripped, FEEDS), run_onnxruntime(proto, FEEDS), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


def test_a_layer_that_another_replaces_keeps_its_name():
    graph = load(network(["y"]))
    optimize.run(graph, Context(resolve("cpu")))
    assert [node.name for node in graph.graph] == ["fc"]
