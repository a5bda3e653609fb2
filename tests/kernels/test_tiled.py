"""The kernels over tokens in the tiled layout agree with numpy on every instruction set; padding tokens are NaN."""

import numpy as np
import pytest

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.tensors import layer_norm, reformat_tiled
from sparsec.kernels.cpu.tensors.layer_norm import LayerNormParams
from sparsec.kernels.cpu.tensors.reformat_tiled import ReformatTiledParams, tile, untile
from tests.support.targets import TARGETS, compiled, isa

LAYOUTS = [  # batch, tokens, features, width
    Tiled(1, 64, 48, 64), Tiled(2, 37, 50, 16), Tiled(1, 70, 33, 32), Tiled(3, 5, 3, 16), Tiled(1, 1, 1, 16),
]


def tokens(layout, rng):
    return rng.standard_normal((layout.batch, layout.tokens, layout.features)).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_reformat_is_the_identity_on_tokens(layout, into, threads, target):
    params = ReformatTiledParams(layout, into)
    x = tokens(layout, np.random.default_rng(0))
    source, size = (x.ravel(), layout.size) if into else (tile(x, layout), x.size)
    result = compiled(reformat_tiled.build(params, isa(target, threads)), target)(source, out=size)
    np.testing.assert_array_equal(untile(result, layout) if into else result.reshape(x.shape), x)
    assert np.isfinite(result).all()  # padding, too, which products compute on


CODES = [Tiled(1, 70, 150, 64, "uint8"), Tiled(2, 37, 64, 16, "uint8"), Tiled(3, 5, 70, 16, "uint8"),
         Tiled(1, 64, 20, 64, "uint8")]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("into", [True, False])
@pytest.mark.parametrize("layout", CODES, ids=str)
def test_codes_are_copied_too(layout, into, dtype, target):
    x = np.random.default_rng(0).integers(0, 256, (layout.batch, layout.tokens, layout.features)).astype(np.uint8)
    plain = x if dtype == "uint8" else (x ^ 128).view(np.int8)
    tiled = np.nan_to_num(tile(x.astype(np.float32), layout)).astype(np.uint8)
    run = compiled(reformat_tiled.build(ReformatTiledParams(layout, into, dtype), isa(target)), target)
    if into:
        np.testing.assert_array_equal(untile(run(plain.ravel(), out=layout.size, dtype=np.uint8), layout), x)
    else:
        np.testing.assert_array_equal(run(tiled, out=x.size, dtype=dtype).reshape(x.shape), plain)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_layer_norm(layout, threads, target):
    rng = np.random.default_rng(0)
    params = LayerNormParams(layout, epsilon=1e-3)
    x, (scale, bias) = tokens(layout, rng) + 100, rng.standard_normal((2, layout.features)).astype(np.float32)
    run = compiled(layer_norm.build(params, isa(target, threads)), target)
    y = untile(run(scale, bias, tile(x, layout), out=layout.size), layout)
    np.testing.assert_allclose(y, layer_norm.reference(x, scale, bias, params), rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_layer_norm_keeps_what_its_result_ranges_over(threads, target):
    rng = np.random.default_rng(0)
    layout = Tiled(1, 64, 10, 32)
    params = LayerNormParams(layout, ranged=True)
    x, (scale, bias) = tokens(layout, rng), rng.standard_normal((2, layout.features)).astype(np.float32)
    kernel, (units, _) = layer_norm.build(params, isa(target, threads)), params.units(isa(target, threads))
    y = np.empty(layout.size, np.float32)
    ends = compiled(kernel, target)(scale, bias, tile(x, layout), y, out=2 * units * isa(target).lanes)
    found = ends.reshape(units, 2, -1)
    expected = layer_norm.reference(x, scale, bias, params)
    np.testing.assert_allclose([found[:, 0].min(), found[:, 1].max()],
                               [min(0, expected.min()), max(0, expected.max())], rtol=1e-4)
