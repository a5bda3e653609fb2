"""Windowed ELL agrees with numpy for every codec, row order and instruction set, at every awkward shape."""

import numpy as np
import pytest

from sparsec.errors import FormatError
from sparsec.kernels import well
from sparsec.kernels.matvec import Matvec, reference
from sparsec.kernels.well import CODECS, WellParams
from tests.kernels.targets import TARGETS, compiled, isa

TOLERANCE = {"f32": 2e-6, "embedded": 1e-5, "f16": 2e-3}
SHAPES = [  # outputs, inputs, batch, density
    (1, 1, 1, 1.0), (16, 32, 1, 0.5), (37, 5, 2, 0.3), (100, 300, 1, 0.05), (33, 70, 3, 1.0), (40, 64, 8, 0.1),
    (48, 100, 1, 0.0),
]
WIDE = [t for t in TARGETS if well.reject(isa(t.values[0])) is None]


def skewed(rng, outputs, inputs, density):
    """Non-zeros at random, in some rows far more often than in others."""
    share = np.minimum(density * rng.uniform(0, 2, (outputs, 1)), 1) if density < 1 else 1
    return (rng.standard_normal((outputs, inputs)) * (rng.random((outputs, inputs)) < share)).astype(np.float32)


@pytest.mark.parametrize("target", WIDE)
@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("outputs", "inputs", "batch", "density"), SHAPES)
def test_matches_numpy(outputs, inputs, batch, density, codec, sort, target):
    rng = np.random.default_rng(0)
    shape = Matvec(outputs, inputs, batch, "leaky_relu", alpha=0.1, residual=sort)
    params = WellParams(shape, codec, sort, lanes=isa(target).lanes, threads=1 + outputs % 2)
    weight = skewed(rng, outputs, inputs, density)
    x, bias, residual = (rng.standard_normal(n).astype(np.float32)
                         for n in (batch * inputs, outputs, batch * outputs))
    run = compiled(well.build(params), target)
    extra = [residual] if sort else []
    y = run(*well.pack(weight, params).values(), bias, x, *extra, out=batch * outputs)
    exact = reference(weight, x, bias, residual if sort else None, shape)
    np.testing.assert_allclose(y, exact.ravel(), rtol=0, atol=TOLERANCE[codec] * max(1, np.abs(exact).max()))


@pytest.mark.parametrize("codec", ["f32", "f16"])
def test_keeps_nan_and_infinity(codec):
    weight = np.zeros((2, 40), np.float32)
    weight[0, 3], weight[1, 30] = np.nan, np.inf
    values = well.pack(weight, WellParams(Matvec(2, 40), codec))["values"]
    assert np.isnan(values).sum() == 1
    assert np.isinf(values).sum() == 1


@pytest.mark.parametrize(("codec", "value"), [("embedded", np.nan), ("embedded", np.inf), ("f16", 1e5)])
def test_refuses_values_that_the_codec_cannot_hold(codec, value):
    with pytest.raises(FormatError, match="f32 values"):
        well.pack(np.full((1, 1), value, np.float32), WellParams(Matvec(1, 1), codec))


def test_sorting_pays_for_uneven_rows_only():
    rng = np.random.default_rng(0)
    even = rng.random((512, 512)) < 0.1
    assert not well.sorting_pays(even, 16)
    assert well.sorting_pays(even & (np.arange(512) % 16 < 4)[:, None], 16)


def test_window_packing_pads_as_published():
    """1.6 slots per non-zero at 10 % density, 1.2 at 30 %."""
    rng = np.random.default_rng(0)
    for density, padding in ((0.1, 1.6), (0.3, 1.2)):
        weight = (rng.random((512, 512)) < density).astype(np.float32)
        stored = well.pack(weight, WellParams(Matvec(512, 512)))["values"].size
        assert stored / weight.sum() == pytest.approx(padding, rel=0.05)
