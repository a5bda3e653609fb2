"""Images are rounded as the operator's reference rounds them, on every instruction set, whatever padding holds."""

from dataclasses import replace

import numpy as np
import pytest
import tvm

from sparsec.graph.layout import PaddedFlat
from sparsec.graph.operators.fake_quantize import FakeQuantize
from sparsec.kernels.cpu.codes import fake_quantize
from sparsec.kernels.cpu.codes.fake_quantize import FakeQuantizeParams
from sparsec.kernels.cpu.images.padded import blank, padded_rows, pixels
from tests.support.targets import TARGETS, aligned, compiled, isa


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("width", [5, 16, 37])
@pytest.mark.parametrize("target", TARGETS)
def test_images(target, width, clean, threads):
    lanes = isa(target).lanes
    source = PaddedFlat(2, 3, 4, width, 1, width + 3, lanes, clean=False)
    params = FakeQuantizeParams(source, replace(source, pad=2, row_stride=width + 2, clean=clean))
    x, expected = blank(source), blank(params.target)
    images = np.random.default_rng(0).standard_normal((2, 3, 4, width)).astype(np.float32) + np.float32(0.5)
    pixels(x, padded_rows(source))[...] = images
    pixels(expected, padded_rows(params.target))[...] = FakeQuantize.eval(images)
    found = compiled(fake_quantize.build_range(params, isa(target, threads)), target).module["main"]
    scale, zero = (aligned(np.zeros(1, np.float32)) for _ in range(2))
    found(*map(tvm.runtime.from_dlpack, (aligned(x), scale, zero)))
    y = compiled(fake_quantize.build(params, isa(target, threads)), target)(scale, zero, x, out=params.target.size)
    known = np.isfinite(expected)
    np.testing.assert_array_equal(y[known], expected[known])
