"""Rows matched in pairs: every non-zero has one place, pairs have more in common than chance gives, few places wait."""

import numpy as np
import pytest

from sparsec.kernels.packing.matched_rows import MatchedRows, expected_steps


def weight_of(shape, density, seed=1):
    rng = np.random.default_rng(seed)
    return (rng.random(shape) + 1).astype(np.float32) * (rng.random(shape) < density)


def recipe(weight, parts, chunk):
    rows, columns = weight.shape
    return MatchedRows(-(-rows // (2 * parts)), parts, chunk, -(-columns // chunk), 32, (0,), 2)


def places(p, arrays):
    """The (row, column, value) that the kernel multiplies, those among them that no weight fills."""
    heads = arrays["heads"].reshape(-1, 4)
    columns = arrays["indices"].astype(int) * p.index_unit // p.channel_step
    for turn, start in enumerate(arrays["starts"]):
        at, first = 2 * start, turn % p.chunks * p.chunk_columns
        for sharing, alone, *rows in heads[turn * p.pairs:(turn + 1) * p.pairs]:
            for step in range(sharing + alone):
                found = ((0, 0), (1, 0), (0, 1), (1, 2)) if step < sharing else ((0, 0), (1, 1))  # side, index
                for slot, (side, place) in enumerate(found):
                    yield rows[side], first + columns[at + place], arrays["values"][at + slot]
                at += len(found)


@pytest.mark.parametrize("shape", [(2, 3), (67, 100), (200, 64)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_weight_is_stored_once(shape, density, parts):
    weight = weight_of(shape, density)
    p = recipe(weight, parts, 48)
    stored = np.zeros((shape[0] + 1, p.chunks * p.chunk_columns), np.float32)  # the last row is none
    for row, column, value in places(p, p.pack(weight)):
        stored[row, column] += value
    np.testing.assert_array_equal(stored[:shape[0], :shape[1]], weight)


def test_places_that_no_weight_fills_read_what_their_row_reads():
    weight = weight_of((200, 96), 0.2)
    p = recipe(weight, 1, 96)
    assert all(weight[row, column] for row, column, value in places(p, p.pack(weight)))


def test_of_a_hundred_rows_each_finds_a_partner_with_a_third_of_its_columns():
    weight = weight_of((256, 448), 0.1)
    p = recipe(weight, 1, 112)
    heads = p.pack(weight)["heads"].reshape(-1, 4)
    sharing, alone = heads[:, 0].sum(), heads[:, 1].sum()
    nonzeros = np.count_nonzero(weight)
    assert 2 * (2 * sharing + alone) < 1.03 * nonzeros  # places that no weight fills
    assert sharing > 0.27 * nonzeros / 2  # of 11 non-zeros chance gives one in common
    steps = expected_steps(weight, 112)
    assert all(type(each) is float for each in steps)  # reports hold what is predicted from them
    assert steps.sharing == pytest.approx(sharing / (128 * 4), rel=0.1)
    assert 2 * steps.sharing + steps.alone == pytest.approx((2 * sharing + alone) / (128 * 4), rel=0.05)
