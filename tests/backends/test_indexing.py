"""Reading and writing by index: as onnxruntime within the tensor, an error outside it, never a crash."""

import numpy as np
import onnx.parser
import pytest

import sparsec
from sparsec.errors import InputError, UnsupportedOperatorError
from tests.support.vm import compile_and_run, model_of, onnxruntime_run

HEADER = '<ir_version: 8, opset_import: ["": 18]> g '
GRAPHS = {
    "rows": "(float[4,5] x, int64[2,3] i) => (float[2,3,5] y) { y = Gather(x, i) }",
    "columns": "(float[4,5] x, int32[3] i) => (float[4,3] y) { y = Gather<axis=-1>(x, i) }",
    "one row": "(float[4,5] x, int64 i) => (float[5] y) { y = Gather(x, i) }",
    "elements": "(float[4,5] x, int64[4,3] i) => (float[4,3] y) { y = GatherElements<axis=1>(x, i) }",
    "elements of the first rows": "(float[4,5] x, int64[2,3] i) => (float[2,3] y) { y = GatherElements<axis=1>(x, i) }",
    "coordinates": "(float[4,5] x, int64[3,2] i) => (float[3] y) { y = GatherND(x, i) }",
    "batches": "(float[4,5] x, int64[4,1] i) => (float[4] y) { y = GatherND<batch_dims=1>(x, i) }",
    "added elements": "(float[4,5] x, int64[4,1] i, float[4,1] u) => (float[4,5] y) "
                      '{ y = ScatterElements<axis=1, reduction="add">(x, i, u) }',
    "written coordinates": "(float[4,5] x, int64[1,2] i, float[1] u) => (float[4,5] y) { y = ScatterND(x, i, u) }",
}


def feeds_of(model, low, high):
    """Random inputs with indices in [low, high)."""
    rng = np.random.default_rng(0)
    return {value.name: np.asarray(rng.integers(low, high, tuple(value.shape)) if value.name == "i" else
                                   rng.standard_normal(tuple(value.shape)), value.dtype.numpy())
            for value in model.graph.inputs}


@pytest.mark.parametrize("name", GRAPHS)
def test_indices_count_from_either_end(name, capfd):
    model = model_of(HEADER + GRAPHS[name])
    feeds = feeds_of(model, -4, 4)
    np.testing.assert_array_equal(compile_and_run(model, feeds)[0], onnxruntime_run(model, feeds)[0])
    assert "pragma" not in capfd.readouterr().err  # TVM's warnings are for nobody


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("index", [-6, 5, 2**30])
def test_an_index_outside_is_an_error(name, index):
    model = model_of(HEADER + GRAPHS[name])
    with pytest.raises(IndexError, match="outside the tensor"):
        compile_and_run(model, feeds_of(model, index, index + 1))


def test_a_session_names_the_node_and_goes_on():
    model = onnx.parser.parse_model(HEADER + "(int64[2] i) => (float[2,2] y) <float[3,2] words = {0,1,2,3,4,5}> "
                                             "{ [look_up] y = Gather(words, i) }")
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    with pytest.raises(InputError, match=r"'look_up': an index is outside the tensor, whose axes have \[3\] elements"):
        session.run(None, {"i": np.array([0, 3])})
    np.testing.assert_array_equal(session.run(None, {"i": np.array([0, -1])})[0], [[0, 1], [4, 5]])


def test_a_constant_index_outside_is_refused_when_compiling():
    model = model_of(HEADER + "(float[3,2] x) => (float[1,2] y) <int64[1] i = {3}> { y = Gather(x, i) }")
    with pytest.raises(UnsupportedOperatorError, match="outside the tensor"):
        compile_and_run(model, {})


def test_indices_of_any_sizes_choose_from_the_front_of_the_other_axes():
    graph = "(float[n,5] x, int64[m,k] i) => (float[m,k] y) { y = GatherElements<axis=1>(x, i) }"
    model = onnx.parser.parse_model(HEADER + graph)
    session = sparsec.InferenceSession(sparsec.compile(model, "cpu-generic"))
    x, i = np.arange(20, dtype=np.float32).reshape(4, 5), np.array([[0, -1, 4], [-5, 2, 2]])
    np.testing.assert_array_equal(session.run(None, {"x": x, "i": i})[0], [[0, 4, 4], [5, 7, 7]])
    with pytest.raises(InputError, match=r"indices of shape \(2, 3\) are more than the elements of shape \(1, 5\)"):
        session.run(None, {"x": x[:1], "i": i})
