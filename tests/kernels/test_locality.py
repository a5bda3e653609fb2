"""What a product waits for, from the size of its tile and how much of it a group of rows reads."""

import pytest

from sparsec.graph.layout import PaddedFlat
from sparsec.kernels.cpu.products.locality import waited_bytes
from sparsec.kernels.cpu.products.stencil import convolution
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.epilogue import Epilogue

L1 = 32 * 1024


@pytest.mark.parametrize(("channels", "least", "most"), [(32, 0.0, 0.0), (40, 0.01, 0.2), (512, 0.9, 1.0)])
def test_groups_that_read_a_fifth_of_a_tile_find_little_of_one_many_times_the_l1_cache(channels, least, most):
    image = PaddedFlat(1, channels, 14, 14, 0, 14, 16, clean=False)
    tiling = Tiling(convolution(image, image, (1, 1), (1, 1), (0, 0)), Epilogue(), "direct", 13, channels)
    read = 64 * 13  # bytes of a row of inputs
    waited = [waited_bytes(tiling, 1000, 0, L1, share) / (1000 * read) for share in (0.2, 1.0)]
    assert least <= waited[0] <= most
    assert waited[0] <= waited[1]
