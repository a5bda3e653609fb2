"""MatMul of activations agrees with numpy for every broadcast, tail, instruction set and number of threads."""

import numpy as np
import pytest

from sparsec.kernels.cpu.tensors import batch_matmul
from sparsec.kernels.tensors import BatchMatmul
from tests.support.targets import TARGETS, compiled, isa

SHAPES = [  # A, B
    ((1, 1), (1, 1)), ((2, 3), (3, 5)), ((1, 40), (40, 100)), ((7, 64), (64, 64)), ((50, 33), (33, 49)),
    ((3, 5, 7), (7, 20)), ((2, 3, 30, 8), (2, 3, 8, 130)), ((4, 1, 9, 5), (3, 5, 17)), ((13, 6), (2, 6, 16)),
    ((37, 100), (100, 1)), ((5, 9, 64), (5, 64, 1)), ((2, 1, 3, 7), (4, 7, 1)),
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("columns", [1, 20])
def test_chosen_matrices_are_read_where_they_lie(columns, side, target):
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal((4, 9, 33), "f4"), rng.standard_normal((4, 33, columns), "f4")]
    positions = np.array([3, 0, 0, 2, 1, 3])
    operands[1 - side] = operands[1 - side][[0, 1, 2, 3, 2, 1]]
    buffers = [[each.ravel()] for each in operands]
    buffers[side].append(positions)
    seen = list(operands)
    seen[side] = operands[side][positions]
    shape = BatchMatmul.of_shapes(seen[0].shape, seen[1].shape, (4, 0) if side == 0 else (0, 4))
    run = compiled(batch_matmul.build(shape, isa(target, 1)), target)
    actual = run(*buffers[0], *buffers[1], out=6 * 9 * columns)
    np.testing.assert_allclose(actual, batch_matmul.reference(*seen, shape).ravel(), rtol=1e-5, atol=1e-5)
