"""What onnxruntime takes and ONNX's checker does not is read, and computes what onnxruntime computes."""

import numpy as np
import onnx
import pytest
from onnx import parser

import sparsec
from sparsec.errors import ModelError, UnsupportedOperatorError
from sparsec.graph import limits
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load

RNG = np.random.default_rng(0)
BOXES = np.float32([[0, 0, 3, 4], [1, 2, 6, 5]])


def proto(opset, text):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("opset", [18, 20])
def test_group_normalization_with_a_scale_for_every_group(opset, groups):
    model = proto(opset, f"""g (float[2,6,3,4] x, float[{groups}] s, float[{groups}] b) => (float[2,6,3,4] y)
        {{ y = GroupNormalization<num_groups={groups}, epsilon=0.01>(x, s, b) }}""")
    feeds = {"x": RNG.normal(size=(2, 6, 3, 4)).astype("f4"), "s": RNG.normal(size=groups).astype("f4"),
             "b": RNG.normal(size=groups).astype("f4")}
    graph = load(model)
    assert [value.name for value in graph.graph.outputs] == ["y"]
    np.testing.assert_allclose(evaluate(graph, feeds)[0], run_onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_group_normalization_of_no_groups_is_refused():
    model = proto(18, """g (float[1,4,3] x, float[2] s) => (float[1,4,3] y)
        { y = GroupNormalization<num_groups=0>(x, s, s) }""")
    with pytest.raises(ModelError, match=r"\(GroupNormalization\) has 0 groups; it needs one or more"):
        load(model)


def test_modes_in_capitals():
    model = proto(16, """g (float[1,2,8,8] x, float[2,4] r, int64[2] i) => (float[2,2,3,3] y)
        { y = RoiAlign<mode="AVG", output_height=3, output_width=3, sampling_ratio=2>(x, r, i) }""")
    feeds = {"x": RNG.normal(size=(1, 2, 8, 8)).astype("f4"), "r": BOXES, "i": np.zeros(2, "i8")}
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    np.testing.assert_allclose(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0], rtol=1e-5, atol=1e-6)


def test_what_a_cast_gives_is_of_its_type_whatever_is_noted_of_it():
    model = proto(17, """g (float16[2,3] x, float[3,4] w) => (float16[2,4] y)
        { a = Cast<to=1>(x) b = MatMul(a, w) y = Cast<to=10>(b) }""")
    noted = onnx.ModelProto()
    noted.CopyFrom(model)
    noted.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT16, [2, 3]))
    feeds = {"x": RNG.normal(size=(2, 3)).astype("f2"), "w": RNG.normal(size=(3, 4)).astype("f4")}
    session = sparsec.InferenceSession(sparsec.compile(noted, tune="off"))
    np.testing.assert_array_equal(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0])


def test_range_of_tensors_of_one_element():
    model = proto(17, """g (int64[1] n, float[4] x) => (float[4] y)
        { z = Constant<value_ints=[0]>() s = Shape(x) d = Constant<value_int=1>() r = Range(z, s, d)
          f = Cast<to=1>(r) m = Cast<to=1>(n) a = Mul(f, m) y = Add(x, a) }""")
    feeds = {"n": np.array([3]), "x": RNG.normal(size=4).astype("f4")}
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    np.testing.assert_allclose(session.run(None, feeds)[0], feeds["x"] + 3 * np.arange(4), rtol=1e-6)


@pytest.mark.parametrize("size", [200, "n"])
def test_signals_as_pytorch_writes_them(size):
    model = proto(17, f"""g (float[2,{size}] x) => (float[2,frames,17,2] y)
        <int64 step = {{10}}, int64 length = {{32}}, int64 size = {{32}}>
        {{ w = HannWindow(size) y = STFT(x, step, w, length) }}""")
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    for samples in (200,) if size == 200 else (200, 64):
        feeds = {"x": RNG.normal(size=(2, samples)).astype("f4")}
        np.testing.assert_allclose(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-4)


def test_maps_are_refused_by_name():
    node = onnx.helper.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(1, []))
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 2])],
        [onnx.helper.make_value_info("scores", onnx.helper.make_sequence_type_proto(kind))])
    with pytest.raises(UnsupportedOperatorError, match=r"'scores' is a map or a sequence of maps.*'zipmap': False"):
        load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17),
                                                          onnx.helper.make_opsetid("ai.onnx.ml", 3)]))


def _constants(count):
    nodes = [onnx.helper.make_node("Constant", [], [f"c{index}"], value_float=1.0) for index in range(count)]
    nodes.append(onnx.helper.make_node("Add", ["x", f"c{count - 1}"], ["y"]))
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_constants_have_a_limit_of_their_own():
    limits.check_nodes(_constants(limits.MOST_NODES + 1))
    with pytest.raises(ModelError, match=r"20001 Constant nodes.*fold them into initializers"):
        limits.check_nodes(_constants(limits.MOST_CONSTANTS + 1))
