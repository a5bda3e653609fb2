"""Products on narrow activations equal their numpy references, on every instruction set and form of them."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels.cpu.images.padded import padded_rows, pixels
from sparsec.kernels.cpu.products import dense, dense_bf16, spmm, spmm_bf16, spmm_int8
from sparsec.kernels.cpu.products.product import Tiling, pixel_mask
from sparsec.kernels.cpu.products.stencil import convolution, linear
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import machine_features, resolve
from tests.support.targets import TARGETS, compiled, isa

SHAPES = [{"group": 4, "unroll": 2}, {"group": 1, "unroll": 4, "sets": 2}, {"block": 2, "group": 3, "unroll": 2}]
AVX_VNNI = replace(resolve("cpu-avx2"), name="avx-vnni", mcpu="alderlake",
                   features=resolve("cpu-avx2").features | {"avx_vnni"})


def paired(tiling, shape, _target):
    return spmm_bf16, spmm_bf16.SpmmBf16Params(spmm.SpmmParams(tiling, **shape), paired=True)


def widened(tiling, shape, _target):
    return spmm_bf16, spmm_bf16.SpmmBf16Params(spmm.SpmmParams(tiling, **shape), paired=False)


def integers(tiling, shape, target, **static):
    shape = {**shape, "unroll": 4}
    return spmm_int8, spmm_int8.SpmmInt8Params(spmm.SpmmParams(tiling, **shape), 8 if isa(target).vnni else 7, **static)


def static_integers(tiling, shape, target):
    """Ranges that differ from channel to channel and that the activations leave now and then."""
    span = np.linspace(0.5, 3, tiling.stencil.channels, dtype=np.float32)
    return integers(tiling, shape, target, static=True, ranges=spmm_int8.Ranges(-span, span[::-1]))


def dense_pairs(tiling, _shape, _target):
    return dense_bf16, dense_bf16.DenseBf16Params(dense.DenseParams(tiling, 4))


def host(target, *features):
    missing = set(features) - machine_features()
    return pytest.param(target, marks=pytest.mark.skipif(bool(missing), reason=f"this processor has no {missing}"))


BYTES = [host("cpu", "avx512_vnni"), host(AVX_VNNI, "avx_vnni"),
         *(target for target in TARGETS if isa(target.values[0]).int8)]
KERNELS = [*((host("cpu", "avx512_bf16"), paired, shape) for shape in SHAPES),
           (host("cpu", "avx512_bf16"), dense_pairs, {}),
           *((target, form, shape) for target in BYTES for form in (integers, static_integers) for shape in SHAPES),
           *((target, widened, shape) for target in TARGETS for shape in SHAPES)]
KERNELS = [pytest.param(target.values[0], kernel, shape, marks=target.marks) for target, kernel, shape in KERNELS]


def sparse(shape, rng):
    return np.where(rng.random(shape) < 0.3, rng.standard_normal(shape), 0).astype(np.float32)


def check(target, threads, kernel, shape, tiling, weight, bias, inputs, columns, place):
    """Run the kernel; `place` makes its output of the products (outputs, n) of the columns (inner, n)."""
    module, params = kernel(tiling, shape, target)
    expected = place(module.reference(weight, columns, params) + bias[:, None])
    function = compiled(module.build(params, isa(target, threads)), target)
    y = function(*module.pack(weight, params).values(), bias, *inputs, out=expected.size)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("threads", "vectors"), [(1, 5), (2, 4)])
@pytest.mark.parametrize(("target", "kernel", "shape"), KERNELS)
def test_linear_layer_over_tiles_of_tokens(target, kernel, shape, threads, vectors):
    rng, lanes = np.random.default_rng(0), isa(target).lanes
    layout = Tiled(2, vectors * lanes - 3, 37, vectors * lanes)
    tokens, weight = layout.batch * layout.tiles * layout.width, sparse((26, 37), rng)
    x, residual = rng.standard_normal((tokens, 37), np.float32), rng.standard_normal((tokens, 26), np.float32)
    bias = rng.standard_normal(26, np.float32)

    def tiled(values):
        return values.reshape(-1, layout.width, values.shape[1]).swapaxes(1, 2).ravel()

    tiling = Tiling(linear(layout, 26, lanes), Epilogue(residual=True), "im2col", vectors, 16, parts=threads)
    check(target, threads, kernel, shape, tiling, weight, bias, (tiled(x), tiled(residual)), x.T,
          lambda y: tiled(y.T + residual))


@pytest.mark.parametrize(("target", "kernel", "shape"), KERNELS)
def test_convolution_over_padded_images(target, kernel, shape):
    rng, lanes = np.random.default_rng(1), isa(target).lanes
    source, result = PaddedFlat(2, 7, 6, 9, 2, 11, lanes), PaddedFlat(2, 10, 6, 9, 2, 11, lanes)
    tiling = Tiling(convolution(source, result, (3, 3), (2, 2), (2, 2)), Epilogue("relu"), "im2col", 4, 7)
    weight, bias = sparse((10, 7 * 9), rng), rng.standard_normal(10, np.float32)
    images = rng.standard_normal((2, 7, 6, 9), np.float32)
    x = np.zeros(source.size, np.float32)
    pixels(x, padded_rows(source))[...] = images
    seen = np.pad(images, [(0, 0), (0, 0), (2, 2), (2, 2)])
    taps = np.stack([seen[:, :, 2 * i:2 * i + 6, 2 * j:2 * j + 9] for i in range(3) for j in range(3)], axis=2)

    def place(y):
        expected = np.zeros(result.size, np.float32)
        pixels(expected, padded_rows(result))[...] = np.maximum(y, 0).reshape(10, 2, 6, 9).swapaxes(0, 1)
        return expected

    check(target, 1, kernel, shape, tiling, weight, bias, (pixel_mask(result), x),
          taps.reshape(2, 63, 54).swapaxes(0, 1).reshape(63, -1), place)


def test_rounding_to_bf16_keeps_ties_infinities_and_nan():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-30] * 8, np.float32)
    stencil = linear(Tiled(1, 64, 1, 64), 1, 4)
    _, params = widened(Tiling(stencil, Epilogue(), "im2col", 2, 1), {"unroll": 1}, "cpu-generic")
    function = compiled(spmm_bf16.build(params, isa("cpu-generic")), "cpu-generic")
    ones = spmm_bf16.pack(np.ones((1, 1), np.float32), params)
    one = function(*ones.values(), np.zeros(1, np.float32), values, out=64)
    np.testing.assert_array_equal(one, values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("bits", [7, 8])
def test_integers_err_by_half_a_step_of_each_operand(bits):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((64, 50)) * np.exp(rng.standard_normal((64, 1)))).astype(np.float32)
    weight = sparse((8, 50), rng)
    tiling = Tiling(linear(Tiled(1, 64, 50, 64), 8, 16), Epilogue(), "im2col", 4, 50)
    y = spmm_int8.reference(weight, x.T, spmm_int8.SpmmInt8Params(spmm.SpmmParams(tiling), bits)).T
    step_x = np.abs(x).max(axis=1, keepdims=True) / (2**(bits - 1) - 1)
    step_w = np.abs(weight).max(axis=1) / 127
    bound = np.abs(x) @ (weight != 0).T * step_w / 2 + step_x / 2 * np.abs(weight).sum(axis=1) + 13 * step_x * step_w
    assert (np.abs(y - x @ weight.T) <= bound).all()


@pytest.mark.parametrize("value", [1e30, -1e30, np.inf, np.nan])
def test_what_static_ranges_leave_out_saturates(value):
    target = TARGETS[1].values[0]
    tiling = Tiling(linear(Tiled(1, 32, 2, 32), 4, 8), Epilogue(), "im2col", 4, 2)
    module, params = static_integers(tiling, {}, target)
    weight = np.eye(4, 2, dtype=np.float32)
    function = compiled(module.build(params, isa(target)), target)
    x = np.full(64, value, np.float32)
    y = function(*module.pack(weight, params).values(), np.zeros(4, np.float32), x, out=128)
    assert np.abs(y).max() <= 3.1
