"""Samples: how arrays become several of them, what layers see of each, and what outputs are judged by."""

from types import SimpleNamespace

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from sparsec.backends import observing
from sparsec.backends.cpu.layers import allows_fewer_bits
from sparsec.backends.observing import observe
from sparsec.compiler.pipeline import run_passes
from sparsec.errors import InputError, UnsupportedOperatorError
from sparsec.graph import reader
from sparsec.graph.compare import same_class, split_samples
from sparsec.graph.evaluate import evaluate, run_node, walk
from sparsec.kernels.ranges import RANGES, LayerSamples, Ranges
from sparsec.passes.context import Context
from sparsec.target import resolve

RNG = np.random.default_rng(0)
TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[2, 3, 6, 6] x, float[2, 1] s) => (float[2, 4, 6, 6] y) {
  h = Conv<pads: ints = [1, 1, 1, 1]>(x, w) r = Relu(h) c = Sigmoid(s) d = Unsqueeze(c, a) e = Unsqueeze(d, a)
  y = Mul(r, e) }"""


@pytest.fixture
def graph():
    model = onnx.parser.parse_model(TEXT)
    weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(weight, "w"),
                                    numpy_helper.from_array(np.array([2], np.int64), "a")])
    loaded = reader.load(model)
    run_passes(loaded, Context(resolve("cpu-generic")))
    return loaded


def feeds(rows, other=None):
    return {"x": RNG.standard_normal((rows, 3, 6, 6)).astype(np.float32),
            "s": RNG.standard_normal((other or rows, 1)).astype(np.float32)}


@pytest.mark.parametrize(("rows", "other", "count"), [(2, 2, 1), (6, 6, 3), (6, 2, 1), (3, 3, 1), (0, 0, 1)])
def test_several_times_the_rows_are_several_samples(graph, rows, other, count):
    given = feeds(rows, other)
    samples = split_samples(graph, given)
    assert len(samples) == count
    for name, array in given.items():
        np.testing.assert_array_equal(np.concatenate([sample[name] for sample in samples]), array)


def test_walking_a_graph_computes_what_evaluating_it_does(graph):
    given = feeds(2)
    *_, (node, inputs) = walk(graph, given)
    [last] = run_node(node, inputs, graph.graph.opset_imports)
    np.testing.assert_allclose(last, evaluate(graph, given)[0], rtol=1e-6)


def test_a_missing_input_is_named(graph):
    with pytest.raises(InputError, match="'s'"):
        list(walk(graph, {"x": feeds(2)["x"]}))


def test_a_layer_sees_windows_of_its_input_and_its_ranges(graph):
    samples = [feeds(2), feeds(2)]
    [seen] = observe(graph, samples, allows_fewer_bits).values()
    images = np.concatenate([sample["x"] for sample in samples])
    np.testing.assert_array_equal(seen.ranges.least, np.minimum(images.min(axis=(0, 2, 3)), 0))
    np.testing.assert_array_equal(seen.ranges.largest, np.maximum(images.max(axis=(0, 2, 3)), 0))
    assert seen.columns.shape == (27, 128)
    assert set(seen.columns.ravel()) <= {0.0, *images.ravel()}


@pytest.mark.parametrize(("actual", "expected", "share"), [
    ([[0, 1], [1, 0]], [[0, 2], [0, 1]], 0.5), ([[1.0]], [[1.0]], None), ([1.0, 2.0], [1.0, 2.0], None)])
def test_classes_are_compared_for_matrices_of_scores(actual, expected, share):
    assert same_class(np.array(actual, np.float32), np.array(expected, np.float32)) == share


def test_what_layers_have_seen_stays_known_where_others_cannot_be_executed(graph, monkeypatch):
    def refuse(*_):
        raise UnsupportedOperatorError("no reference of it")

    monkeypatch.setattr(observing, "observe", refuse)
    seen = LayerSamples(np.zeros((27, 1)), Ranges(np.zeros(3), np.ones(3)))
    job = SimpleNamespace(seen=lambda node: seen if node.op_type == "Conv" else None, precision="int8", real=(),
                          generated=())
    with pytest.warns(UserWarning, match="other layers are not judged"):
        known = observing.calibrated(graph, job, lambda _: True, ["int8"])
    [(layer, told)] = known.items()
    assert (told, RANGES.get(layer)) == (seen, seen.ranges)
