"""The arithmetic of layer-wise pruning: the sweep, its factor, what is refitted, rounded, and matched."""

import numpy as np
import pytest

from sparsec.oneshot.criteria.moments import Grid, Moments, factor
from sparsec.oneshot.criteria.obs import loss, obs, sweep
from sparsec.oneshot.criteria.refit import refit
from sparsec.oneshot.matching import matched
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.statistics import Measured, measure
from sparsec.oneshot.weights import layers
from tests.support.texts import model

RNG = np.random.default_rng(0)


def test_layers_that_read_the_same_share_its_moments_and_their_decomposition():
    proto = model("""g (float[N,8] x) => (float[N,8] y) <float[8,8] a, float[8,8] b, float[8,8] c> {
        p = MatMul(x, a) q = MatMul(x, b) r = Mul(p, q) y = MatMul(r, c) }""")
    values = {"x": [RNG.standard_normal((20, 8), np.float32)], "r": [RNG.standard_normal((20, 8), np.float32)]}
    measured = Measured()
    first, second, third = (measured.of(layer, values[layer.input]) for layer in layers(proto)[0])
    assert first is second is not third
    factors = [each.moments([None])[0].factor for each in (first, second)]
    assert factors[0] is factors[1]
    np.testing.assert_allclose(third.hessian[0], np.einsum("pi,pj->ij", values["r"][0], values["r"][0]) / 20, rtol=1e-5)


@pytest.mark.parametrize("form", ["unstructured", "2:4", "2x2"])
@pytest.mark.parametrize("block", [32, 64])
def test_blocked_sweep_equals_the_unblocked(form, block):
    x = RNG.standard_normal((200, 100)) @ RNG.standard_normal((100, 100))
    weight, upper = RNG.standard_normal((12, 100)), factor(x.T @ x / 200)
    whole, parts = (sweep(weight, weight != 0, upper, pattern(form), 0.5, size) for size in (100, block))
    np.testing.assert_allclose(parts, whole, atol=1e-9)


def test_factor_is_of_the_damped_inverse():
    x = RNG.standard_normal((50, 20))
    hessian = x.T @ x / 50
    upper = factor(hessian)
    damped = hessian + 0.01 * hessian.diagonal().mean() * np.eye(20)
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(20), atol=1e-8)
    assert not np.tril(upper, -1).any()


def test_refit_has_no_gradient_on_kept_weights():
    x, weight = RNG.standard_normal((60, 24)), RNG.standard_normal((5, 24))
    hessian = x.T @ x / 60
    kept = RNG.random((5, 24)) < 0.4
    change = refit(np.where(kept, weight, 0), weight, hessian, 0.0) - weight
    np.testing.assert_allclose((change @ hessian)[kept], 0, atol=1e-8)


def test_conjugate_gradients_come_near_the_exact_refit():
    x, weight = RNG.standard_normal((200, 40)) @ RNG.standard_normal((40, 40)), RNG.standard_normal((5, 40))
    hessian, start = x.T @ x / 200, np.where(RNG.random((5, 40)) < 0.4, weight, 0).astype(np.float32)
    exact, near = (refit(start, weight, hessian, 0.01, exact=work) for work in (1e9, 0))
    lost = [float(np.sum((each - weight) @ hessian * (each - weight))) for each in (start, near, exact)]
    assert not near[start == 0].any()
    assert lost[2] <= 1.001 * lost[1] < 1.01 * lost[2] < 0.7 * lost[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
def test_rounding_loses_no_more_than_in_the_sweep_or_after_it(step, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((200, 40)) @ rng.standard_normal((40, 40)), rng.standard_normal((8, 40))
    hessian, grid = x.T @ x / 200, Grid(np.full(8, step), np.full(8, -8 * step), np.full(8, 7 * step))
    moments, half = Moments(hessian, grid), pattern("unstructured")
    found = obs(weight, moments, half, 0.5)
    assert np.mean(found == 0) >= 0.5
    np.testing.assert_array_equal(found, (np.rint(found / step) * step).clip(-8 * step, 7 * step))
    swept = sweep(weight, weight != 0, moments.factor, half, 0.5, 128, grid)
    free = obs(weight, Moments(hessian), half, 0.5)
    after = np.stack([grid.nearest(column) for column in free.T], 1)
    assert loss(found, weight, hessian) == min(loss(each, weight, hessian) for each in (swept, after))


def test_matched_weights_are_the_least_squares_of_the_dense_outputs():
    layer = layers(model("g (float[N,20] x) => (float[N,6] y) <float[20,6] a> { y = MatMul(x, a) }"))[0][0]
    weight = RNG.standard_normal((1, 6, 20)).astype(np.float32)
    x, noise = RNG.standard_normal((2, 400, 20)).astype(np.float32)
    z = x @ (np.eye(20) + 0.2 * RNG.standard_normal((20, 20))).astype(np.float32) + 0.1 * noise
    found = matched(weight, layer, [x], [z], measure(layer, [z]))[0]
    added = 0.01 * np.square(z).mean()
    rows = np.concatenate([z / 20, np.sqrt(added) * np.eye(20)])  # the mean over 400 positions, and the damping
    wanted = np.concatenate([x @ weight[0].T / 20, np.sqrt(added) * weight[0].T])
    least, trust = np.linalg.lstsq(rows, wanted, rcond=None)[0].T, 400 / (400 + 2 * 20)
    np.testing.assert_allclose(found, weight[0] + trust * (least - weight[0]), atol=1e-3)
    assert matched(weight, layer, [x], [x.copy()], measure(layer, [x])) is weight
