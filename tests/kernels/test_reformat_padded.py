"""Copies between layouts move every pixel, zero what a clean layout promises, and never look at padding."""

import numpy as np
import pytest

from sparsec.graph.layout import PLAIN, PaddedFlat
from sparsec.kernels.cpu.images import reformat_padded
from sparsec.kernels.cpu.images.padded import pixels
from sparsec.kernels.cpu.images.reformat_padded import ReformatParams
from tests.support.padded import assert_same, padded, run_guarded
from tests.support.targets import TARGETS, isa

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 3, 33), (3, 2, 1, 19), (1, 2, 4, 160)]
"""Odd widths, rows narrower than a vector, sequences, and rows longer than what is unrolled."""


def layouts(shape, lanes):
    return [PLAIN, padded(shape, 0, lanes, clean=False), padded(shape, 0, lanes, extra=2), padded(shape, 1, lanes),
            padded(shape, 3, lanes, extra=1)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_between_layouts(shape, target):
    lanes = isa(target).lanes
    options = layouts(shape, lanes)
    for threads, (source, goal) in enumerate(zip(options, options[1:] + options[:1], strict=True)):
        check(ReformatParams(shape, source, goal), target, 1 + threads % 2)
        check(ReformatParams(shape, goal, source), target, 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 3)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_strides(shape, strides, target):
    n, c, h, w = shape
    small = n, c, -(-h // strides[0]), -(-w // strides[1])
    lanes = isa(target).lanes
    check(ReformatParams(shape, padded(shape, 0, lanes, clean=False), padded(small, 1, lanes), strides), target, 2)


def check(params, target, threads):
    source = np.full(params.source_rows.size, np.nan, np.float32)
    pixels(source, params.source_rows)[...] = np.random.default_rng(0).standard_normal(params.shape)
    expected = reformat_padded.reference(source, params)
    func = reformat_padded.build(params, isa(target, threads))
    found = run_guarded(func, target, source, out=expected.size)
    assert_same(found, expected)
    if isinstance(params.target, PaddedFlat):  # products compute on what lies between and behind rows
        layout = params.target
        for c in range(layout.channels):
            start = c * layout.channel_stride + layout.origin
            assert np.isfinite(found[start:start + layout.vectors * layout.lanes]).all()
