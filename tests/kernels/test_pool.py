"""Pooling agrees with numpy for every window, border, instruction set and number of threads."""

import numpy as np
import pytest

from sparsec.kernels.cpu.tensors import pool
from sparsec.kernels.tensors import PoolParams
from tests.support.targets import TARGETS, compiled, isa

WINDOWS = [  # image, output, kernel, stride, dilation, before
    ((7, 7), (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)), ((20, 33), (10, 17), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((8, 6), (4, 3), (2, 2), (2, 2), (1, 1), (0, 0)), ((1, 50), (1, 16), (1, 5), (1, 3), (1, 1), (0, 1)),
    ((9, 40), (5, 36), (3, 3), (1, 1), (2, 2), (0, 0)), ((5, 5), (3, 3), (3, 3), (2, 2), (1, 1), (0, 0)),
    ((3, 2), (2, 2), (1, 1), (2, 2), (1, 1), (0, 0)),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_pool(window, average, target, threads):
    params, rng = PoolParams(3, *window, average=average), np.random.default_rng(0)
    x, rows, columns = (rng.standard_normal(s, "f4") for s in ((3, *params.image), *((o,) for o in params.output)))
    expected = pool.reference(x, params, rows, columns).ravel()
    run = compiled(pool.build(params, isa(target, threads)), target)
    got = run(x.ravel(), *([rows, columns] if average else []), out=expected.size)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
