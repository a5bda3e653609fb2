"""Depthwise convolutions equal numpy for every kernel, stride, dilation and layout, and use no unclean padding."""

import numpy as np
import pytest

from sparsec.graph.operators.epilogue import ACTIVATIONS
from sparsec.kernels.cpu.images import depthwise
from sparsec.kernels.cpu.images.depthwise import DepthwiseParams
from sparsec.kernels.cpu.images.window import Window
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.padded import assert_same, flat, images_like, padded, run_guarded
from tests.support.targets import TARGETS, isa

CASES = {  # input shape, kernel, strides, dilations, (top, left, bottom, right)
    "3x3": ((2, 3, 13, 37), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "3x3 of one block": ((1, 5, 7, 7), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "3x3 of rows in blocks": ((1, 2, 19, 33), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "3x3 of one pixel": ((2, 2, 1, 1), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "3x3/2": ((2, 2, 18, 40), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "3x3/2 padded at the end": ((1, 1, 32, 64), (3, 3), (2, 2), (1, 1), (0, 0, 1, 1)),
    "5x5": ((1, 2, 11, 21), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    "5x5/2": ((1, 2, 14, 35), (5, 5), (2, 2), (1, 1), (2, 2, 2, 2)),
    "7x7": ((1, 1, 9, 18), (7, 7), (1, 1), (1, 1), (3, 3, 3, 3)),
    "3x5/3x1 dilated": ((1, 2, 17, 25), (3, 5), (3, 1), (2, 3), (0, 6, 0, 6)),
    "3x3/3": ((2, 1, 10, 50), (3, 3), (3, 3), (1, 1), (1, 1, 1, 1)),
    "2x2 unpadded": ((1, 3, 6, 9), (2, 2), (1, 1), (1, 1), (0, 0, 0, 0)),
    "1x9 sequence": ((2, 3, 1, 70), (1, 9), (1, 1), (1, 1), (0, 4, 0, 4)),
    "13x19": ((2, 2, 11, 21), (13, 19), (1, 1), (1, 1), (6, 9, 6, 9)),
    "17x9/2x2 dilated": ((1, 2, 40, 57), (17, 9), (2, 2), (2, 1), (3, 4, 9, 4)),
    "31x31 of one pixel": ((1, 2, 31, 31), (31, 31), (1, 1), (1, 1), (0, 0, 0, 0)),
    "1x150 sequence": ((1, 2, 1, 160), (1, 150), (1, 2), (1, 1), (0, 75, 0, 75)),
}


def params_of(case, lanes, source_pad, target_pad, epilogue):
    (n, c, h, w), kernel, strides, dilations, (top, left, bottom, right) = CASES[case]
    size = [(extent + pads - (k - 1) * d - 1) // s + 1 for extent, pads, k, d, s in
            zip((h, w), (top + bottom, left + right), kernel, dilations, strides, strict=True)]
    source = padded((n, c, h, w), source_pad, lanes, clean=source_pad > 0, extra=source_pad % 2)
    target = padded((n, c, *size), target_pad, lanes, clean=target_pad > 0)
    return DepthwiseParams(Window(source, target, kernel, strides, dilations, (top, left)), epilogue)


def check(params, target, threads=1):
    rng = np.random.default_rng(0)
    channels, source, goal = params.window.source.channels, params.window.source, params.window.target
    weight = rng.standard_normal((channels, 1, *params.window.kernel)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    x = flat(images_like(source), source)
    residual = [flat(images_like(goal, 1), goal)] if params.epilogue.residual else []
    func = depthwise.build(params, isa(target, threads))
    result = run_guarded(func, target, depthwise.pack(weight), bias, x, *residual, out=goal.size)
    assert_same(result, depthwise.reference(weight, bias, x, params, *residual), tolerance=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("source_pad", "target_pad"), [(0, 1), (3, 0)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_convolution(case, source_pad, target_pad, target):
    lanes = isa(target).lanes
    check(params_of(case, lanes, source_pad, target_pad, Epilogue()), target, threads=1 + target_pad % 2)


@pytest.mark.parametrize("multiplies", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogue(activation, multiplies):
    epilogue = Epilogue(activation, 0.2, 0.6, residual=True, multiplies=multiplies)
    check(params_of("3x3 of one block", 4, 1, 1, epilogue), "cpu-generic")


def test_a_depth_multiplier_is_refused():
    window = Window(padded((1, 2, 3, 3), 1, 16), padded((1, 4, 3, 3), 1, 16), (3, 3))
    assert "multiplier" in depthwise.reject(DepthwiseParams(window))
