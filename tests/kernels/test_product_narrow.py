"""Products on narrow activations round as bf16 does, err as 8 bits must, and saturate."""

import ml_dtypes
import numpy as np
import pytest

from sparsec.graph.layout import Tiled
from sparsec.kernels.cpu.products import spmm, spmm_bf16, spmm_int8
from sparsec.kernels.cpu.products.stencil import linear
from sparsec.kernels.cpu.products.tiling import Tiling
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.ranges import Ranges
from tests.support.targets import TARGETS, compiled, isa


def test_rounding_to_bf16_keeps_ties_infinities_and_nan():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-30] * 8, np.float32)
    stencil = linear(Tiled(1, 64, 1, 64), 1, 4)
    plain = spmm.SpmmParams(Tiling(stencil, Epilogue(), "im2col", 2, 1), unroll=1)
    params = spmm_bf16.SpmmBf16Params(plain, paired=False)
    function = compiled(spmm_bf16.build(params, isa("cpu-generic")), "cpu-generic")
    ones = spmm_bf16.pack(np.ones((1, 1), np.float32), params)
    one = function(*ones.values(), np.zeros(1, np.float32), values, out=64)
    np.testing.assert_array_equal(one, values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("bits", [7, 8])
def test_integers_err_by_half_a_step_of_each_operand(bits):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((64, 50)) * np.exp(rng.standard_normal((64, 1)))).astype(np.float32)
    weight = np.where(rng.random((8, 50)) < 0.3, rng.standard_normal((8, 50)), 0).astype(np.float32)
    tiling = Tiling(linear(Tiled(1, 64, 50, 64), 8, 16), Epilogue(), "im2col", 4, 50)
    y = spmm_int8.reference(weight, x.T, spmm_int8.SpmmInt8Params(spmm.SpmmParams(tiling), bits)).T
    step_x = np.abs(x).max(axis=1, keepdims=True) / (2**(bits - 1) - 1)
    step_w = np.abs(weight).max(axis=1) / 127
    bound = np.abs(x) @ (weight != 0).T * step_w / 2 + step_x / 2 * np.abs(weight).sum(axis=1) + 13 * step_x * step_w
    assert (np.abs(y - x @ weight.T) <= bound).all()


@pytest.mark.parametrize("value", [1e30, -1e30, np.inf, np.nan])
def test_what_static_ranges_leave_out_saturates(value):
    target = TARGETS[1].values[0]
    tiling = Tiling(linear(Tiled(1, 32, 2, 32), 4, 8), Epilogue(), "im2col", 4, 2)
    span = np.linspace(0.5, 3, 2, dtype=np.float32)
    params = spmm_int8.SpmmInt8Params(spmm.SpmmParams(tiling), 8 if isa(target).vnni else 7, static=True,
                                      ranges=Ranges(-span, span[::-1]))
    weight = np.eye(4, 2, dtype=np.float32)
    function = compiled(spmm_int8.build(params, isa(target)), target)
    x = np.full(64, value, np.float32)
    y = function(*spmm_int8.pack(weight, params).values(), np.zeros(4, np.float32), x, out=128)
    assert np.abs(y).max() <= 3.1
