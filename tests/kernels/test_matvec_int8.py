"""The kernels for few rows on 8-bit integers equal their numpy reference, which errs as 8 bits must."""

import numpy as np
import pytest

from sparsec.kernels.cpu.rows import gemv_int8, matvec_int8, well_int8
from sparsec.kernels.cpu.rows.gemv_int8 import GemvInt8Params
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.cpu.rows.matvec_int8 import MOST_INPUTS
from sparsec.kernels.cpu.rows.well_int8 import WellInt8Params
from sparsec.target import resolve
from tests.support.targets import TARGETS, compiled, isa

KERNELS = {
    "dense": (gemv_int8, lambda shape, isa: GemvInt8Params(shape, 2, 8 if isa.vnni else 7, lanes=isa.lanes,
                                                           threads=isa.threads)),
    "bitmap": (gemv_int8, lambda shape, isa: GemvInt8Params(shape, 2, 8, bitmap=True, threads=isa.threads)),
    "well": (well_int8, lambda shape, isa: WellInt8Params(shape, threads=isa.threads)),
}
REJECTS = {"dense": lambda isa: gemv_int8.reject(isa, bitmap=False),
           "bitmap": lambda isa: gemv_int8.reject(isa, bitmap=True), "well": well_int8.reject}
SHAPES = [  # outputs, inputs, batch, density
    (1, 1, 1, 1.0), (16, 64, 1, 0.5), (37, 5, 2, 0.3), (100, 300, 1, 0.05), (33, 70, 8, 1.0), (48, 100, 1, 0.0),
]


def check(name, target, shape, density, threads=1):
    family, choose = KERNELS[name]
    if reason := REJECTS[name](isa(target)):
        pytest.skip(reason)
    rng, size = np.random.default_rng(0), shape.batch * shape.outputs
    weight = rng.standard_normal((shape.outputs, shape.inputs)) * (rng.random((shape.outputs, shape.inputs)) < density)
    x = rng.standard_normal((shape.batch, shape.inputs)).astype(np.float32)
    bias, residual = (rng.standard_normal(n).astype(np.float32) for n in (shape.outputs, size))
    params = choose(shape, isa(target, threads))
    weight = weight.astype(np.float32)
    y = compiled(family.build(params, isa(target)), target)(
        *family.pack(weight, params).values(), bias, x.ravel(), *([residual] if shape.residual else []), out=size)
    extra = residual.reshape(shape.batch, -1) if shape.residual else 0
    expected, exact = (np.maximum(product + bias + extra, 0)
                       for product in (family.reference(weight, x.T, params).T, x @ weight.T))
    np.testing.assert_allclose(y, expected.ravel(), rtol=0, atol=2e-6 * max(1, np.abs(expected).max()))
    np.testing.assert_allclose(expected, exact, rtol=0, atol=0.05 * max(1, np.abs(exact).max()))


@pytest.mark.parametrize("target", [*TARGETS, "cpu"])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("outputs", "inputs", "batch", "density"), SHAPES)
def test_shapes(outputs, inputs, batch, density, name, target):
    check(name, target, Matvec(outputs, inputs, batch, "relu", residual=batch > 1), density)


@pytest.mark.parametrize("name", KERNELS)
def test_threads_share_the_rows(name):
    check(name, "cpu", Matvec(150, 40, 2, "relu"), 0.2, threads=3)


@pytest.mark.parametrize("name", KERNELS)
def test_the_longest_sums_fit(name):
    family, choose = KERNELS[name]
    if reason := REJECTS[name](isa("cpu")):
        pytest.skip(reason)
    weight, x = np.ones((16, MOST_INPUTS), np.float32), np.ones((1, MOST_INPUTS), np.float32)
    params = choose(Matvec(*weight.shape), isa("cpu"))
    y = compiled(family.build(params, isa("cpu")), "cpu")(
        *family.pack(weight, params).values(), np.zeros(16, np.float32), -x.ravel(), out=16)
    np.testing.assert_allclose(y, -MOST_INPUTS, rtol=1e-6)


@pytest.mark.parametrize(("weight", "reason"), [
    (np.ones((1, MOST_INPUTS + 1), np.float32), "32 bits"), (np.float32([[1, np.nan]]), "NaN"),
    (np.float32([[1, np.inf]]), "infinity"), (np.ones((3, 5), np.float32), None),
])
def test_what_integers_cannot_hold_has_a_reason(weight, reason):
    assert (matvec_int8.reject(weight) is None) if reason is None else reason in matvec_int8.reject(weight)


def test_a_row_of_zeros_and_one_of_zero_activations_are_zero():
    shape = Matvec(20, 8, 2)
    weight, x = np.ones((20, 8), np.float32), np.ones((2, 8), np.float32)
    weight[3], x[1] = 0, 0
    if reason := gemv_int8.reject(isa("cpu"), bitmap=False):
        pytest.skip(reason)
    params = KERNELS["dense"][1](shape, isa("cpu"))
    y = compiled(gemv_int8.build(params, isa("cpu")), resolve("cpu").name)(
        *gemv_int8.pack(weight, params).values(), np.zeros(20, np.float32), x.ravel(), out=40).reshape(2, 20)
    assert y[0, 3] == 0
    assert not y[1].any()
    np.testing.assert_allclose(y[0, :3], 8, rtol=1e-6)
