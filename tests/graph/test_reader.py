"""Every way of writing a model reads into one static graph with the model's own answers; bad input gives one line."""

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from sparsec.errors import ModelError, ShapeError, UnsupportedOperatorError
from sparsec.graph.compare import compare, random_feeds, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import OPSET, load
from sparsec.graph.shapes import static_shape
from sparsec.graph.sparse import SPARSE_KEY, to_dense
from tests.support.texts import model, outputs, with_initializers_as_inputs

LINEAR = "g (float[2,4] x) => (float[2,3] y) <float[4,3] w, float[3] b> { h = MatMul(x, w) y = Add(h, b) }"


def sparse_tensor(form, name="w"):
    indices = {"linear": [1, 4, 11], "coordinates": [[0, 1], [1, 1], [3, 2]]}[form]
    values = numpy_helper.from_array(np.array([1, -2, 3], np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices), f"{name}_indices"), [4, 3])


def sparse_initializer(form):
    proto = model("g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }")
    proto.graph.sparse_initializer.append(sparse_tensor(form))
    return proto


def constant_node(**attribute):
    proto = model("g (float[2,4] x) => (float[2,4] y) { y = Mul(x, c) }")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["c"], **attribute))
    return proto


def sparse_constant():
    proto = model("g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, w) }")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse_tensor("linear")))
    return proto


def long_domain():
    proto = model("g (float[2,4] x) => (float[2,4] y) { h = ai.onnx.Relu(x) y = Neg(h) }")
    next(each for each in proto.opset_import if not each.domain).domain = "ai.onnx"
    return proto


VARIATIONS = {
    "plain": model(LINEAR),
    "initializers as inputs": with_initializers_as_inputs(model(LINEAR, opset=7)),
    "sparse initializer, linear": sparse_initializer("linear"),
    "sparse initializer, coordinates": sparse_initializer("coordinates"),
    "constant float": constant_node(value_float=2.5),
    "constant floats": constant_node(value_floats=[1.0, 2.0, 3.0, 4.0]),
    "constant tensor": constant_node(value=numpy_helper.from_array(np.float32([[3], [4]]))),
    "constant int": model("g (float[2,4] x) => (float[4] y) { i = Constant<value_int=1>() y = Gather(x, i) }"),
    "constant ints": model("g (float[2,4] x) => (float[8] y) { s = Constant<value_ints=[8]>() y = Reshape(x, s) }"),
    "weight behind Identity, Transpose, Cast": model(
        "g (float[2,4] x) => (float[2,3] y) <double[3,4] w>"
        "{ i = Identity(w) t = Transpose(i) c = Cast<to=1>(t) y = MatMul(x, c) }"),
    "two inputs and outputs": model(
        "g (int64[2,3] i, bool[2,3] m, float[2,3] x) => (int64[2,3] a, float[2,3] b)"
        "{ a = Add(i, i) f = Cast<to=1>(i) b = Where(m, x, f) }"),
    "local function": model(
        "g (float[2,4] x) => (float[2,4] y) { h = local.twice(x) y = local.twice(h) }"
        '<domain: "local", opset_import: ["": 17]> twice (a) => (b) { b = Add(a, a) }'),
    "branches": model(
        "g (float[2,4] x, bool c) => (float[2,4] y) <float[4] w>"
        "{ y = If(c) <then_branch = t () => (float[2,4] p) { p = Add(x, w) },"
        "             else_branch = e () => (float[2,4] q) { q = Mul(x, w) }> }"),
    "ONNX's domain by its long name": long_domain(),
    "padding without a word": model(
        "g (float[1,1,4,4] x) => (float[1,1,4,4] y)"
        '{ y = MaxPool<auto_pad="", kernel_shape=[3,3], pads=[1,1,1,1]>(x) }'),
    "opset 7": model("g (float[2,4] x) => (float[2,4] y) { y = Softmax<axis=1>(x) }", 7),
    "opset 9, flattening softmax": model("g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=1>(x) }", 9),
    "opset 10, attributes that became inputs": model(
        "g (float[2,3,4] x) => (float[1,2,3] y)"
        "{ c = Clip<min=-1.0, max=1.0>(x) r = ReduceMean<axes=[2], keepdims=0>(c) y = Unsqueeze<axes=[0]>(r) }", 10),
    "newer opset": model("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }", 23),
    "shape arithmetic": model(
        "g (float[n,3,4] x) => (float[a,b] y) <int64[1] one, int64 zero>"
        "{ s = Shape(x) n = Gather(s, zero) m = Unsqueeze(n, z) t = Concat<axis=0>(m, one) y = Reshape(x, t) }"
        .replace("(n, z)", "(n, zeros)").replace("int64 zero>", "int64 zero, int64[1] zeros>"),
        one=[-1], zero=0, zeros=[0]),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_variation_reads_into_a_static_graph_with_the_same_answers(name):
    proto = VARIATIONS[name]
    graph = load(proto, shapes={"x": (2, 3, 4)} if name == "shape arithmetic" else None)
    assert graph.graph.opset_imports[""] >= OPSET
    assert not graph.functions
    assert not {value.name for value in graph.graph.inputs} & set(graph.graph.initializers)
    assert not any(node.op_type == "Constant" for node in graph.graph)
    assert all(static_shape(value) is not None for value in graph.graph.inputs)
    feeds = random_feeds(graph)
    differences = compare(outputs(proto), evaluate(graph, feeds), run_onnxruntime(proto, feeds))
    assert all(difference.relative_error < 1e-6 for difference in differences)


@pytest.mark.parametrize("proto", [sparse_initializer("linear"), sparse_initializer("coordinates"), sparse_constant()])
def test_sparse_weights_stay_visible(proto):
    before = proto.SerializeToString()
    weight = load(proto).graph.initializers["w"]
    assert weight.metadata_props[SPARSE_KEY].startswith("nnz=3,form=")
    np.testing.assert_array_equal(weight.const_value.numpy(), [[0, 1, 0], [0, -2, 0], [0, 0, 0], [0, 0, 3]])
    assert proto.SerializeToString() == before


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.randoms())
def test_both_index_forms_hold_the_same_tensor(shape, random):
    size = int(np.prod(shape))
    chosen = np.array(sorted(random.sample(range(size), random.randint(0, size))), np.int64)
    values = numpy_helper.from_array(np.arange(1, chosen.size + 1, dtype=np.float32), "w")
    coordinates = np.stack(np.unravel_index(chosen, shape), -1)
    forms = {"linear": chosen, "coordinates": coordinates}
    expected = np.zeros(size, np.float32)
    expected[chosen] = np.arange(1, chosen.size + 1)
    for form, indices in forms.items():
        tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64), "i"), shape)
        dense, note = to_dense(tensor, ".")
        np.testing.assert_array_equal(dense, expected.reshape(shape))
        assert note == f"nnz={chosen.size},form={form}"


