"""The stored bitmap is exactly reversible, and its kernel equals numpy exactly whatever the pattern of non-zeros."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.errors import FormatError
from sparsec.kernels.cuda import bitmap
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.products import DTYPES, counted, needs_compiler, run

TILE = Tile(64, 16, 64, (2, 1), 3)
PRODUCTS = {
    "one token": MmaParams(64, 1, 128, Tile(64, 8, 64, (4, 1), 3)),
    "tails": MmaParams(100, 13, 300, TILE, epilogue=Epilogue("relu", residual=True)),
    "features first": MmaParams(70, 24, 100, TILE, layout="kn", batch=2, split_k=2),
    "bfloat16": MmaParams(40, 24, 65, Tile(32, 8, 128, (1, 1), 2), layout="kn", dtype="bfloat16", out="float32"),
    "gathered": MmaParams(64, 16, 100, TILE, layout="kn", gather=Gather(70)),
}
PATTERNS = {
    "dense": lambda rng, shape: np.ones(shape, bool),
    "half": lambda rng, shape: rng.random(shape) < 0.5,
    "sparse": lambda rng, shape: rng.random(shape) < 0.05,
    "empty": lambda rng, shape: np.zeros(shape, bool),
    "a block": lambda rng, shape: np.add.outer(np.arange(shape[0]) < 17, np.arange(shape[1]) < 33) == 2,
}


def weight_of(rng, p, pattern):
    values = rng.integers(1, 5, (p.m, p.depth)) * PATTERNS[pattern](rng, (p.m, p.depth))
    return values.astype(DTYPES[p.dtype])


@needs_compiler
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_exact(name, pattern):
    p = PRODUCTS[name]
    weight = weight_of(np.random.default_rng(1), p, pattern)
    wrong, (product, *_) = run(p, counted(bitmap, bitmap.params(weight, p)), seeds=range(2), weight=weight)
    assert wrong == 0
    assert product.bank_conflicts == 0


@given(m=st.integers(1, 100), k=st.integers(1, 150), seed=st.integers(0, 9), pattern=st.sampled_from(list(PATTERNS)))
def test_unpack_inverts_pack(m, k, seed, pattern):
    p = MmaParams(m, 1, k, TILE)
    weight = weight_of(np.random.default_rng(seed), p, pattern)
    params = bitmap.params(weight, p)
    arrays = bitmap.pack(weight, params)
    np.testing.assert_array_equal(bitmap.unpack(arrays, params), weight)
    lengths = {name: length for name, (length, _) in bitmap.arguments(params).items()}
    assert {name: array.size for name, array in arrays.items()}.items() <= lengths.items()


def test_bytes_are_refused():
    with pytest.raises(FormatError, match="2 bytes"):
        bitmap.params(np.zeros((4, 4), np.int8), MmaParams(4, 1, 4, TILE, "int8"))
