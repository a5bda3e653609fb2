"""Concatenating channels moves every pixel, between layouts that agree and layouts that do not."""

import numpy as np
import pytest

from sparsec.kernels.cpu.images import channels_padded
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, isa

IMAGES = [(1, 1), (5, 7), (3, 32)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("epilogue", [None, Epilogue("relu")], ids=["copied", "scaled"])
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("more", [0, 3], ids=["apart", "in a loop"])
def test_concat(more, image, clean, epilogue, target):
    lanes = isa(target).lanes
    sources = [padded((2, 3, *image), 1, lanes), padded((2, 1, *image), 1, lanes, clean=False),
               padded((2, 2, *image), 0, lanes, clean=False), *[padded((2, 2, *image), 1, lanes)] * more]
    goal = padded((2, 6 + 2 * more, *image), 1, lanes, clean=clean)
    inputs = [flat(images_like(source, seed), source) for seed, source in enumerate(sources)]
    if epilogue is not None:
        factors = np.float32([1, -2, 3, -4, 5, 6, 2, -1, 3, 7, -6, 8]), np.float32([0.5, -1, 0, 2, 1, -3] * 2)
        inputs = [*(each[:goal.channels] for each in factors), *inputs]
    func = channels_padded.build_concat(sources, goal, isa(target, threads=2), epilogue)
    result = run_guarded(func, target, *inputs, out=goal.size)
    assert_same(result, channels_padded.concat_reference(inputs, sources, goal, epilogue),
                0.0 if epilogue is None else 1e-5)