SYMBOLIC = "g (float[batch,3] x, float[batch,time] z) => (float[batch,3] y) { y = Relu(x) }"


def test_a_symbol_bound_at_one_input_holds_at_all():
    graph = load(model(SYMBOLIC), shapes={"z": (2, 5)}).graph
    assert [static_shape(value) for value in (*graph.inputs, *graph.outputs)] == [(2, 3), (2, 5), (2, 3)]


@pytest.mark.parametrize(("shapes", "words"), [
    ({}, ["'x' dimension 0 (batch)", "shapes={'x': (1, 3)}",
          "'z' dimension 0 (batch), 1 (time)", "shapes={'z': (1, 1)}"]),
    ({"x": (2, 3)}, ["'z' dimension 1 (time)", "shapes={'z': (2, 1)}"]),
    ({"q": (2, 3)}, ["no input 'q'", "x, z"]),
    ({"x": (2, 3, 4)}, ["'x' has rank 2", "(batch, 3)"]),
    ({"x": (2, 4)}, ["dimension 1 of input 'x' is 3, not 4"]),
    ({"x": (2, 3), "z": (4, 5)}, ["dimension 0 of input 'z' is 2, not 4"]),
    ({"x": (-1, 3)}, ["not negative"]),
])
def test_shapes_that_do_not_fit_are_named_with_the_way_out(shapes, words):
    with pytest.raises(ShapeError) as raised:
        load(model(SYMBOLIC), shapes=shapes)
    assert one_line(raised)
    assert all(word in str(raised.value) for word in words)


def one_line(raised):
    return "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.fixture
