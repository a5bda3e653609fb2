"""Products on narrow activations equal numpy on operands rounded alike, on every instruction set."""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels import dense, dense_bf16, spmm, spmm_bf16, spmm_int8
from sparsec.kernels.padded import padded_rows, pixels
from sparsec.kernels.product import Epilogue, Tiling, pixel_mask
from sparsec.kernels.stencil import convolution, linear
from sparsec.target import machine_features
from tests.kernels.targets import TARGETS, compiled, isa

SHAPES = [{"group": 4, "unroll": 2}, {"group": 1, "unroll": 4, "sets": 2}, {"block": 2, "group": 3, "unroll": 2}]


def bf16(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def exact(values):
    return values


def normal(rng, shape):
    return rng.standard_normal(shape, np.float32)


def extremes(rng, shape):
    """Numbers that 8 bits hold exactly, whichever of them a scale is taken over."""
    return 127 * rng.integers(-1, 2, shape).astype(np.float32)


class Numbers(NamedTuple):
    draw: Callable
    activations: Callable
    weights: Callable


PAIRED, WIDENED, INTEGERS = Numbers(normal, bf16, bf16), Numbers(normal, bf16, exact), Numbers(extremes, exact, exact)


def paired(shape):
    return lambda tiling: (spmm_bf16, spmm_bf16.SpmmBf16Params(spmm.SpmmParams(tiling, **shape), paired=True))


def widened(shape):
    return lambda tiling: (spmm_bf16, spmm_bf16.SpmmBf16Params(spmm.SpmmParams(tiling, **shape), paired=False))


def dense_pairs(tiling):
    return dense_bf16, dense_bf16.DenseBf16Params(dense.DenseParams(tiling, 4))


def integers(shape):
    shape = {**shape, "unroll": 4}
    return lambda tiling: (spmm_int8, spmm_int8.SpmmInt8Params(spmm.SpmmParams(tiling, **shape)))


def host(feature):
    missing = feature not in machine_features()
    return pytest.param("cpu", marks=pytest.mark.skipif(missing, reason=f"this processor has no {feature}"))


KERNELS = [*((host("avx512_bf16"), paired(shape), PAIRED) for shape in SHAPES),
           (host("avx512_bf16"), dense_pairs, PAIRED),
           *((host("avx512_vnni"), integers(shape), INTEGERS) for shape in SHAPES),
           *((target, widened(shape), WIDENED) for target in TARGETS for shape in SHAPES)]
KERNELS = [pytest.param(target.values[0], kernel, numbers, marks=target.marks) for target, kernel, numbers in KERNELS]


def sparse(values, rng):
    return np.where(rng.random(values.shape) < 0.3, values, 0).astype(np.float32)


def check(target, threads, kernel, tiling, weight, bias, inputs, expected):
    module, params = kernel(tiling)
    function = compiled(module.build(params, isa(target, threads)), target)
    y = function(*module.pack(weight, params).values(), bias, *inputs, out=expected.size)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("target", "kernel", "numbers"), KERNELS)
def test_linear_layer_over_tiles_of_tokens(target, kernel, numbers, threads):
    rng, lanes = np.random.default_rng(0), isa(target).lanes
    layout = Tiled(2, 4 * lanes - 3, 37, 4 * lanes)
    tokens, weight = layout.batch * layout.tiles * layout.width, sparse(numbers.draw(rng, (26, 37)), rng)
    x, residual = numbers.draw(rng, (tokens, 37)), rng.standard_normal((tokens, 26), np.float32)
    bias = rng.standard_normal(26, np.float32)

    def tiled(values):
        return values.reshape(-1, layout.width, values.shape[1]).swapaxes(1, 2).ravel()

    tiling = Tiling(linear(layout, 26, lanes), Epilogue(residual=True), "im2col", 4, 16, parts=threads)
    expected = tiled(numbers.activations(x) @ numbers.weights(weight).T + bias + residual)
    check(target, threads, kernel, tiling, weight, bias, (tiled(x), tiled(residual)), expected)


@pytest.mark.parametrize(("target", "kernel", "numbers"), KERNELS)
def test_convolution_over_padded_images(target, kernel, numbers):
    rng, lanes = np.random.default_rng(1), isa(target).lanes
    source, result = PaddedFlat(2, 7, 6, 9, 2, 11, lanes), PaddedFlat(2, 10, 6, 9, 2, 11, lanes)
    weight, bias = sparse(numbers.draw(rng, (10, 7 * 9)), rng), rng.standard_normal(10, np.float32)
    images = numbers.draw(rng, (2, 7, 6, 9))
    x, expected = np.zeros(source.size, np.float32), np.zeros(result.size, np.float32)
    pixels(x, padded_rows(source))[...] = images
    padded = np.pad(numbers.activations(images), [(0, 0), (0, 0), (2, 2), (2, 2)])
    columns = np.stack([padded[:, :, 2 * i:2 * i + 6, 2 * j:2 * j + 9] for i in range(3) for j in range(3)], axis=2)
    y = (numbers.weights(weight) @ columns.reshape(2, 63, 54) + bias[:, None]).reshape(2, 10, 6, 9)
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


@pytest.mark.skipif("avx512_vnni" not in machine_features(), reason="this processor has no avx512_vnni")
def test_8_bit_integers_err_by_half_a_step_of_each_operand():
    rng = np.random.default_rng(2)
    x, weight = normal(rng, (64, 50)) * np.exp(normal(rng, (64, 1))), sparse(normal(rng, (8, 50)), rng)
    tiling = Tiling(linear(Tiled(1, 64, 50, 64), 8, 16), Epilogue(), "im2col", 4, 50)
    module, params = integers({})(tiling)
    function = compiled(module.build(params, isa("cpu")), "cpu")
    y = function(*module.pack(weight, params).values(), np.zeros(8, np.float32), x.T.ravel(), out=512).reshape(8, 64).T
    step_x, step_w = np.abs(x).max(axis=1, keepdims=True) / 127, np.abs(weight).max(axis=1) / 127
    bound = np.abs(x) @ (weight != 0).T * step_w / 2 + step_x / 2 * np.abs(weight).sum(axis=1) + 13 * step_x * step_w
    assert (np.abs(y - x @ weight.T) <= bound).all()
