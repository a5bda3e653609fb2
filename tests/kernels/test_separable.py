"""A kernel of a 1x1 convolution that computes the depthwise one behind as well equals one after the other."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.graph.operators.epilogue import apply
from sparsec.kernels.cpu.images import depthwise
from sparsec.kernels.cpu.images.depthwise import DepthwiseParams
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.cpu.products import separable, spmm
from sparsec.kernels.cpu.products.separable import Bands
from sparsec.kernels.cpu.products.stencil import convolution
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, isa

# Channels, height and width between, kernel, stride, padding of the output, rows of a tile and of a band, channels of a
# chunk.
CASES = {
    "3x3": ((5, 12, 24), 3, 1, 0, 2, 3 * 2, 5),
    "3x3 of one tile a band, in two chunks": ((5, 12, 16), 3, 1, 0, 3, 3, 3),
    "3x3 of bands of two rows": ((3, 8, 16), 3, 1, 1, 1, 2, 3),
    "3x3/2": ((4, 12, 32), 3, 2, 0, 1, 3, 4),
    "3x3/2 of tiles of two rows": ((4, 24, 24), 3, 2, 1, 2, 2, 4),
    "5x5": ((3, 16, 16), 5, 1, 0, 2, 4, 3),
    "5x5/2": ((3, 16, 16), 5, 2, 0, 2, 2, 3),
}
OUTPUTS = 6


def params_of(case, lanes, threads):
    """Parameters for images between that are pixels without anything between them."""
    (channels, height, width), size, stride, pad, tile_rows, rows, chunk = CASES[case]
    source, between = (padded((1, count, height, width), 0, lanes, clean=False) for count in (channels, OUTPUTS))
    goal = padded((1, OUTPUTS, height // stride, width // stride), pad, lanes, clean=pad > 0)
    window = Window(between, goal, (size, size), (stride, stride), (1, 1), (size // 2, size // 2))
    behind = DepthwiseParams(window, Epilogue("clip", -1.0, 1.0))
    vectors = tile_rows * width // lanes
    assert separable.reject(behind, vectors) is None
    bands = Bands(behind, tile_rows, rows)
    stencil = replace(convolution(source, between, (1, 1), (1, 1), (0, 0)), y_origin=bands.scratch.origin,
                      y_row_stride=bands.scratch.channel_stride, y_size=goal.size)
    return spmm.SpmmParams(Tiling(stencil, Epilogue("relu"), "direct", vectors, chunk, joined=bands), group=2, unroll=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_has_all_rows_in_front_of_its_first_band(threads):
    source, goal = (padded((1, OUTPUTS, 6, 16), pad, 16, clean=pad > 0) for pad in (0, 1))
    behind = DepthwiseParams(Window(source, goal, (5, 5), (1, 1), (1, 1), (2, 2)), Epilogue("none"))
    found = separable.bands_of(behind, 1, threads, 1 << 20)
    assert any(each.between < each.kept for each in found) == (threads == 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_rows_of_a_band_are_computed_once(stride):
    source, goal = (padded((1, OUTPUTS, 32 * step, 16), pad, 16, clean=pad > 0) for pad, step in ((0, stride), (1, 1)))
    window = Window(source, goal, (3, 3), (stride, stride), (1, 1), (1, 1))
    assert 8 % Bands(DepthwiseParams(window, Epilogue("none")), 1, 8).block == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_both_convolutions(case, target, threads):
    lanes = isa(target).lanes
    params = params_of(case, lanes, threads)
    behind, rng = params.tiling.joined.behind, np.random.default_rng(0)
    (channels, height, width), between = CASES[case][0], behind.window.source
    source = padded((1, channels, height, width), 0, lanes, clean=False)
    weight = (rng.standard_normal((OUTPUTS, channels)) * (rng.random((OUTPUTS, channels)) < 0.6)).astype(np.float32)
    kernels = rng.standard_normal((OUTPUTS, 1, *behind.window.kernel)).astype(np.float32)
    biases = rng.standard_normal((2, OUTPUTS)).astype(np.float32)
    x = images_like(source)
    y = apply(np.einsum("oc,nchw->nohw", weight, x), biases[0][:, None, None], None, "relu", 0.0, 0.0)
    expected = depthwise.reference(kernels, biases[1], flat(y, between), behind)
    packed = spmm.FAMILY.recipe(params).pack(weight).values()
    result = run_guarded(spmm.build(params, isa(target, threads)), target, *packed, depthwise.pack(kernels), biases[1],
                         biases[0], flat(x, source), out=behind.window.target.size)
    assert_same(result, expected, tolerance=1e-4)
