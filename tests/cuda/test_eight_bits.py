"""Products of 8-bit codes equal numpy bit for bit on the emulator: sums, zero points, scales, epilogues, codes of Y."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.kernels.cuda import eight_bits
from sparsec.kernels.cuda.params import Gather, MmaParams, Window
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.products import FINISH, SMALL, convolution, needs_compiler, run, weight_index

pytestmark = needs_compiler
TILE = replace(SMALL, depth=128)
BYTES = MmaParams(100, 36, 324, TILE, dtype="int8", epilogue=FINISH)
PRODUCTS = {
    "signed": BYTES,
    "unsigned": replace(BYTES, x="uint8"),
    "to codes": replace(BYTES, x="uint8", coded="uint8"),
    "to signed codes": replace(BYTES, coded="int8", epilogue=Epilogue()),
    "odd outputs to codes": replace(BYTES, m=35, n=5, coded="uint8", epilogue=Epilogue("relu")),
    "shares": replace(BYTES, k=512, split_k=4, coded="uint8"),
    "gathered": replace(BYTES, k=96, gather=Gather(160, 4), x="uint8"),
    "windows": replace(convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), dtype="int8", x="uint8"),
                       tile=TILE, coded="uint8"),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("family", [eight_bits.SPARSE_INT8, eight_bits.DENSE_INT8], ids=lambda family: family.name)
def test_products_are_exact(family, name):
    weight = weight_index(np.random.default_rng(1), PRODUCTS[name], "2:4")
    wrong, (product, *_) = run(PRODUCTS[name], family, weight, seeds=range(2))
    assert (wrong, product.bank_conflicts) == (0, 0)
