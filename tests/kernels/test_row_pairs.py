"""Rows in pairs: every non-zero has one place, and rows of 2:4 weights find partners that cost no empty places."""

import numpy as np
import pytest

from sparsec.kernels.packing.row_pairs import RowPairs, expected_steps


def two_of_four(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    order = np.argsort(rng.random((rows, columns // 4, 4)), axis=2)
    return np.where(order < 2, rng.random((rows, columns // 4, 4)) + 1, 0).astype(np.float32).reshape(rows, columns)


def recipe(weight, pairs, parts, chunk, shared, single):
    rows, columns = weight.shape
    groups = -(-rows // (2 * pairs * parts))
    return RowPairs(pairs, groups, shared, single, parts, chunk, -(-columns // chunk), 32, (0,), 2)


def unpacked(p, arrays, shape):
    """The weight that the arrays multiply."""
    weight = np.zeros((shape[0] + 1, p.chunks * p.chunk_columns), np.float32)
    rows = arrays["rows"].reshape(-1, p.pairs, 2)
    offsets = arrays["indices"].reshape(-1, p.pairs, p.shared + 2 * p.single).astype(int) * p.index_unit
    columns = offsets // p.channel_step
    values = arrays["values"].reshape(-1, p.pairs, p.shared + p.single, 2)
    owner = np.repeat(np.arange(len(rows)), np.diff(arrays["starts"]))
    first = (owner // p.groups % p.chunks * p.chunk_columns)[:, None, None]
    both = np.repeat(columns[:, :, :p.shared, None], 2, axis=3)
    apart = columns[:, :, p.shared:].reshape(*columns.shape[:2], p.single, 2)
    column = first[..., None] + np.concatenate([both, apart], axis=2)
    np.add.at(weight, (np.broadcast_to(rows[owner][:, :, None], column.shape), column), values)
    return weight[:shape[0], :shape[1]]


@pytest.mark.parametrize("shape", [(2, 3), (67, 100), (200, 64)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("pairs", "parts", "shared", "single"), [(1, 1, 5, 3), (2, 3, 3, 2)])
def test_every_weight_is_stored_once(shape, density, pairs, parts, shared, single):
    rng = np.random.default_rng(1)
    weight = (rng.random(shape) + 1).astype(np.float32) * (rng.random(shape) < density)
    p = recipe(weight, pairs, parts, 48, shared, single)
    np.testing.assert_array_equal(unpacked(p, p.pack(weight), shape), weight)


def test_pairs_of_2_of_4_rows_take_equally_many_steps():
    weight = two_of_four(256, 192)
    p = recipe(weight, 1, 1, 64, 5, 3)
    steps = np.diff(p.pack(weight)["starts"])
    assert np.mean(steps == 4) > 0.9
    assert np.mean(steps) == pytest.approx(expected_steps(weight, 64, 5, 3), rel=0.05)
