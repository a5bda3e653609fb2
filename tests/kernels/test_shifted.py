"""Sparse convolutions of shifted sums: where non-zeros find their places, and what reaches which pixels."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.products import spmm_shifted
from sparsec.kernels.cpu.products.stencil import convolution
from sparsec.kernels.packing.tap_columns import TapColumns, expected_steps
from sparsec.target import resolve
from tests.support.family_checks import SMALL, check
from tests.support.layers import images, over, weight
from tests.support.targets import compiled, isa, runnable

OPEN = {"all": (1, 1, 1), "right": (0, 1, 1), "middle": (0, 1, 0), "none": (0, 0, 0)}


def recipe(opened, parts=1, slots=(0, 1, 2), sums=(0, 1, 2) * 3):
    """For chunks of five of 20 channels; rows of an image lie 100 floats apart, channels 1,000."""
    return TapColumns(parts, 5 * len(sums), 4, 1000, 64, tuple(100 * (tap // 3) for tap in range(len(sums))), sums,
                      tuple(range(1 + max(sums))), slots, opened[:1 + max(sums)], 9999)


def read_back(arrays, p, rows):
    """The weight that the arrays say, (rows, columns), and how often sums take products that are not their own."""
    found, strays = np.zeros((rows, p.chunks * p.chunk_columns), np.float32), 0
    per_part = len(arrays["rows"]) // (p.parts * p.chunks)
    bits, values = 64 // len(p.slots), arrays["values"]
    for flat, row in enumerate(arrays["rows"]):
        for step in range(*arrays["starts"][flat:flat + 2]):
            for slot, number in enumerate(p.slots):
                offset = int(arrays["indices"][step]) >> bits * slot & (1 << bits) - 1
                if offset == p.zeros:
                    assert values[step * len(p.slots) + slot] == 0
                    continue
                line, column = divmod(offset - p.origin + 10, 100)
                channel, image_row = divmod(line, 10)
                own = number + column - 10  # the sums that the tap belongs to
                assert own == number or p.open[number]
                strays += own != number
                tap = next(t for t, each in enumerate(zip(p.tap_sums, p.tap_offsets, strict=True))
                           if each == (own, 100 * image_row))
                at = flat // per_part % p.chunks * p.chunk_columns + channel * len(p.tap_sums) + tap
                assert found[row, at] == 0
                found[row, at] = values[step * len(p.slots) + slot]
    return found, strays


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("opened", OPEN.values(), ids=OPEN)
@pytest.mark.parametrize("pattern", [0.0, 0.1, 0.4, 1.0, "skewed"])
def test_every_non_zero_finds_one_place(pattern, opened, parts):
    dense = weight(17, 180, pattern)
    found, strays = read_back(recipe(opened, parts).pack(dense), recipe(opened, parts), len(dense))
    assert np.array_equal(found, dense)
    assert not strays or any(opened)


def test_strided_windows_give_the_wider_column_two_places():
    p = recipe((1, 1), slots=(0, 0, 1), sums=(0, 0, 1) * 3)
    p = replace(p, tap_offsets=tuple(100 * tap for tap in range(9)))
    dense = weight(17, 180, 0.3)
    assert np.array_equal(read_back(p.pack(dense), p, len(dense))[0], dense)


def test_open_sums_take_fewer_steps():
    dense = weight(60, 180, 0.2)
    steps = [expected_steps(dense, recipe(opened))[0] for opened in OPEN.values()]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    assert steps[0] == len(recipe(OPEN["all"]).pack(dense)["indices"])


@pytest.mark.parametrize("width", [5, 7, 8, 14, 16, 28, 32, 56])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("target", runnable("cpu-avx512"))
def test_rows_of_any_width(width, stride, target):
    features = isa(target, 2)
    case = images(features.lanes, (1, 6, 9, 7, width), 3, stride, 0.3, "relu", True)
    case = replace(case, layer=replace(case.layer, epilogue=replace(case.layer.epilogue, in_place=True)))
    for halves in (False, True):
        options = spmm_shifted.FAMILY.offers(case.layer, replace(resolve(target), **SMALL),
                                             replace(features, halves=halves), "fp32")
        check(spmm_shifted.FAMILY, case, options[-1], replace(features, halves=halves), target)


@pytest.mark.parametrize(("dilation", "pad", "width"), [(5, 5, 24), (5, 0, 24), (9, 9, 24), (9, 0, 40), (12, 12, 33)])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("target", runnable("cpu-avx2", "cpu-avx512"))
def test_taps_of_a_row_are_a_vector_apart_at_most(dilation, pad, width, halves, target):
    features = replace(isa(target, 1), halves=halves)
    less = 2 * (dilation - pad)
    source, image = (PaddedFlat(1, channels, size, size, pad, size + pad, features.lanes)
                     for channels, size in ((6, width), (9, width - less)))
    stencil = convolution(source, image, (3, 3), (dilation, dilation), (pad, pad))
    case = over(stencil, image, 0.3, "none", False, source)
    if spmm_shifted.reject(case.layer, features) is None:
        options = spmm_shifted.FAMILY.offers(case.layer, replace(resolve(target), **SMALL), features, "fp32")
        check(spmm_shifted.FAMILY, case, options[-1], features, target)
    else:
        assert 2 * dilation > features.lanes // 2


@pytest.mark.parametrize("width", [7, 14, 16])
@pytest.mark.parametrize("target", runnable("cpu-avx2", "cpu-avx512"))
def test_nan_reaches_the_pixels_that_read_it(width, target):
    features = isa(target, 1)
    case = images(features.lanes, (1, 6, 9, 7, width), 3, 1, 0.2, "none", False)
    s, (x,) = case.layer.stencil, case.inputs
    x[s.x_origin + 3 * s.x_channel_stride + 2 * s.lines.stride + width // 2] = np.nan
    outputs = s.y_origin + np.arange(s.outputs)[:, None, None] * s.y_row_stride + (
        np.arange(7)[:, None] * s.lines.stride + np.arange(width))
    read = np.zeros((9, 7, width), bool)
    for tap, column in enumerate(s.lines.columns):
        image_row = 2 - (s.taps[tap] - column) // s.lines.stride
        read[:, image_row, width // 2 - column] |= case.layer.weight[:, 3 * 9 + tap] != 0
    for option in spmm_shifted.FAMILY.offers(case.layer, replace(resolve(target), **SMALL), features, "fp32"):
        kernel = call(case.layer, option, features)
        y = compiled(kernel.kernel, target)(*kernel.constants, x, out=kernel.output.size)
        assert np.array_equal(np.isnan(y[outputs]), read)
