"""The kernels for few columns agree with numpy for every epilogue and instruction set, at every awkward shape."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.graph.operators.epilogue import ACTIVATIONS
from sparsec.kernels.cpu.rows import bitmap_vector, csr_vector, gemv, nm_vector, well
from sparsec.kernels.cpu.rows.bitmap_vector import BitmapParams
from sparsec.kernels.cpu.rows.csr_vector import CsrParams
from sparsec.kernels.cpu.rows.matvec import Matvec, reference
from sparsec.kernels.cpu.rows.nm_vector import NmParams
from sparsec.kernels.cpu.rows.well import CODECS, WellParams
from sparsec.kernels.packing.recipe import balanced
from tests.support.targets import TARGETS, compiled, isa, runnable

SHAPES = [  # outputs, inputs, batch, density
    (1, 1, 1, 1.0), (16, 32, 1, 0.5), (37, 5, 2, 0.3), (100, 300, 1, 0.05), (33, 70, 3, 1.0), (40, 64, 11, 0.1),
    (48, 100, 1, 0.0),
]


def well_kernel(codec, sort):
    def params(shape, isa, _weight):
        return WellParams(shape, codec, sort, lanes=isa.lanes, threads=isa.threads)
    return params, well


def kernels_of(codec):
    """The kernels that store values in f32 or f16."""
    def dense(shape, isa, _weight):
        return replace(gemv.choose(shape, isa), codec=codec)

    def nm(shape, isa, weight):
        return NmParams(shape, nm_vector.slots_of(weight, isa.lanes), codec, isa.lanes, isa.threads)

    def bitmap(shape, isa, _weight):
        return BitmapParams(shape, 2, codec, isa.lanes, isa.threads)

    return {f"dense-{codec}": (dense, gemv), f"nm-{codec}": (nm, nm_vector), f"bitmap-{codec}": (bitmap, bitmap_vector)}


KERNELS = {
    "csr": (lambda shape, isa, _weight: CsrParams(shape, lanes=isa.lanes, threads=isa.threads), csr_vector),
    **kernels_of("f32"), **kernels_of("f16"),
} | {f"well-{codec}-{'sorted' if sort else 'natural'}": well_kernel(codec, sort)
     for codec in CODECS for sort in (False, True)}
TOLERANCE = {"embedded": 1e-5, "f16": 2e-3}


def skewed(rng, outputs, inputs, density):
    """Non-zeros at random, in some rows far more often than in others."""
    share = np.minimum(density * rng.uniform(0, 2, (outputs, 1)), 1) if density < 1 else 1
    return (rng.standard_normal((outputs, inputs)) * (rng.random((outputs, inputs)) < share)).astype(np.float32)


def check(name, shape, density, target, threads=1):
    choose, family = KERNELS[name]
    if reason := getattr(family, "reject", lambda _isa: None)(isa(target)):
        pytest.skip(reason)
    if "f16" in name and isa(target).lanes < 8:
        pytest.skip("no conversion of 16-bit floats")
    rng = np.random.default_rng(0)
    weight = skewed(rng, shape.outputs, shape.inputs, density)
    params = choose(shape, isa(target, threads), weight)
    x, bias, residual = (rng.standard_normal(n).astype(np.float32) for n in (
        shape.batch * shape.inputs, shape.outputs, shape.batch * shape.outputs))
    run = compiled(family.build(params), target)
    extra = [residual] if shape.residual else []
    y = run(*family.pack(weight, params).values(), bias, x, *extra, out=shape.batch * shape.outputs)
    exact = reference(weight, x, bias, residual if shape.residual else None, shape).ravel()
    tolerance = next((t for codec, t in TOLERANCE.items() if codec in name), 2e-6)
    np.testing.assert_allclose(y, exact, rtol=0, atol=tolerance * max(1, np.abs(exact).max()))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("outputs", "inputs", "batch", "density"), SHAPES)
def test_shapes(outputs, inputs, batch, density, name, target):
    check(name, Matvec(outputs, inputs, batch, "relu"), density, target)


@pytest.mark.parametrize("target", runnable("cpu-avx2"))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["dense-f32", "csr", "well-f32-sorted", "nm-f32"])
def test_epilogues(activation, name, target):
    check(name, Matvec(21, 40, 2, activation, alpha=0.2, beta=0.5, residual=True), 0.3, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KERNELS)
def test_threads_share_the_rows(name, target):
    check(name, Matvec(150, 40, 2), 0.2, target, threads=3)


def test_parts_are_balanced_and_complete():
    first = np.concatenate([[0], np.cumsum([9, 1, 1, 1, 9, 9, 0, 0])])
    assert balanced(first, 1).tolist() == [0, 8]
    assert balanced(first, 3).tolist() == [0, 2, 5, 8]
    assert balanced(np.zeros(5, int), 2).tolist() == [0, 0, 4]
