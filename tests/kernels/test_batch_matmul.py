"""MatMul of activations agrees with numpy for every broadcast, tail, instruction set and number of threads."""

import numpy as np
import pytest

from sparsec.kernels.cpu.tensors import batch_matmul
from sparsec.kernels.tensors import BatchMatmul
from tests.support.targets import TARGETS, compiled, isa

SHAPES = [  # A, B
    ((1, 1), (1, 1)), ((2, 3), (3, 5)), ((1, 40), (40, 100)), ((7, 64), (64, 64)), ((50, 33), (33, 49)),
    ((3, 5, 7), (7, 20)), ((2, 3, 30, 8), (2, 3, 8, 130)), ((4, 1, 9, 5), (3, 5, 17)), ((13, 6), (2, 6, 16)),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_product_agrees_with_numpy(a_shape, b_shape, target, threads):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(a_shape, "f4"), rng.standard_normal(b_shape, "f4")
    shape = BatchMatmul.of_shapes(a_shape, b_shape)
    expected = batch_matmul.reference(a, b, shape)
    run = compiled(batch_matmul.build(shape, isa(target, threads)), target)
    np.testing.assert_allclose(run(a.ravel(), b.ravel(), out=expected.size), expected.ravel(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(expected.ravel(), (a.astype("f8") @ b.astype("f8")).ravel())
