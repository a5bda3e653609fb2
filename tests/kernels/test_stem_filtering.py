"""The first convolution by minimal filtering equals numpy for every window, stride, padding and width that it takes."""

from fractions import Fraction

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.graph.compare import relative_error
from sparsec.kernels.cpu.images import stem, stem_filtering
from sparsec.kernels.cpu.images.padded import padded_rows, pixels
from sparsec.kernels.cpu.images.stem import StemParams, StemProduct
from sparsec.kernels.cpu.images.stem_filtering import FAMILY
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.filtering import evaluated, interpolated
from sparsec.kernels.packing.filtering import MOST_TAPS, POINTS, Filtering
from sparsec.target import resolve
from tests.support.padded import assert_same, padded, run_guarded
from tests.support.targets import TARGETS, compiled, isa

CASES = {  # input shape, outputs, kernel, strides, (top, left, bottom, right)
    "7x7/2": ((1, 3, 30, 46), 9, (7, 7), (2, 2), (3, 3, 3, 3)),
    "7x7/2 unpadded": ((1, 3, 17, 75), 5, (7, 7), (2, 2), (0, 0, 0, 0)),
    "7x7/2 of one pixel": ((1, 1, 7, 7), 16, (7, 7), (2, 2), (0, 0, 0, 0)),
    "5x5/2": ((2, 3, 31, 21), 6, (5, 5), (2, 2), (2, 2, 2, 2)),
    "5x5/2 padded at the end": ((1, 2, 26, 12), 4, (5, 5), (2, 2), (1, 1, 2, 2)),
    "3x3/2": ((2, 3, 10, 66), 8, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3": ((2, 4, 9, 32), 7, (3, 3), (1, 1), (1, 1, 1, 1)),
    "4x3/1x2": ((1, 2, 13, 19), 5, (4, 3), (1, 2), (2, 0, 1, 1)),
    "11x11/4": ((1, 3, 43, 63), 12, (11, 11), (4, 4), (2, 2, 2, 2)),
    "7x7/3": ((1, 1, 29, 40), 4, (7, 7), (3, 3), (3, 3, 3, 3)),
}
REFUSED = {"that overlap": ((3, 3), (3, 3)), "4 taps": ((7, 7), (1, 1)), "two pixels": ((1, 9), (1, 3))}


def problem(case, pad, lanes):
    """The layer of a case, its input, and the parameters of the plain kernel."""
    shape, outputs, kernel, strides, (top, left, bottom, right) = case
    size = [(extent + pads - k) // s + 1 for extent, pads, k, s in
            zip(shape[2:], (top + bottom, left + right), kernel, strides, strict=True)]
    goal = padded((shape[0], outputs, *size), pad, lanes, clean=pad > 0)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, shape[1] * kernel[0] * kernel[1])).astype(np.float32)
    bias, x = rng.standard_normal(outputs).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    layer = StemProduct(weight, bias, shape, goal, kernel, strides, (top, left), Epilogue("relu"))
    return layer, x, StemParams(shape, goal, kernel, (1, 1), strides, (top, left), Epilogue("relu"))


def offered(layer, target, features):
    options = FAMILY.offers(layer, resolve(target), features, "fp32")
    assert not isinstance(options, str), options
    return options


def convolved(layer, x, plain):
    weight = layer.weight.reshape(-1, layer.shape[1], *layer.kernel)
    return stem.convolved(weight, layer.bias, x, plain)


