"""Buffers of floats become codes as by ONNX's QuantizeLinear, on every instruction set, at ties and beyond bounds."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsec.kernels.cpu.codes import quantize
from sparsec.kernels.tensors import CodesParams
from tests.support.targets import FEATURED, TARGETS, compiled, isa

SIZE = 4 * 16 * 40 + 17


def expected(x, scale, zero):
    with np.errstate(over="ignore", invalid="ignore"):
        codes = np.rint(x / np.float32(scale)) + zero
    return np.clip(np.nan_to_num(codes, nan=0.0), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def kernels():
    return {}


def codes_of(kernels, target, x, scale, zero):
    name = str(target)
    if name not in kernels:
        kernels[name] = compiled(quantize.build_flat(CodesParams(SIZE), isa(target)), target)
    return kernels[name](np.float32([scale]), np.float32([zero]), x, out=SIZE, dtype="uint8")


@pytest.mark.parametrize("target", [*TARGETS, *FEATURED])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mantissa=st.integers(2**23, 2**24 - 1), exponent=st.integers(-145, 100), zero=st.integers(0, 255),
       seed=st.integers(0, 99))
def test_codes_are_those_of_a_division(kernels, target, mantissa, exponent, zero, seed):
    """Every x is a unit in the last place or two from a tie, where the last bit of a quotient decides."""
    scale = np.float32(np.ldexp(mantissa, exponent - 23))
    rng = np.random.default_rng(seed)
    x = ((rng.integers(-260, 260, SIZE) + 0.5) * scale.astype(np.float64)).astype(np.float32)
    x = (x.view(np.int32) + rng.integers(-2, 3, SIZE).astype(np.int32)).view(np.float32)
    np.testing.assert_array_equal(codes_of(kernels, target, x, scale, zero), expected(x, scale, zero))


@pytest.mark.parametrize("target", [*TARGETS, *FEATURED])
@pytest.mark.parametrize("scale", [0.0078125, 1e-38, 3e38])
def test_what_saturates(kernels, target, scale):
    """Far numbers and infinities become the least and the largest code; NaN becomes 0."""
    x = np.resize(np.float32([np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 1e30, -1e30]), SIZE)
    np.testing.assert_array_equal(codes_of(kernels, target, x, scale, 7), expected(x, scale, 7))
    assert not codes_of(kernels, target, np.full(SIZE, np.nan, np.float32), scale, 7)[:-16].any()


@pytest.mark.parametrize("target", [*TARGETS, *FEATURED])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("size", [1, 15, 64, 130])
def test_there_and_back(size, dtype, target):
    """Any number of elements, of either type; every code comes back from what it stands for."""
    codes = np.resize(np.arange(256, dtype=np.uint8).view(dtype), size)
    scale, zero = np.float32([0.25]), np.float32([np.iinfo(dtype).min + 100])
    back = compiled(quantize.build_flat(CodesParams(size, dtype, back=True), isa(target)), target)
    floats = back(scale, zero, codes, out=size)
    np.testing.assert_array_equal(floats, (codes.astype(np.float32) - zero) * scale)
    forth = compiled(quantize.build_flat(CodesParams(size, dtype), isa(target)), target)
    np.testing.assert_array_equal(forth(scale, zero, floats, out=size, dtype=dtype), codes)
