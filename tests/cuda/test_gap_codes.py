"""Weights of bytes for few tokens: exact where codes are, within half a code elsewhere, and offered on request."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.backends.cuda.products import options
from sparsec.kernels.cuda import gaps
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.cuda.products import FINISH, needs_compiler, run


def codes(rng, m, k):
    """A weight of integers that are their own codes."""
    weight = rng.integers(-126, 127, (m, k)) * (rng.random((m, k)) < 0.1)
    weight[np.arange(m), rng.integers(0, k, m)] = 127
    return weight.astype(np.float16)


@needs_compiler
@pytest.mark.parametrize("tile", gaps.TILES[::3], ids=str)
def test_codes_multiply_exactly(tile):
    p = MmaParams(20, tile.columns + 1, 1602, tile, out="float32", epilogue=FINISH)
    assert run(p, gaps.CODES, codes(np.random.default_rng(0), p.m, p.k), seeds=range(2))[0] == 0


@given(m=st.integers(1, 20), k=st.integers(1, 300).map(lambda pairs: 2 * pairs), seed=st.integers(0, 9))
def test_codes_are_within_half_of_one(m, k, seed):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((m, k)) * (rng.random((m, k)) < 0.2)).astype(np.float16)
    params = gaps.code_params(weight, MmaParams(m, 1, k, gaps.TILES[0]))
    arrays = gaps.pack(weight, params)
    error = np.abs(gaps.unpack(arrays, params).astype(np.float32) - weight.astype(np.float32))
    assert (error <= 0.51 * arrays["scale"][:, np.newaxis] + 2**-11 * np.abs(weight)).all()
    x = rng.standard_normal((k, 2)).astype(np.float16)
    reference = gaps.code_product(weight.astype(np.float32), x.astype(np.float32), params)
    exact = weight.astype(np.float32) @ x.astype(np.float32)
    bound = 0.51 * arrays["scale"][:, np.newaxis] * ((weight != 0) @ np.abs(x).astype(np.float32))
    assert (np.abs(reference - exact) <= bound + 1e-3).all()


@pytest.mark.parametrize(("precision", "offered"), [("fp16", False), ("bf16", False), ("int8", True)])
def test_bytes_are_offered_on_request(precision, offered):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((512, 512)) * (rng.random((512, 512)) < 0.1)).astype(np.float32)
    offers, refused = options(GpuProduct(weight, np.zeros(512), 1, Epilogue()), resolve("cuda-sm90"), precision)
    sizes = {offer.kernel: offer.nbytes for offer in offers if offer.format == "gaps 8"}
    assert ("gaps int8" in sizes) == offered
    assert "gaps 8" not in refused
    if offered:
        assert sizes["gaps int8"] < 0.75 * sizes["gaps"]
