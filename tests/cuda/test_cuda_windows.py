"""Convolutions that read their windows from the image equal numpy exactly on the emulator."""

from dataclasses import replace

import pytest

from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, Window, reject
from sparsec.kernels.emit.epilogue import Epilogue
from tests.cuda.products import FAMILIES, needs_compiler, run

SMALL = Tile(64, 32, 64, (2, 1), 3)


def convolution(m, images, window, tile=SMALL, **more):
    depth = window.kernel[0] * window.kernel[1] * window.image[2]
    return MmaParams(m, images * window.output[0] * window.output[1], depth, tile, window=window, **more)


CONVOLUTIONS = {
    "3x3": convolution(
        40, 1, Window((5, 6, 16), (3, 3), (5, 6), pads=(1, 1)), epilogue=Epilogue("relu", residual=True)),
    "batch, stride and dilation": convolution(
        33, 3, Window((9, 8, 8), (3, 2), (4, 3), strides=(2, 3), dilations=(1, 2), pads=(1, 0))),
    "1x1 with stride": convolution(64, 2, Window((7, 7, 64), (1, 1), (4, 4), strides=(2, 2))),
    "four channels": convolution(32, 2, Window((6, 6, 4), (5, 5), (3, 3), strides=(2, 2), pads=(2, 2))),
    "unpadded image of two channels": convolution(32, 1, Window((6, 6, 2), (2, 2), (5, 5))),
    "shares of K": convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), split_k=3, dtype="bfloat16"),
    "bytes": convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), Tile(64, 32, 128, (2, 1), 2),
                         dtype="int8"),
    "permuted channels": replace(convolution(40, 1, Window((4, 4, 16), (3, 3), (4, 4), pads=(1, 1))),
                                 gather=Gather(100, 2)),
}


@needs_compiler
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_convolutions_are_exact(family, name):
    wrong, (product, *_) = run(CONVOLUTIONS[name], FAMILIES[family], seeds=range(2))
    assert wrong == 0
    assert product.bank_conflicts == 0


def test_images_have_their_channels_last():
    assert "channels last" in reject(replace(CONVOLUTIONS["3x3"], layout="kn"))
