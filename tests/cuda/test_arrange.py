"""Weights arranged as 2:4 multiply to the same product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.kernels.cuda import arrange

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1))


def is_24(weight):
    return (np.count_nonzero(weight.reshape(len(weight), -1, 4), axis=2) <= 2).all()


@pytest.mark.parametrize("size", [6, 8])
@given(shape=SIZES)
def test_windows_keep_every_weight(size, shape):
    rows, groups, seed = shape
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 9, (rows, groups, size))
    np.put_along_axis(weight, np.argsort(rng.random(weight.shape), axis=2)[..., :2], 0, axis=2)
    weight, x = weight.reshape(rows, -1), rng.integers(-9, 9, (groups * size, 3))
    found = arrange.windows(weight, size)
    assert is_24(found.of(weight))
    assert (found.of(weight) @ x[found.gather] == weight @ x).all()


@given(shape=SIZES)
def test_a_permutation_is_lossless_or_has_a_reason(shape):
    rows, groups, seed = shape
    rng = np.random.default_rng(seed)
    weight = arrange.project(rng.integers(1, 9, (rows, groups * 4)))[:, rng.permutation(groups * 4)]
    found = arrange.permuted(weight)
    if isinstance(found, str):
        assert "two of four" in found
        return
    assert is_24(found.of(weight))
    assert sorted(found.gather) == list(range(groups * 4))
    assert (found.of(weight) == weight[:, found.gather]).all()


@given(shape=SIZES)
def test_projection_keeps_the_two_largest(shape):
    rows, groups, seed = shape
    weight = np.random.default_rng(seed).standard_normal((rows, groups * 4))
    kept = arrange.project(weight)
    magnitudes = np.sort(np.abs(weight).reshape(rows, groups, 4), axis=2)[..., 2:]
    assert is_24(kept)
    assert (np.sort(np.abs(kept).reshape(rows, groups, 4), axis=2)[..., 2:] == magnitudes).all()


@pytest.mark.parametrize(("how", "weight", "reason"), [
    (arrange.plain, np.ones((2, 6)), "K = 6 is not a multiple of 4"),
    (arrange.plain, np.ones((2, 8)), "4 of 4 groups have more than 2"),
    (arrange.permuted, np.ones((2, 6)), "K = 6 is not a multiple of 4"),
    (arrange.permuted, np.ones((2, 8)), "more than 2 of 4 weights are non-zeros"),
    (lambda w: arrange.windows(w, 6), np.ones((2, 8)), "K = 8 is not a multiple of 6"),
    (lambda w: arrange.windows(w, 6), np.ones((2, 6)), "more than 4 non-zeros of 6"),
])
def test_reasons(how, weight, reason):
    assert reason in how(weight)
