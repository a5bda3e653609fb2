"""The arrays of the sparse product kernels hold the whole weight, however it is dealt into groups and parts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.products import row_blocks, spmm
from sparsec.kernels.cpu.products.stencil import linear
from sparsec.kernels.cpu.products.tiling import MODES, Tiling
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.target import resolve
from tests.support.family_checks import SMALL, check
from tests.support.layers import grouped
from tests.support.targets import isa


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_csr_packing_keeps_every_weight(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sections, chunks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    chunk = data.draw(st.integers(1, 12))
    outputs, channels = sections * data.draw(st.integers(1, 20)), sections * chunks * chunk
    if sections == 1:  # the last chunk may be short
        channels -= data.draw(st.integers(0, chunk - 1))
    density = data.draw(st.sampled_from([0, 0.05, 0.5, 1]))
    row, column = (np.arange(length) * sections // length for length in (outputs, channels))
    kept = (rng.random((outputs, channels)) < density) & (row[:, None] == column)
    weight = np.where(kept, rng.standard_normal(kept.shape), 0).astype(np.float32)
    shape = {"group": data.draw(st.sampled_from([1, 2, 4])), "unroll": data.draw(st.sampled_from([1, 2, 4]))}
    tiling = Tiling(linear(Tiled(1, 32, channels, 32), outputs, 16), Epilogue(), "direct", 2,
                    chunk, parts=data.draw(st.sampled_from([1, 2, 3])), sections=sections)
    params = spmm.SpmmParams(tiling, **shape)
    arrays = row_blocks.recipe(params).pack(weight)
    assert np.array_equal(np.sort(arrays["values"][arrays["values"] != 0]), np.sort(weight[weight != 0]))
    rows = arrays["rows"].reshape(tiling.parts, sections, -1)
    for section in range(sections):  # a chunk meets its own section's rows
        assert set(rows[:, section].ravel()) - {-1} == set(np.flatnonzero(row == section))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_chunks_of_grouped_convolutions_meet_their_own_rows(mode, threads):
    features, machine = isa("cpu", threads), replace(resolve("cpu"), **SMALL)
    case = grouped(features.lanes, (1, 64, 32, 9, 15), 4, 0.2, "relu", True)
    several = {}
    for option in spmm.FAMILY.offers(case.layer, machine, features, "fp32"):
        tiling = option.params.tiling
        if tiling.sections > 1 and option.kernel == f"spmm/{mode}":
            several.setdefault(tiling.turns > 1, []).append(option)
    assert (mode in ("im2col", "mec")) in several  # the copies of a group's channels do not fit the cache
    for options in several.values():
        option = options[len(options) // 2]
        check(spmm.FAMILY, case, option, features, "cpu")
        whole = replace(option.params, tiling=replace(option.params.tiling, sections=1))
        priced = [spmm.work(p, 1000, machine.l1_bytes, machine.l2_bytes) for p in (option.params, whole)]
        assert priced[0].groups * 4 == priced[1].groups
        assert priced[0].loads < priced[1].loads
