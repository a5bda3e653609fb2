"""The arrays of the sparse product kernels hold the whole weight, however it is dealt into groups and parts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.products import row_blocks, spmm
from sparsec.kernels.cpu.products.stencil import linear
from sparsec.kernels.cpu.products.walk import Tiling
from sparsec.kernels.emit.epilogue import Epilogue


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_csr_packing_keeps_every_weight(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    outputs, channels = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
    density = data.draw(st.sampled_from([0, 0.05, 0.5, 1]))
    kept = rng.random((outputs, channels)) < density
    weight = np.where(kept, rng.standard_normal(kept.shape), 0).astype(np.float32)
    shape = {"group": data.draw(st.sampled_from([1, 2, 4])), "unroll": data.draw(st.sampled_from([1, 2, 4]))}
    tiling = Tiling(linear(Tiled(1, 32, channels, 32), outputs, 16), Epilogue(), "direct", 2,
                    data.draw(st.integers(1, channels)), parts=data.draw(st.sampled_from([1, 2, 3])))
    params = spmm.SpmmParams(tiling, **shape)
    arrays = row_blocks.recipe(params).pack(weight)
    assert np.array_equal(np.sort(arrays["values"][arrays["values"] != 0]), np.sort(weight[weight != 0]))
    assert set(arrays["rows"].tolist()) - {-1} == set(range(outputs))