@pytest.mark.parametrize("taps", range(1, MOST_TAPS + 1))
@pytest.mark.parametrize("outputs", POINTS)
def test_transforms_along_a_side_are_a_filter(outputs, taps):
    filtering = Filtering(outputs, taps)
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(filtering.size), rng.standard_normal(taps)
    products = list(filtering.weights @ g * evaluated(filtering, list(d), float))
    # Points that a longer filter has behind those of this one count nothing.
    products += [0.0] * (len(POINTS[outputs]) + 1 - len(products))
    np.testing.assert_allclose(interpolated(outputs, products, float), np.convolve(d, g[::-1], "valid"), atol=1e-12)
    assert all(isinstance(each, Fraction) for row in filtering.inputs for each in row)


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("pad", "threads"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("case", CASES)
def test_every_option_convolves_within_its_buffers(case, pad, threads, target):
    features = isa(target, threads)
    layer, x, plain = problem(CASES[case], pad, features.lanes)
    expected = convolved(layer, x, plain)
    options = offered(layer, target, features)
    for option in (options[len(case) % len(options)], options[-1]):
        kernel = call(layer, option, features)
        y = run_guarded(kernel.kernel, target, *kernel.constants, x.ravel(), out=layer.target.size)
        assert_same(y, expected, tolerance=1e-4)


def test_a_large_window_errs_by_little_more_than_the_plain_sum():
    features = isa("cpu")
    layer, x, plain = problem(((1, 3, 96, 96), 32, (7, 7), (2, 2), (3, 3, 3, 3)), 1, features.lanes)
    expected = convolved(layer, x.astype(np.float64), plain)
    for option in offered(layer, "cpu", features):
        kernel = call(layer, option, features)
        y = compiled(kernel.kernel, "cpu")(*kernel.constants, x.ravel(), out=layer.target.size)
        assert relative_error(y, expected) < 2e-6


@pytest.mark.parametrize("target", TARGETS)
def test_nan_reaches_the_tiles_whose_pixels_read_it(target):
    features = isa(target)
    layer, x, plain = problem(((1, 2, 19, 23), 4, (5, 5), (2, 2), (2, 2, 2, 2)), 1, features.lanes)
    for option in offered(layer, target, features):
        kernel, side = call(layer, option, features), option.params.tile[0]
        run = compiled(kernel.kernel, target)
        for at in [(0, 0), (3, 8), (18, 22), (9, 11)]:
            changed = x.copy()
            changed[0, 1][at] = np.nan
            y, expected = (np.isnan(pixels(each, padded_rows(layer.target))[0]) for each in (
                run(*kernel.constants, changed.ravel(), out=layer.target.size), convolved(layer, changed, plain)))
            assert (y >= expected).all()
            tiles = np.zeros((4, 6 * side, 6 * side), bool)
            tiles[:, :y.shape[1], :y.shape[2]] = expected
            whole = tiles.reshape(4, 6, side, 6, side).any(axis=(2, 4)).repeat(side, 1).repeat(side, 2)
            allowed = expected if side == 2 else whole[:, :y.shape[1], :y.shape[2]]
            assert (y <= allowed).all()


def test_ieee_does_without():
    layer, *_ = problem(CASES["7x7/2"], 1, 16)
    assert not any(option.keeps_ieee for option in offered(layer, "cpu-avx512", isa("cpu-avx512")))


@pytest.mark.parametrize("reason", REFUSED)
def test_windows_that_gain_nothing_are_refused(reason):
    kernel, strides = REFUSED[reason]
    layer, *_ = problem(((1, 3, 30, 30), 4, kernel, strides, (0, 0, 0, 0)), 0, 16)
    assert reason in FAMILY.offers(layer, resolve("cpu-avx512"), isa("cpu-avx512"), "fp32")


def test_wide_images_whose_numbers_no_cache_holds_are_left_to_the_plain_kernel():
    layer, *_ = problem(((1, 3, 8, 20000), 4, (7, 7), (2, 2), (3, 3, 3, 3)), 1, 16)
    assert isinstance(FAMILY.offers(layer, resolve("cpu-avx512"), isa("cpu-avx512"), "fp32"), str)


def test_all_blocks_cover_what_the_tiles_compute():
    features = isa("cpu-avx512", 3)
    layer, *_ = problem(((2, 3, 224, 224), 64, (7, 7), (2, 2), (3, 3, 3, 3)), 1, features.lanes)
    for option in offered(layer, "cpu-avx512", features):
        p = option.params
        assert p.numbers == 3 * sum(phase.size for phase in p.sides[0].phases) ** 2
        assert sum(group.points for group in p.groups) == p.points
        assert len(stem_filtering.pack(layer.weight, p)["weight"]) == p.blocks * p.block[0] * p.numbers
