"""Kernels over rows and columns of a tensor agree with numpy for every tail, instruction set and number of threads."""

import numpy as np
import pytest

from sparsec.kernels.cpu.tensors import interleave, normalize, reduce, softmax, transpose
from sparsec.kernels.cpu.tensors.reduce import REDUCTIONS
from sparsec.kernels.tensors import InterleaveParams, NormalizeParams, ReduceParams, SoftmaxParams, TransposeParams
from tests.support.targets import TARGETS, compiled, isa

SHAPES = [(1, 1, 1), (3, 128, 1), (5, 37, 1), (2, 100, 1), (1, 21, 64), (2, 5, 19), (3, 4, 2)]  # outer, length, inner


def values(outer, length, inner):
    x = np.random.default_rng(0).standard_normal((outer, length, inner), "f4") * 4
    x[:, 1:length // 2] -= np.float32(1e4)  # as attention masks do
    return x


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(shape, log, target, threads):
    params, x = SoftmaxParams(*shape, log=log), values(*shape)
    got = compiled(softmax.build(params, isa(target, threads)), target)(x.ravel(), out=x.size)
    np.testing.assert_allclose(got, softmax.reference(x, params).ravel(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, target, threads):
    for shape in SHAPES:
        params, x = ReduceParams(name, *shape, factor=0.5), np.random.default_rng(0).uniform(0.5, 1.5, shape)
        expected = reduce.reference(x.astype("f4"), params).ravel()
        run = compiled(reduce.build(params, isa(target, threads)), target)
        np.testing.assert_allclose(run(x.astype("f4").ravel(), out=expected.size), expected, rtol=1e-5)


NORMALIZATIONS = [  # rows, length, and what scale and bias belong to
    NormalizeParams(3, 768, 1e-5), NormalizeParams(2, 19, 1e-12), NormalizeParams(1, 1, 0.1),
    NormalizeParams(6, 49, 1e-5, channels=3, run=49), NormalizeParams(4, 60, 1e-5, channels=6, run=20),
    NormalizeParams(3, 40, 1e-5, centred=False), NormalizeParams(2, 36, 1e-5, channels=2, run=18, centred=False),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("params", NORMALIZATIONS)
def test_normalization(params, target, threads):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((params.rows, params.length), "f4") + np.float32(100)
    scale, bias = rng.standard_normal((2, params.affine), "f4")
    run = compiled(normalize.build(params, isa(target, threads)), target)
    got = run(x.ravel(), scale, *([bias] if params.centred else []), out=x.size)
    np.testing.assert_allclose(got, normalize.reference(x, scale, bias, params).ravel(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 40), (1, 64, 30)])
def test_transpose(shape, target, threads):
    params, x = TransposeParams(*shape), np.arange(np.prod(shape), dtype=np.float32)
    got = compiled(transpose.build(params, isa(target, threads)), target)(x, out=x.size)
    np.testing.assert_array_equal(got, transpose.reference(x, params).ravel())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("extents", "order"), [
    ((3, 28, 2, 28, 2), (0, 3, 1, 4, 2)), ((16, 2), (1, 0)), ((5, 3, 33, 4), (2, 1, 3, 0)), ((2, 35, 8), (0, 2, 1))])
def test_a_short_axis_is_woven_behind_the_last(extents, order, target, threads):
    params, x = InterleaveParams(extents, order), np.arange(np.prod(extents), dtype=np.float32)
    got = compiled(interleave.build(params, isa(target, threads)), target)(x, out=x.size)
    np.testing.assert_array_equal(got, interleave.reference(x, params).ravel())
