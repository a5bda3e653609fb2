"""Operators that GPUs once refused or got wrong: in the emulator beside onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from sparsec.backends.cuda.lower import lower
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import prepare
from sparsec.target import resolve
from tests.support.cuda import walk
from tests.support.cuda.emulator import emulate

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
TARGET = resolve("cuda-sm80")
RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(nodes, feeds, outputs, constants, tolerance=2e-3):
    """The nodes compute what they do in onnxruntime; returns the names of the kernels."""
    def described(name, array):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(nodes, "graph", [described(*each) for each in feeds.items()],
                              [helper.make_empty_tensor_value_info(name) for name in outputs],
                              [numpy_helper.from_array(array, name) for name, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    for value, array in zip(graph.output, expected, strict=True):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    prepared = prepare(model, CompileOptions(TARGET.name))
    plan(prepared.graph, prepared.job, prepared.backend)
    lowered = lower(prepared.graph, TARGET, "fp16")
    for mine, reference in zip(walk.run(lowered, feeds), expected, strict=True):
        assert mine.shape == reference.shape
        np.testing.assert_allclose(mine, reference, atol=tolerance * max(1.0, np.abs(reference).max()))
    return walk.kernels(lowered)


@pytest.mark.parametrize(("dims", "axis", "largest", "dtype"), [
    ((3, 7), -1, 1, np.float32), ((5, 2, 3), 0, 0, np.float32), ((2, 9), 1, 1, np.int64)])
def test_top_k(dims, axis, largest, dtype):
    x = RNG.integers(-3, 4, dims).astype(dtype)  # with equal elements
    check([helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=axis, largest=largest)], {"x": x}, ["v", "i"],
          {"k": np.array([3], np.int64)})


@pytest.mark.parametrize(("kind", "gates", "attributes"), [
    ("RNN", 1, {"direction": "reverse"}), ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}),
    ("LSTM", 4, {"direction": "bidirectional"})])
def test_recurrent_layers(kind, gates, attributes):
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    weights = {"w": random(directions, 4 * gates, 3), "r": random(directions, 4 * gates, 4),
               "b": random(directions, 8 * gates), "n": np.array([2, 1], np.int32)}
    node = helper.make_node(kind, ["x", "w", "r", "b", "n"], ["y", "h"], hidden_size=4, **attributes)
    check([node], {"x": random(2, 2, 3)}, ["y", "h"], weights)


def test_peepholes_and_initial_states_of_an_lstm():
    weights = {"w": random(1, 16, 3), "r": random(1, 16, 4), "h": random(1, 2, 4), "c": random(1, 2, 4),
               "p": random(1, 12)}
    node = helper.make_node("LSTM", ["x", "w", "r", "", "", "h", "c", "p"], ["y", "", "cell"], hidden_size=4)
    check([node], {"x": random(2, 2, 3)}, ["y", "cell"], weights)


@pytest.mark.parametrize("features", [48, 8200])
def test_layer_norm_of_large_constant_rows(features):
    x = np.full((2, features), 3e4, np.float32)
    x[1, ::2] += 1
    node = helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["y"])
    check([node], {"x": x}, ["y"], {"scale": random(features), "bias": random(features)})


@pytest.mark.parametrize("divided", [True, False])
def test_a_norm_without_mean_is_one_kernel_with_its_sum(divided):
    ending = [helper.make_node("Div", ["x", "root"], ["n"])] if divided else [
        helper.make_node("Div", ["one", "root"], ["inverse"]), helper.make_node("Mul", ["inverse", "x"], ["n"])]
    square = helper.make_node(*(("Pow", ["x", "two"]) if divided else ("Mul", ["x", "x"])), ["square"])
    nodes = [helper.make_node("Add", ["a", "b"], ["x"]), square,
             helper.make_node("ReduceMean", ["square"], ["mean"], axes=[-1]),
             helper.make_node("Add", ["mean", "epsilon"], ["v"]), helper.make_node("Sqrt", ["v"], ["root"]), *ending,
             helper.make_node("Mul", ["scale", "n"], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
    constants = {"two": np.float32([2]), "one": np.float32([1]), "epsilon": np.float32([1e-5]), "scale": random(40)}
    kernels = check(nodes, {"a": random(2, 3, 40), "b": random(3, 40)}, ["y", "z"], constants)
    assert kernels == ["layer_norm", "relu"]


@pytest.mark.parametrize("keys", [1, 5, 7])
def test_products_of_odd_lengths_read_where_they_may(keys):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["q"]), helper.make_node("MatMul", ["z", "w"], ["k"]),
             helper.make_node("Transpose", ["k"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["q", "t"], ["s"]),
             helper.make_node("Mul", ["s", "scale"], ["scaled"]), helper.make_node("Softmax", ["scaled"], ["p"]),
             helper.make_node("MatMul", ["p", "k"], ["y"])]
    check(nodes, {"x": random(3, 16), "z": random(keys, 16)}, ["y"],
          {"w": random(16, 16), "scale": np.float32(0.3).reshape(1)}, tolerance=1e-2)
