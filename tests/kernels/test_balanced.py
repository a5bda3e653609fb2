"""Threads get about equally much work."""

import numpy as np

from sparsec.kernels.packing.recipe import balanced


def test_parts_are_balanced_and_complete():
    first = np.concatenate([[0], np.cumsum([9, 1, 1, 1, 9, 9, 0, 0])])
    assert balanced(first, 1).tolist() == [0, 8]
    assert balanced(first, 3).tolist() == [0, 2, 5, 8]
    assert balanced(np.zeros(5, int), 2).tolist() == [0, 0, 4]
