"""What product kernels copy of their inputs: every tap is found in a copy, by loads of whole vectors."""

from itertools import accumulate

import pytest

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.products.stencil import convolution
from sparsec.kernels.cpu.products.tiling import MODES, Tiling
from sparsec.kernels.cpu.products.tilings import aligned_copies
from sparsec.kernels.emit.epilogue import Epilogue

LANES = 16


def stencil(row_stride, side=3):
    pad = side // 2
    image = PaddedFlat(1, 4, 12, row_stride - pad, pad, row_stride, LANES)
    return convolution(image, image, (side, side), (1, 1), (pad, pad))


@pytest.mark.parametrize("row_stride", [7, 8, 16, 24, 33, 48])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("mode", MODES[1:])
def test_every_tap_is_where_a_copy_has_it(row_stride, side, mode):
    t = Tiling(stencil(row_stride, side), Epilogue(), mode, 3, 2)
    starts = list(accumulate((length for _, length in t.copies), initial=0))
    for tap, offset in zip(t.stencil.taps, t.tap_offsets, strict=True):
        assert any(first + offset - start == tap and offset + t.tile <= start + length
                   for start, (first, length) in zip(starts, t.copies, strict=False))
        assert mode == "halo" or offset % LANES == 0


@pytest.mark.parametrize(("row_stride", "copies"), [(16, 3), (48, 3), (8, 6), (24, 6), (17, 5), (29, 9)])
def test_taps_that_lie_whole_vectors_apart_share_a_copy(row_stride, copies):
    assert len(Tiling(stencil(row_stride), Epilogue(), "mec", 7, 2).copies) == copies


@pytest.mark.parametrize(("row_stride", "mode"), [(16, "mec"), (8, "mec"), (17, "mec"), (29, "im2col"),
                                                  (128, "im2col")])
def test_the_mode_with_less_to_copy_is_taken(row_stride, mode):
    assert aligned_copies(stencil(row_stride), Epilogue(), 7) == mode
