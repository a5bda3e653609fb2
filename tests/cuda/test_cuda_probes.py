"""The kernels that a GPU's launches and bandwidths are measured with: what they read, and that loads are in flight."""

import numpy as np
import pytest

from sparsec.backends.cuda import calibrate
from sparsec.kernels.cuda import probes
from tests.support.cuda import products, sass
from tests.support.cuda.emulator import launches


@products.needs_compiler
@pytest.mark.parametrize(("pieces", "blocks", "turns", "stride"), [(24, 3, 8, 3), (5, 2, 16, 3)])
def test_every_block_reads_a_piece_a_turn(pieces, blocks, turns, stride):
    x = np.random.default_rng(0).integers(-9, 10, (pieces, probes.THREADS, probes.VECTOR)).astype(np.float32)
    y = np.full((blocks, probes.THREADS), np.nan, np.float32)
    launches.call(probes.read(pieces, blocks, turns, stride), x.ravel(), y.reshape(-1), pipeline="tirx")
    for block in range(blocks):
        read = [(block + turn * stride) % pieces for turn in range(turns)]
        np.testing.assert_array_equal(y[block], x[read].sum(axis=(0, 2)))


@sass.needs_nvcc
@sass.needs_cuobjdump
def test_a_thread_asks_for_all_of_some_turns_in_vectors_before_it_sums():
    kernel = probes.read(1024, 1024, calibrate.NEAR_TURNS, calibrate.NEAR_STRIDE)
    sass.check_limits(kernel, probes.THREADS, 0, "sm_80")
    assert sass.instructions(kernel, "sm_80", "LDG.E.128") >= probes.TOGETHER
    assert sass.instructions(kernel, "sm_80", "LDG.E") == sass.instructions(kernel, "sm_80", "LDG.E.128")


def test_the_memory_is_read_once_and_a_cache_by_strides_that_come_round():
    pieces = calibrate.NEAR_BYTES // (calibrate.FLOAT * probes.PIECE)
    assert np.gcd(calibrate.NEAR_STRIDE, pieces) == 1
    assert not {calibrate.FAR_TURNS % probes.TOGETHER, calibrate.NEAR_TURNS % probes.TOGETHER} - {0}
