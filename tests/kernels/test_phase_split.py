"""Every tap of a strided convolution finds its pixel at the planes' constant offset, and no padding is looked at."""

import numpy as np
import pytest

from sparsec.graph.layout import PhasePlanes
from sparsec.kernels.cpu.images import phase_split
from sparsec.kernels.cpu.images.padded import padded_rows
from sparsec.kernels.cpu.images.phase_split import PhaseSplitParams
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, isa

CASES = {  # input shape, kernel, strides, dilations, (top, left, bottom, right)
    "3x3/2": ((2, 3, 9, 37), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "7x7/2": ((1, 2, 15, 70), (7, 7), (2, 2), (1, 1), (3, 3, 3, 3)),
    "3x3/2 unpadded": ((1, 1, 7, 7), (3, 3), (2, 2), (1, 1), (0, 0, 0, 0)),
    "3x3/2 padded at the end": ((1, 2, 8, 40), (3, 3), (2, 2), (1, 1), (0, 0, 1, 1)),
    "5x3/3x2": ((2, 1, 11, 19), (5, 3), (3, 2), (1, 1), (2, 1, 2, 1)),
    "1x1/2": ((1, 3, 6, 6), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
    "3x3/2 dilated": ((1, 2, 13, 13), (3, 3), (2, 2), (2, 3), (2, 3, 2, 3)),
    "1x5/1x2 sequence": ((2, 3, 1, 50), (1, 5), (1, 2), (1, 1), (0, 2, 0, 2)),
    "3x3/1": ((1, 2, 4, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
}


def params_of(case, lanes):
    (n, c, h, w), kernel, strides, dilations, (top, left, bottom, right) = CASES[case]
    size = [(extent + pads - (k - 1) * d - 1) // s + 1 for extent, pads, k, d, s in
            zip((h, w), (top + bottom, left + right), kernel, dilations, strides, strict=True)]
    output = padded((n, 4, *size), 3, lanes, extra=1)
    planes = PhasePlanes(c, kernel, strides, dilations, (top, left), output)
    assert planes.misfit is None
    return PhaseSplitParams(padded((n, c, h, w), 1, lanes, clean=False), planes)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_planes(case, target):
    params = params_of(case, isa(target).lanes)
    source = flat(images_like(params.source), params.source)
    func = phase_split.build(params, isa(target, threads=1 + len(case) % 2))
    found = run_guarded(func, target, source, out=params.planes.size)
    assert_same(found, phase_split.reference(source, params))
    planes, output = params.planes, params.planes.output
    if output.batch == 1:  # products compute on what lies between and behind rows
        taps = [planes.offset(*tap) for tap in np.ndindex(planes.kernel)]
        read = np.array(taps)[:, None] + np.arange(output.vectors * output.lanes)
        assert np.isfinite(found.reshape(planes.channels, -1)[:, read]).all()


@pytest.mark.parametrize("case", CASES)
def test_offsets_meet_every_tap(case):
    params = params_of(case, 16)
    planes, output = params.planes, padded_rows(params.planes.output)
    images = images_like(params.source)
    deal = phase_split.reference(flat(images, params.source), params)
    (kh, kw), (sh, sw), (dh, dw), (top, left) = planes.kernel, planes.strides, planes.dilations, planes.begins
    padded_images = np.pad(images, ((0, 0), (0, 0), (top, 9), (left, 9)))
    for n, c, h, w, i, j in np.ndindex(output.batch, planes.channels, output.height, output.width, kh, kw):
        pixel = output.start(n, 0, h) - output.origin + w
        assert deal[c * planes.channel_stride + planes.offset(i, j) + pixel] == (
            padded_images[n, c, sh * h + i * dh, sw * w + j * dw])


def test_rows_that_do_not_fit_are_named():
    narrow = padded((1, 1, 4, 8), 0, 16)
    assert "row stride 8" in PhasePlanes(1, (3, 3), (2, 2), (1, 1), (1, 1), narrow).misfit
    touching = padded((2, 1, 4, 8), 0, 16, extra=1)
    assert "4 rows apart" in PhasePlanes(1, (3, 3), (2, 2), (1, 1), (1, 1), touching).misfit
