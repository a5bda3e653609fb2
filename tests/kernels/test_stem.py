"""The first convolution equals numpy for every kernel, stride and padding, from plain inputs of any width."""

import numpy as np
import pytest

from sparsec.kernels.cpu.images import stem
from sparsec.kernels.cpu.images.stem import StemParams, register_block
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.padded import assert_same, padded, run_guarded
from tests.support.targets import TARGETS, isa

CASES = {  # input shape, outputs, kernel, strides, (top, left, bottom, right)
    "7x7/2": ((1, 3, 30, 46), 9, (7, 7), (2, 2), (3, 3, 3, 3)),
    "7x7/2 unpadded": ((1, 3, 17, 75), 5, (7, 7), (2, 2), (0, 0, 0, 0)),
    "3x3/2": ((2, 3, 10, 66), 8, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3/2 padded at the end": ((1, 3, 12, 12), 4, (3, 3), (2, 2), (0, 0, 1, 1)),
    "3x3": ((2, 4, 9, 32), 7, (3, 3), (1, 1), (1, 1, 1, 1)),
    "5x5 of grey": ((1, 1, 12, 12), 6, (5, 5), (1, 1), (2, 2, 2, 2)),
    "11x11/4": ((1, 3, 43, 63), 3, (11, 11), (4, 4), (2, 2, 2, 2)),
    "patches": ((1, 3, 32, 64), 40, (16, 16), (16, 16), (0, 0, 0, 0)),
    "patches that overlap": ((1, 2, 49, 61), 20, (19, 21), (9, 10), (1, 2, 3, 4)),
    "1x1/2 to one channel": ((1, 2, 5, 5), 1, (1, 1), (2, 2), (0, 0, 0, 0)),
    "1x9/3 sequence": ((2, 2, 1, 100), 3, (1, 9), (1, 3), (0, 4, 0, 4)),
    "tall bands": ((1, 3, 400, 40), 2, (3, 3), (1, 1), (1, 1, 1, 1)),
}


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("pad", "threads"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("case", CASES)
def test_convolution(case, pad, threads, target):
    shape, outputs, kernel, strides, (top, left, bottom, right) = CASES[case]
    size = [(extent + pads - k) // s + 1 for extent, pads, k, s in
            zip(shape[2:], (top + bottom, left + right), kernel, strides, strict=True)]
    goal = padded((shape[0], outputs, *size), pad, isa(target).lanes, clean=pad > 0)
    features = isa(target, threads)
    block = register_block(goal, features)
    params = StemParams(shape, goal, kernel, block, strides, (top, left), Epilogue("relu"))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, shape[1], *kernel)).astype(np.float32)
    bias, x = rng.standard_normal(outputs).astype(np.float32), rng.standard_normal(shape).astype(np.float32).ravel()
    func = stem.build(params, features)
    result = run_guarded(func, target, *stem.pack(weight, params).values(), bias, x, out=goal.size)
    assert_same(result, stem.convolved(weight, bias, x, params), tolerance=1e-4)


def test_patches_of_many_pixels_are_loops():
    features = isa("cpu-generic")
    goal = padded((1, 512, 7, 7), 0, features.lanes, clean=False)
    params = StemParams((1, 3, 224, 224), goal, (32, 32), register_block(goal, features), (32, 32))
    assert len(stem.build(params, features).script()) < 200_000  # written out it is 3 million, two minutes of LLVM