def external(tmp_path):
    """A model whose weight lies in a file beside it."""
    path = tmp_path / "model.onnx"
    onnx.save(model(LINEAR), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    return path


def test_external_data_is_read_beside_the_model(external):
    feeds = {"x": np.float32(np.arange(8).reshape(2, 4))}
    np.testing.assert_allclose(evaluate(load(external), feeds)[0], run_onnxruntime(external, feeds)[0], rtol=1e-6)


def test_weights_may_lie_in_a_file_of_safetensors(external):
    """As `onnx_ir.save_safetensors` leaves them: behind a header that tells names, types and places."""
    proto, data = onnx.load(external, load_external_data=False), (external.parent / "weights.bin").read_bytes()
    header = json.dumps({"__metadata__": {"format": "onnx"}}).encode()
    (external.parent / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    feeds = random_feeds(load(external))
    expected = evaluate(load(external), feeds)[0]
    for tensor in proto.graph.initializer:
        fields = {each.key: each for each in tensor.external_data}
        fields["location"].value = "w.safetensors"
        fields["offset"].value = str(int(fields["offset"].value) + 8 + len(header))
    onnx.save(proto, external)
    (external.parent / "weights.bin").unlink()
    assert evaluate(load(external), feeds)[0].tobytes() == expected.tobytes()


def test_external_data_must_be_there_and_complete(external):
    weights = external.parent / "weights.bin"
    whole = weights.stat().st_size
    for damage in (lambda: weights.write_bytes(weights.read_bytes()[:20]), weights.unlink):
        damage()
        with pytest.raises(ModelError, match="external data must lie complete beside the model") as raised:
            load(external)
        assert one_line(raised)
        assert f"'weights.bin' {'has' if weights.exists() else 'is missing'}" in str(raised.value)
        assert not weights.exists() or f"'weights.bin' has 20 bytes where its tensors take {whole}" in str(raised.value)
    with pytest.raises(ModelError, match=r"external file 'weights\.bin'"):
        load(external.read_bytes())


def test_external_data_may_not_lie_outside_the_folder(external):
    (external.parent / "inner").mkdir()
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "../weights.bin"
    inner = external.parent / "inner" / "model.onnx"
    inner.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        load(inner)


GOOD = model(LINEAR).SerializeToString()


@pytest.mark.parametrize(("data", "words"), [
    (b"", "not an ONNX model"),
    (b"PK\x03\x04 a zip file", "not an ONNX model"),
    (GOOD[: len(GOOD) // 2], "truncated or damaged"),
    (GOOD[:GOOD.rindex(b"B\x04\n\x00\x10")], "truncated"),  # where the opsets begin
    (model("g (float[2] x) => (float[2] y) { y = Relu(x) }", 6).SerializeToString(), "older than 7"),
    (model("g (float[2] x) => (float[2] y) { y = Relu(x) }", 999).SerializeToString(), "upgrade onnx"),
    (model("g (float[2,4] x) => (float[2,3] y) <float[5,3] w> { y = MatMul(x, w) }").SerializeToString(), "MatMul"),
    (model("g (float[2] x) => (float[2] y) { y = Relu(z) }").SerializeToString(), "z"),
])
def test_bad_files_are_refused_in_one_line(tmp_path, data, words):
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    for source in (path, str(path), data):
        with pytest.raises(ModelError, match=words) as raised:
            load(source)
        assert one_line(raised)
        assert source is data or "bad.onnx" in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.onnx: cannot be read"):
        load(tmp_path / "absent.onnx")


def test_unknown_operators_are_listed_together():
    proto = model("g (float[2] x) => (float[2] y) { h = Florb(x) y = Grault(h) }")
    with pytest.raises(UnsupportedOperatorError, match=r"Florb.*Grault"):
        load(proto)


@pytest.mark.parametrize("indices", [[12], [-1], [[4, 0]], [[0, 0, 0]]])
def test_sparse_indices_must_fit(indices):
    values = numpy_helper.from_array(np.float32([1]), "w")
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices), "i"), [4, 3])
    with pytest.raises(ModelError, match="sparse tensor 'w'"):
        to_dense(tensor, ".")


def test_declared_outputs_fix_the_sizes_that_depend_on_values():
    graph = load(model(
        "g (int64 n, float[2,5] x, int64[1] axes) => (float[7] y, float[2,1] z)"
        "<int64 zero, int64 one> { r = Range(zero, n, one) f = Cast<to=1>(r) s = Sqrt(f) y = Mul(s, s)"
        " t = ReduceSum(x, axes) z = Exp(t) }", opset=20, zero=0, one=1))
    shapes = {value.name: static_shape(value) for node in graph.graph for value in node.outputs}
    assert (shapes["r"], shapes["s"], shapes["t"]) == ((7,), (7,), (2, 1))
