"""Concatenating channels moves every pixel, between layouts that agree and layouts that do not."""

import pytest

from sparsec.kernels.cpu.images import channels_padded
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, isa

IMAGES = [(1, 1), (5, 7), (3, 32)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("image", IMAGES, ids=str)
def test_concat(image, clean, target):
    lanes = isa(target).lanes
    sources = [padded((2, 3, *image), 1, lanes), padded((2, 1, *image), 1, lanes, clean=False),
               padded((2, 2, *image), 0, lanes, clean=False)]
    goal = padded((2, 6, *image), 1, lanes, clean=clean)
    inputs = [flat(images_like(source, seed), source) for seed, source in enumerate(sources)]
    func = channels_padded.build_concat(sources, goal, isa(target, threads=2))
    result = run_guarded(func, target, *inputs, out=goal.size)
    assert_same(result, channels_padded.concat_reference(inputs, sources, goal))
