"""Windowed ELL keeps or refuses special values, sorts where it pays and pads no more than published."""

import numpy as np
import pytest

from sparsec.errors import FormatError
from sparsec.kernels.cpu.rows import well
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.cpu.rows.well import WellParams


@pytest.mark.parametrize("codec", ["f32", "f16"])
def test_keeps_nan_and_infinity(codec):
    weight = np.zeros((2, 40), np.float32)
    weight[0, 3], weight[1, 30] = np.nan, np.inf
    values = well.recipe(WellParams(Matvec(2, 40), codec)).pack(weight)["values"]
    assert np.isnan(values).sum() == 1
    assert np.isinf(values).sum() == 1


def test_refuses_values_that_the_codec_cannot_hold():
    with pytest.raises(FormatError, match="f32 values"):
        well.recipe(WellParams(Matvec(1, 1), "f16")).pack(np.full((1, 1), 1e5, np.float32))


def test_sorting_pays_for_uneven_rows_only():
    rng = np.random.default_rng(0)
    even = rng.random((512, 512)) < 0.1
    assert not well.slot_count(even, 16)[0]
    assert well.slot_count(even & (np.arange(512) % 16 < 4)[:, None], 16)[0]


def test_window_packing_pads_as_published():
    """1.6 slots per non-zero at 10 % density, 1.2 at 30 %."""
    rng = np.random.default_rng(0)
    for density, padding in ((0.1, 1.6), (0.3, 1.2)):
        weight = (rng.random((512, 512)) < density).astype(np.float32)
        stored = well.recipe(WellParams(Matvec(512, 512))).pack(weight)["values"].size
        assert stored / weight.sum() == pytest.approx(padding, rel=0.05)
