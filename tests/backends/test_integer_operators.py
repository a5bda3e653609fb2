"""sparsec's operators on quantised tensors, lowered: every code is the reference's."""

import numpy as np
import pytest

from sparsec.graph.evaluate import evaluate
from tests.support.integers import OPERATORS, example
from tests.support.vm import compile_and_run


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operator", OPERATORS)
def test_lowered_operators_equal_their_references(operator, seed):
    model, feeds = example(operator, seed)
    expected, = evaluate(model, feeds)
    actual, = compile_and_run(model, feeds)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if expected.dtype == np.float32:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)
