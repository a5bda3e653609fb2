"""Products on narrow activations equal numpy on operands rounded alike, on every instruction set."""

import ml_dtypes
import numpy as np
import pytest

from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels import dense, dense_bf16, spmm, spmm_bf16
from sparsec.kernels.padded import padded_rows, pixels
from sparsec.kernels.product import Epilogue, Tiling, pixel_mask
from sparsec.kernels.stencil import convolution, linear
from sparsec.target import machine_features
from tests.kernels.targets import TARGETS, compiled, isa

HOST = pytest.param("cpu", marks=pytest.mark.skipif(
    "avx512_bf16" not in machine_features(), reason="this processor has no AVX512_BF16"))
SHAPES = [{"group": 4, "unroll": 2}, {"group": 1, "unroll": 4, "sets": 2}, {"block": 2, "group": 3, "unroll": 2}]


def bf16(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def exact(values):
    return values


def paired(shape):
    return lambda tiling: (spmm_bf16, spmm_bf16.SpmmBf16Params(spmm.SpmmParams(tiling, **shape), paired=True))


def widened(shape):
    return lambda tiling: (spmm_bf16, spmm_bf16.SpmmBf16Params(spmm.SpmmParams(tiling, **shape), paired=False))


def dense_pairs(tiling):
    return dense_bf16, dense_bf16.DenseBf16Params(dense.DenseParams(tiling, 4))


KERNELS = [*((HOST, paired(shape), bf16) for shape in SHAPES), (HOST, dense_pairs, bf16),
           *((target, widened(shape), exact) for target in TARGETS for shape in SHAPES)]
KERNELS = [pytest.param(target.values[0], kernel, rounded, marks=target.marks) for target, kernel, rounded in KERNELS]


def sparse(rng, shape):
    return np.where(rng.random(shape) < 0.3, rng.standard_normal(shape), 0).astype(np.float32)


def check(target, threads, kernel, tiling, weight, bias, inputs, expected):
    module, params = kernel(tiling)
    function = compiled(module.build(params, isa(target, threads)), target)
    y = function(*module.pack(weight, params).values(), bias, *inputs, out=expected.size)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("target", "kernel", "rounded"), KERNELS)
def test_linear_layer_over_tiles_of_tokens(target, kernel, rounded, threads):
    rng, lanes = np.random.default_rng(0), isa(target).lanes
    layout = Tiled(2, 4 * lanes - 3, 37, 4 * lanes)
    tokens, weight = layout.batch * layout.tiles * layout.width, sparse(rng, (26, 37))
    x, residual = rng.standard_normal((tokens, 37), np.float32), rng.standard_normal((tokens, 26), np.float32)
    bias = rng.standard_normal(26, np.float32)

    def tiled(values):
        return values.reshape(-1, layout.width, values.shape[1]).swapaxes(1, 2).ravel()

    tiling = Tiling(linear(layout, 26, lanes), Epilogue(residual=True), "im2col", 2, 16, parts=threads)
    expected = tiled(bf16(x) @ rounded(weight).T + bias + residual)
    check(target, threads, kernel, tiling, weight, bias, (tiled(x), tiled(residual)), expected)


@pytest.mark.parametrize(("target", "kernel", "rounded"), KERNELS)
def test_convolution_over_padded_images(target, kernel, rounded):
    rng, lanes = np.random.default_rng(1), isa(target).lanes
    source, result = PaddedFlat(2, 7, 6, 9, 2, 11, lanes), PaddedFlat(2, 10, 6, 9, 2, 11, lanes)
    weight, bias = sparse(rng, (10, 7 * 9)), rng.standard_normal(10, np.float32)
    images = rng.standard_normal((2, 7, 6, 9), np.float32)
    x, expected = np.zeros(source.size, np.float32), np.zeros(result.size, np.float32)
    pixels(x, padded_rows(source))[...] = images
    padded = np.pad(bf16(images), [(0, 0), (0, 0), (2, 2), (2, 2)])
    columns = np.stack([padded[:, :, 2 * i:2 * i + 6, 2 * j:2 * j + 9] for i in range(3) for j in range(3)], axis=2)
    y = (rounded(weight) @ columns.reshape(2, 63, 54) + bias[:, None]).reshape(2, 10, 6, 9)
    pixels(expected, padded_rows(result))[...] = np.maximum(y, 0)
    tiling = Tiling(convolution(source, result, (3, 3), (2, 2), (2, 2)), Epilogue("relu"), "im2col", 4, 4)
    check(target, 1, kernel, tiling, weight, bias, (pixel_mask(result), x), expected)


def test_rounding_to_bf16_keeps_ties_infinities_and_nan():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-30] * 8, np.float32)
    stencil = linear(Tiled(1, 64, 1, 64), 1, 4)
    _, params = widened({"unroll": 1})(Tiling(stencil, Epilogue(), "im2col", 2, 1))
    function = compiled(spmm_bf16.build(params, isa("cpu-generic")), "cpu-generic")
    ones = spmm_bf16.pack(np.ones((1, 1), np.float32), params)
    one = function(*ones.values(), np.zeros(1, np.float32), values, out=64)
    np.testing.assert_array_equal(one, bf16(values))
