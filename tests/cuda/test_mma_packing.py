"""Packing for tensor cores is exactly reversible, and what is not 2:4 is refused with a reason."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.errors import FormatError
from sparsec.kernels.cuda import fragments, metadata
from sparsec.kernels.cuda.params import MmaParams
from tests.support.cuda.products import SMALL, weight_index

SHAPES = {"m": st.integers(1, 70), "k": st.integers(1, 40).map(lambda groups: 4 * groups), "seed": st.integers(0, 9)}


@given(**SHAPES)
def test_positions_rise_within_a_group(m, k, seed):
    weight = weight_index(np.random.default_rng(seed), MmaParams(m, 1, k, SMALL), "2:4")
    values, positions = metadata.compress(weight)
    assert (positions[:, 0::2] < positions[:, 1::2]).all()
    np.testing.assert_array_equal(metadata.expand(values, positions), weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
def test_a_group_keeps_its_non_zeros_and_its_lowest_zeros(dtype):
    weight = np.array([[0, 0, 0, 0, 0, 0, 0, 5, 0, 6, 0, 0, 7, 0, 8, 0, 0, 0, -0.0, 9]]).astype(dtype)
    values, positions = metadata.compress(weight)
    assert positions.tolist() == [[0, 1, 0, 3, 0, 1, 0, 2, 0, 3]]
    assert values.astype(int).tolist() == [[0, 0, 0, 5, 0, 6, 7, 8, 0, 9]]


@pytest.mark.parametrize(("itemsize", "row", "group", "lane", "bit"), [
    (2, 0, 0, 0, 0), (2, 8, 0, 0, 16), (2, 16, 0, 2, 0), (2, 3, 5, 13, 4), (2, 31, 7, 31, 28),
    (1, 0, 0, 0, 0), (1, 8, 0, 1, 0), (1, 2, 9, 10, 4), (1, 15, 15, 31, 28),
])
def test_words_lie_where_the_instruction_looks(itemsize, row, group, lane, bit):
    positions = np.tile(np.array([0, 1], np.uint8), (32, 16 // itemsize))
    positions[row, 2 * group:2 * group + 2] = 2, 3
    expected = np.full(32, 0x44444444, np.uint32)
    expected[lane] ^= np.uint32((0b1110 ^ 0b0100) << bit)
    np.testing.assert_array_equal(metadata.pack(positions, itemsize)[0, 0], expected)


def test_words_of_bytes_lie_where_cutlass_has_them_for_warp_groups():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, (64, 16))
    pairs = np.stack([first, rng.integers(first + 1, 4)], axis=2).astype(np.uint8)  # of 64 rows and 16 groups
    words = metadata.pack(pairs.reshape(64, 32), 1)  # of four warps
    for thread in range(128):
        # ELayout_64x64: ((2, 2, 8, 4), 32) threads and inputs with strides ((8, 2048, 1, 16), 64) over rows first.
        at = thread % 2 * 8 + thread // 2 % 2 * 2048 + thread // 4 % 8 + thread // 32 * 16
        row, group = at % 64, at // 64 // 4
        expected = sum(int(low | high << 2) << 4 * i for i, (low, high) in enumerate(pairs[row, group:group + 8]))
        assert words[thread // 32, 0, thread % 32] == expected


def test_a_fragment_gives_a_lane_its_sixteen_bytes():
    matrix = np.arange(16 * 16, dtype=np.float16).reshape(16, 16)
    g, t = 3, 2
    expected = [matrix[row, column + 2 * t + i] for column in (0, 8) for row in (g, g + 8) for i in range(2)]
    np.testing.assert_array_equal(fragments.pack(matrix)[0, 0, 4 * g + t], expected)


@pytest.mark.parametrize(("weight", "reason"), [
    (np.ones((2, 8)), "4 groups of 4 hold more than 2"),
    (np.zeros((2, 6)), "not a multiple of 4"),
    (np.zeros((2, 2, 4)), "3 dimensions"),
])
def test_what_is_not_two_of_four_is_refused(weight, reason):
    assert reason in metadata.reject(weight)
    with pytest.raises(FormatError, match=reason):
        metadata.compress(weight)
