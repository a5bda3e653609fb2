"""Sparse and dense products over the tiled and the padded flat layout equal numpy on every instruction set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.graph.layout import PaddedFlat, Tiled
from sparsec.kernels.cpu.images.padded import padded_rows, pixels
from sparsec.kernels.cpu.products import dense, dense_outputs, spmm
from sparsec.kernels.cpu.products.product import MODES, Tiling, pixel_mask
from sparsec.kernels.cpu.products.stencil import convolution, linear
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.targets import TARGETS, compiled, isa


def sparse(rng, shape, density):
    return np.where(rng.random(shape) < density, rng.standard_normal(shape), 0).astype(np.float32)


def family(name, tiling, **shape):
    return (spmm, spmm.SpmmParams(tiling, **shape)) if name == "csr" else (dense, dense.DenseParams(tiling, **shape))


def check(target, threads, module, params, weight, bias, inputs, expected):
    kernel = compiled(module.build(params, isa(target, threads)), target)
    y = kernel(*module.pack(weight, params).values(), bias, *inputs, out=expected.size)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


FAMILIES = [("csr", {"group": 4, "unroll": 1}), ("csr", {"group": 1, "unroll": 4, "sets": 2}),
            ("csr", {"block": 2, "group": 2, "unroll": 1}), ("csr", {"group": 3, "unroll": 1}), ("dense", {"block": 4})]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("name", "shape"), FAMILIES)
def test_linear_layer_over_tiles_of_tokens(target, threads, name, shape):
    rng, lanes = np.random.default_rng(0), isa(target).lanes
    layout = Tiled(2, 4 * lanes - 3, 37, 2 * lanes)
    tokens, weight = layout.batch * layout.tiles * layout.width, sparse(rng, (26, 37), 0.2)
    x, residual = rng.standard_normal((tokens, 37), np.float32), rng.standard_normal((tokens, 26), np.float32)
    bias = rng.standard_normal(26, np.float32)

    def tiled(values):
        return values.reshape(-1, layout.width, values.shape[1]).swapaxes(1, 2).ravel()

    tiling = Tiling(linear(layout, 26, lanes), Epilogue(residual=True), "direct", 2, 16, parts=threads)
    module, params = family(name, tiling, **shape)
    expected = tiled(x @ weight.T + bias + residual)
    check(target, threads, module, params, weight, bias, (tiled(x), tiled(residual)), expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "shape"), FAMILIES)
def test_convolution_over_padded_images(target, mode, name, shape):
    rng, lanes = np.random.default_rng(1), isa(target).lanes
    source, result = PaddedFlat(2, 7, 6, 9, 2, 11, lanes), PaddedFlat(2, 10, 6, 9, 2, 11, lanes)
    weight, bias = sparse(rng, (10, 7 * 9), 0.3), rng.standard_normal(10, np.float32)
    images = rng.standard_normal((2, 7, 6, 9), np.float32)
    x, expected = np.zeros(source.size, np.float32), np.zeros(result.size, np.float32)
    pixels(x, padded_rows(source))[...] = images
    padded = np.pad(images, [(0, 0), (0, 0), (2, 2), (2, 2)])
    columns = np.stack([padded[:, :, 2 * i:2 * i + 6, 2 * j:2 * j + 9] for i in range(3) for j in range(3)], axis=2)
    y = (weight @ columns.reshape(2, 63, 54) + bias[:, None]).reshape(2, 10, 6, 9)
    pixels(expected, padded_rows(result))[...] = np.maximum(y, 0)
    tiling = Tiling(convolution(source, result, (3, 3), (2, 2), (2, 2)), Epilogue("relu"), mode, 3, 3)
    module, params = family(name, tiling, **shape)
    check(target, 1, module, params, weight, bias, (pixel_mask(result), x), expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunk", [3, 7])
@pytest.mark.parametrize("rows", [1, 2])
def test_dense_convolution_with_outputs_on_the_lanes(target, threads, chunk, rows):
    rng, lanes = np.random.default_rng(2), isa(target).lanes
    source, result = PaddedFlat(2, 7, 4, 6, 1, 8, lanes), PaddedFlat(2, 48, 4, 6, 1, 8, lanes)
    weight, bias = rng.standard_normal((48, 63), np.float32), rng.standard_normal(48, np.float32)
    images, skip = rng.standard_normal((2, 7, 4, 6), np.float32), rng.standard_normal((2, 48, 4, 6), np.float32)
    x, residual, expected = (np.zeros(layout.size, np.float32) for layout in (source, result, result))
    pixels(x, padded_rows(source))[...] = images
    pixels(residual, padded_rows(result))[...] = skip
    padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
    columns = np.stack([padded[:, :, i:i + 4, j:j + 6] for i in range(3) for j in range(3)], axis=2)
    y = (weight @ columns.reshape(2, 63, 24) + bias[:, None]).reshape(2, 48, 4, 6) + skip
    pixels(expected, padded_rows(result))[...] = np.maximum(y, 0)
    stencil = convolution(source, result, (3, 3), (1, 1), (1, 1))
    params = dense_outputs.DenseOutputsParams(stencil, Epilogue("relu", residual=True), result, rows, 3, 2, chunk)
    check(target, threads, dense_outputs, params, weight, bias, (pixel_mask(result), x, residual), expected)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_csr_packing_keeps_every_weight(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    outputs, channels = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
    weight = sparse(rng, (outputs, channels), data.draw(st.sampled_from([0, 0.05, 0.5, 1])))
    shape = {"group": data.draw(st.sampled_from([1, 2, 4])), "unroll": data.draw(st.sampled_from([1, 2, 4]))}
    tiling = Tiling(linear(Tiled(1, 32, channels, 32), outputs, 16), Epilogue(), "direct", 2,
                    data.draw(st.integers(1, channels)), parts=data.draw(st.sampled_from([1, 2, 3])))
    params = spmm.SpmmParams(tiling, **shape)
    arrays = spmm.pack(weight, params)
    assert np.array_equal(np.sort(arrays["values"][arrays["values"] != 0]), np.sort(weight[weight != 0]))
    assert set(arrays["rows"].tolist()) - {-1} == set(range(outputs))
