"""Activity of single weights: on a path from an input to an output, or not (Vysogorets & Kempe 2023)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.analysis.liveness.analysis import active_weights, analyse
from sparsec.analysis.liveness.window import _distinct
from sparsec.graph.reader import load
from sparsec.passes.strip import strip
from tests.support.strip.brute import feeds, intermediate, matters
from tests.support.strip.nets import NETS
from tests.support.texts import model

SEEDS = st.integers(0, 1 << 16)


def activity(proto):
    graph = load(proto)
    return {weight.name: np.broadcast_to(mask, weight.shape.numpy())
            for weight, mask in active_weights(graph, analyse(graph)).items()}


@pytest.mark.parametrize("key", NETS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_active_weights_are_those_that_change_the_output(key, seed):
    proto = NETS[key](seed, constants=False)
    inputs = feeds(proto)
    for name, mask in activity(proto).items():
        np.testing.assert_array_equal(mask, matters(proto, name, inputs), err_msg=name)


@pytest.mark.parametrize("key", NETS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_known_elements_are_the_same_for_every_input(key, seed):
    proto = NETS[key](seed, constants=True)
    known = {value.name: fact for value, fact in analyse(load(proto)).known.items()}
    for values in intermediate(proto, feeds(proto, 2)):
        for name, value in values.items():
            wrong = known[name].mask & ~np.isclose(value, known[name].value, rtol=1e-4, atol=1e-5)
            assert not wrong.any(), name


FIGURE_1 = model("g (float[1,3] x) => (float[1,1] y) <float[3,3] a, float[3,3] b, float[3,1] c>"
                 "{ h1 = MatMul(x, a) r1 = Relu(h1) h2 = MatMul(r1, b) r2 = Relu(h2) y = MatMul(r2, c) }",
                 a=[[1, 0, 1], [0, 1, 0], [0, 0, 1]], b=[[1, 1, 0], [1, 0, 0], [0, 1, 0]], c=[[1], [0], [1]])


def test_figure_1():
    """21 edges, 11 pruned; 5 more touch units that no path goes through."""
    total = strip(load(FIGURE_1)).total
    assert (total.before.weights, total.before.nonzero, total.active) == (21, 10, 5)
    assert (total.direct_compression, total.effective_compression) == (2.1, 4.2)
    assert (total.after.nonzero, total.after.units) == (5, 4)


def lenet(density, seed):
    """LeNet-300-100 with uniform random masks."""
    rng = np.random.default_rng(seed)
    masks = {name: rng.permutation(np.arange(np.prod(shape)) < density * np.prod(shape)).reshape(shape)
             for name, shape in {"a": (784, 300), "b": (300, 100), "c": (100, 10)}.items()}
    return model("g (float[1,784] x) => (float[1,10] y) <float[784,300] a, float[300,100] b, float[100,10] c>"
                 "{ h1 = MatMul(x, a) r1 = Relu(h1) h2 = MatMul(r1, b) r2 = Relu(h2) y = MatMul(r2, c) }", **masks)


@pytest.mark.parametrize(("density", "least", "most"), [(0.1, 10, 11), (0.02, 150, 200), (0.01, 700, 1700)])
def test_effective_compression_of_randomly_pruned_lenet_300_100(density, least, most):
    """Figure 2 of the paper: 99 % pruned at random is compressed a thousandfold."""
    weights = 784 * 300 + 300 * 100 + 100 * 10
    compressions = [weights / max(1, sum(int(mask.sum()) for mask in activity(lenet(density, seed)).values()))
                    for seed in range(20)]
    assert least < np.median(compressions) < most


def test_biases_do_not_make_a_weight_active():
    """A unit without inputs still emits a constant; the weights that read it lie on no path."""
    proto = model("g (float[1,2] x) => (float[1,1] y) <float[2,2] a, float[2] b, float[2,1] c>"
                  "{ h = Gemm(x, a, b) r = Sigmoid(h) y = MatMul(r, c) }", a=[[1, 0], [1, 0]])
    np.testing.assert_array_equal(activity(proto)["c"], [[True], [False]])


def test_taps_that_only_see_padding_are_inactive():
    proto = model("g (float[1,1,1,1] x) => (float[1,1,1,1] y) <float[1,1,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }")
    (mask,) = activity(proto).values()
    np.testing.assert_array_equal(np.argwhere(mask[0, 0]), [[1, 1]])


def test_shared_weights_are_active_if_one_use_is():
    proto = model("g (float[1,2] x) => (float[1,2] y) <float[2,2] w, float[2] none>"
                  "{ a = MatMul(x, w) b = Mul(a, none) c = MatMul(b, w) y = Add(a, c) }", none=[0, 0])
    assert activity(proto)["w"].all()


def test_columns_that_read_the_same_are_told_apart_once():
    reads = np.repeat(np.random.default_rng(0).integers(-1, 3, (3, 40)), 5, axis=1)
    distinct, inverse = _distinct(reads)
    np.testing.assert_array_equal(distinct, np.unique(reads, axis=1))
    np.testing.assert_array_equal(distinct[:, inverse], reads)
