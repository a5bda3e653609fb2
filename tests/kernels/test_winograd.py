"""Winograd's convolution on images of any size: odd ones, of part of a vector and of several, in place and in parts."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.images.padded import padded_rows, pixels
from sparsec.kernels.cpu.products.layer import StencilProduct
from sparsec.kernels.cpu.products.stencil import convolution
from sparsec.kernels.cpu.products.winograd import FAMILY
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.winograd import combined, reduced
from sparsec.kernels.packing.winograd import G
from sparsec.target import resolve
from tests.support.padded import assert_same, flat, images_like, run_guarded
from tests.support.targets import TARGETS, compiled, isa

SIZES = {"7x7": (7, 7, 1, 5), "one pixel": (1, 1, 1, 4), "one row": (1, 19, 2, 9), "4x4": (4, 4, 1, 16),
         "14x14": (14, 14, 1, 6), "rows of three vectors": (3, 67, 1, 4), "wide padding": (6, 9, 3, 7),
         "exact rows": (2, 32, 1, 4)}
DILATED = {"14x14": (14, 14, 6, (2, 2)), "7x7": (7, 7, 5, (4, 4)), "one column": (9, 1, 4, (3, 2)),
           "28x28": (28, 28, 4, (4, 4)), "rows of three vectors": (5, 67, 4, (1, 8))}
CHANNELS = 3


def convolved(x, weight, bias, residual, dilation=(1, 1)):
    """The plain convolution in double precision."""
    down, across = dilation
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (down, down), (across, across)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (2 * down + 1, 2 * across + 1), (1, 2))
    seen = seen[..., ::down, ::across]
    return np.einsum("chwij,ocij->ohw", seen, weight) + bias[:, None, None] + residual[0]


def test_transforms_along_a_side_are_two_sums_of_three_products():
    d, w = np.random.default_rng(0).standard_normal((2, 4))
    np.testing.assert_allclose(reduced(G @ w[:3] * combined(d)), [d[:3] @ w[:3], d[1:] @ w[:3]])


def problem(size, lanes, *, clean, dilation=(1, 1), groups=1):
    """A layer without activation, its flat input and residual, and what it computes."""
    height, width, pad, outputs = SIZES[size] if isinstance(size, str) else size
    source = PaddedFlat(1, CHANNELS * groups, height, width, pad, width + pad, lanes)
    target = replace(source, channels=outputs, clean=clean)
    rng = np.random.default_rng(0)
    bias = rng.standard_normal(outputs, np.float32)
    weight = rng.standard_normal((outputs, CHANNELS * groups, 3, 3), np.float32)
    weight[np.arange(outputs)[:, None] * groups // outputs != np.arange(CHANNELS * groups) // CHANNELS] = 0
    layer = StencilProduct(weight.reshape(outputs, -1), bias, convolution(source, target, (3, 3), dilation, dilation),
                           Epilogue(residual=True, in_place=clean), target, groups=groups)
    x, residual = images_like(source), images_like(target, 1)
    return layer, source, x, residual, convolved(x, weight, bias, residual, dilation)


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("clean", [True, False], ids=["in place", "apart"])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_convolved_within_its_buffers(size, clean, target):
    features = isa(target, 1 + len(size) % 2)
    options = offered(problem(size, features.lanes, clean=clean)[0], target, features)
    computes(target, features, problem(size, features.lanes, clean=clean), options[::2], clean=clean)  # of every width


def offered(layer, target, features):
    options = FAMILY.offers(layer, resolve(target), features, "fp32")
    assert not isinstance(options, str), options
    return options


def computes(target, features, given, options, *, clean):
    """Every option computes the convolution, inside its buffers, and leaves what is to be clean so."""
    layer, source, x, residual, expected = given
    for option in options:
        kernel = call(layer, option, features)
        inputs = [flat(x, source), flat(residual, layer.target)]
        if kernel.in_place:
            y = compiled(kernel.kernel, target)(*kernel.constants, inputs[0], out=inputs[1].size, inside=inputs[1])
        else:
            y = run_guarded(kernel.kernel, target, *kernel.constants, *inputs, out=layer.target.size)
        found = pixels(y, padded_rows(layer.target))[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        if clean:
            assert_same(y, flat(found[None], layer.target))


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("size", DILATED)
def test_dilated_windows_are_convolved(size, target):
    height, width, outputs, dilation = DILATED[size]
    features = isa(target, 1 + len(size) % 2)
    given = problem((height, width, max(dilation), outputs), features.lanes, clean=True, dilation=dilation)
    computes(target, features, given, offered(given[0], target, features)[::2], clean=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS[1:])
def test_several_blocks_of_tiles_meet_a_point_of_the_weights_together(target, threads):
    features = isa(target, threads)
    given = problem((28, 28, 2, 6), features.lanes, clean=True, dilation=(2, 2))
    options = offered(given[0], target, features)
    wide = [replace(option, params=replace(option.params, wide=wide)) for option in options[::2]
            for wide in range(2, option.params.blocks + 1) if option.params.blocks % wide == 0]
    assert wide
    computes(target, features, given, wide, clean=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("outputs", [12, 15])
def test_groups_are_convolved_apart(outputs, target, threads):
    features = isa(target, threads)
    given = problem((14, 14, 1, outputs), features.lanes, clean=True, groups=3)
    computes(target, features, given, offered(given[0], target, features), clean=True)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_nan_reaches_the_pixels_that_read_it_and_no_others(target):
    features = isa(target)
    layer, source, x, residual, _ = problem("7x7", features.lanes, clean=True)
    layer = replace(layer, epilogue=Epilogue(residual=True))
    kernel = call(layer, FAMILY.offers(layer, resolve(target), features, "fp32")[0], features)
    run = compiled(kernel.kernel, target)
    for at in np.ndindex(7, 7):
        x[0, 1][at] = np.nan
        y = run(*kernel.constants, flat(x, source), flat(residual, layer.target), out=layer.target.size)
        reads = np.zeros((7, 7), bool)
        reads[max(0, at[0] - 1):at[0] + 2, max(0, at[1] - 1):at[1] + 2] = True
        np.testing.assert_array_equal(np.isnan(pixels(y, padded_rows(layer.target))[0]),
                                      np.broadcast_to(reads, (len(layer.bias), 7, 7)))
        x[0, 1][at] = 1.0


def test_what_infinities_may_become_is_told():
    layer = problem("7x7", 16, clean=True)[0]
    options = FAMILY.offers(layer, resolve("cpu-avx512"), isa("cpu-avx512"), "fp32")
    assert not any(option.keeps_ieee for option in options)
    assert all(option.is_dense for option in options)
