"""Sequences of known lengths, functions of other opsets and loops that carry nothing give onnxruntime's numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sparsec
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.reader import load
from tests.support.texts import model

X = "g (float[2,6,8] x)"
SEQUENCES = {
    "chunks": f"{X} => (float[2,6,4] y) <int64 size, int64 first, int64 last> {{ s = SplitToSequence<axis=-1>(x, size)"
              "a = SequenceAt(s, first) b = SequenceAt(s, last) y = Mul(a, b) }",
    "an uneven last chunk": f"{X} => (float[2,6,2] y) <int64 three, int64 last>"
                            "{ s = SplitToSequence<axis=2>(x, three) y = SequenceAt(s, last) }",
    "sizes": f"{X} => (float[2,6,8] y) <int64[3] sizes, int64 first, int64 last>"
             "{ s = SplitToSequence<axis=2>(x, sizes) a = SequenceAt(s, first) c = SequenceAt(s, last) b = Neg(a)"
             "t = SequenceConstruct(c, b, a) u = SequenceErase(t, first) v = SequenceInsert(u, c)"
             "y = ConcatFromSequence<axis=-1>(v) }",
    "unbound": f"{X} => (float[2,8] y) <int64 last> {{ s = SplitToSequence<axis=1, keepdims=0>(x)"
               "y = SequenceAt(s, last) }",
    "unbound and stacked": f"{X} => (float[6,2,8] y, int64 n) {{ s = SplitToSequence<axis=1, keepdims=0>(x)"
                           "y = ConcatFromSequence<axis=0, new_axis=1>(s) n = SequenceLength(s) }",
    "from nothing": f"{X} => (float[4,6,8] y) <int64 first> {{ r = Relu(x) e = SequenceEmpty() s = SequenceInsert(e, x)"
                    "t = SequenceInsert(s, r, first) y = ConcatFromSequence<axis=0>(t) }",
    "a part of a part": f"{X} => (float[2,3,4] y) <int64 size, int64 three, int64 last>"
                        "{ s = SplitToSequence<axis=2>(x, size) a = SequenceAt(s, last) r = Relu(a)"
                        "t = SplitToSequence<axis=1>(r, three) y = SequenceAt(t, last) }",
    "the input itself": f"{X} => (float[2,6,8] y) <int64 first>"
                        "{ s = SequenceConstruct(x) y = SequenceAt(s, first) }",
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_of_known_lengths_are_tensors(name, opset):
    proto = model(SEQUENCES[name], opset, size=4, three=3, first=0, last=-1, sizes=[3, 4, 1])
    assert not any("Sequence" in node.op_type for node in load(proto).graph)
    assert sparsec.compile(proto, tune="off").report["verification"]["inputs"] > 0


LIST = ("g (float[3,2,4] x, int64 n) => (float[k,4] y) { e = SequenceEmpty() c = Constant<value = bool {1}>()"
        "q, t = Loop(n, c, e, x) <body = b(int64 i, bool ci, seq(float[3,2,4]) s, float[3,2,4] v) => (bool co, "
        "seq(float[2,4]) so, float[3,2,4] vo) { co = Identity(ci) vo = Tanh(v) u = Gather(vo, i) "
        "so = SequenceInsert(s, u) }> y = ConcatFromSequence<axis=0>(q) }")
OF_THE_RUN = {
    "a place": "g (float[2,6,8] x, int64 i) => (float[2,6,4] y) <int64 size>"
               "{ s = SplitToSequence<axis=-1>(x, size) y = SequenceAt(s, i) }",
    "parts of any number": "g (float[N,8] x) => (float[k,8] y, int64 n) <int64 three, int64 first>"
                           "{ s = SplitToSequence<axis=0>(x, three) n = SequenceLength(s) y = SequenceAt(s, first) }",
    "branches": "g (float[4,8] x, bool c) => (float[k,8] y) <int64 three> { s = If(c)"
                "<then_branch = t() => (seq(float[3,8]) p) { p = SplitToSequence<axis=0>(x, three) }, "
                "else_branch = e() => (seq(float[4,8]) q) { r = Neg(x) q = SequenceConstruct(r, x) }>"
                "y = ConcatFromSequence<axis=0>(s) }",
    "a list that grows": LIST,
    "a function of every part": f"{X} => (float[2,6,8] y) <int64 three> {{ s = SplitToSequence<axis=1>(x, three)"
                                "m = SequenceMap<body = b(float[2,3,8] v) => (float[2,3,8] o) { o = Tanh(v) }>(s)"
                                "y = ConcatFromSequence<axis=1>(m) }",
    "halves": "g (float16[4,8] x, int64 i) => (float16[4,4] y) <int64 size>"
              "{ s = SplitToSequence<axis=1>(x, size) y = SequenceAt(s, i) }",
    "an optional value": f"{X} => (float[2,6,8] y, bool h) {{ o = Optional(x) h = OptionalHasElement(o) y = If(h)"
                         "<then_branch = t() => (float[2,6,8] a) { a = OptionalGetElement(o) }, "
                         "else_branch = e() => (float[2,6,8] b) { b = Neg(x) }> }",
}


@pytest.mark.parametrize("name", OF_THE_RUN)
def test_sequences_that_the_run_tells_are_interpreted(name):
    proto, rng = model(OF_THE_RUN[name], 18, size=4, three=3, first=0), np.random.default_rng(0)
    feeds = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or 5 for dim in kind.shape.dim]
        array = rng.normal(size=shape) if shape else np.array(1)
        feeds[value.name] = array.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    found = sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False)).run(None, feeds)
    for actual, expected in zip(found, run_onnxruntime(proto, feeds), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, 1e-5)


def test_a_sequence_as_output_is_refused_by_name():
    proto = model("g (float[2,6,8] x) => (seq(float[2,6,4]) y) <int64 size> { y = SplitToSequence<axis=-1>(x, size) }",
                  size=4)
    with pytest.raises(UnsupportedOperatorError, match=r"'y'; .*fixed number of parts"):
        load(proto)


def function(version, outer):
    """A model of opset `outer` that calls a function of another one."""
    old = version < 13  # from then on ReduceSum takes its axes as an input
    nodes = [helper.make_node("ReduceSum", ["a"], ["m"], axes=[-1], keepdims=1) if old
             else helper.make_node("ReduceSum", ["a", "axes"], ["m"], keepdims=1),
             helper.make_node("Sub", ["a", "m"], ["d"]), helper.make_node("Softmax", ["d"], ["o"], axis=1)]
    if not old:
        nodes.insert(0, helper.make_node("Constant", [], ["axes"], value_ints=[-1]))
    body = helper.make_function("local", "F", ["a"], ["o"], nodes, [helper.make_opsetid("", version)])
    calls = [helper.make_node("F", ["x"], ["h"], domain="local"), helper.make_node("Softmax", ["h"], ["y"], axis=1)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4]) for name in "xy"]
    imports = [helper.make_opsetid("", outer), helper.make_opsetid("local", 1)]
    return helper.make_model(helper.make_graph(calls, "g", values[:1], values[1:]), functions=[body],
                             opset_imports=imports, ir_version=8)


def softmax(x, version):
    """Along axis 1; before opset 13 along all axes from there on."""
    axes = (1, 2) if version < 13 else 1
    e = np.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


@pytest.mark.parametrize(("version", "outer"), [(13, 17), (17, 13), (12, 13), (13, 12), (17, 17), (11, 17)])
def test_functions_of_other_opsets_mean_what_their_opset_says(version, outer):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    artifact = sparsec.compile(function(version, outer), tune="off", verify=min(version, outer) >= 13)
    (y,) = sparsec.InferenceSession(artifact).run(None, {"x": x})
    expected = softmax(softmax(x - x.sum(-1, keepdims=True), version), outer)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize("trips", [["n", ""], ["n", "go"]])
def test_a_loop_that_carries_nothing(trips):
    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["row"]), helper.make_node("MatMul", ["row", "w"], ["y"]),
         helper.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, [])],
        [value("d", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, [5])])
    weights = {"w": np.ones((8, 5), np.float32), "n": np.array(3), "go": np.array(True)}
    graph = helper.make_graph([helper.make_node("Loop", trips, ["rows"], body=body)], "g",
                              [value("x", TensorProto.FLOAT, [3, 8])], [value("rows", TensorProto.FLOAT, [3, 5])],
                              [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    assert sparsec.compile(proto, tune="off").report["verification"]["inputs"] > 0
