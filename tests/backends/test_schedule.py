"""Kernels that Relax derives from operators get loops worth vectorising, and threads only where they pay."""

import numpy as np
import pytest
import tvm
import tvm_ffi
from scipy import special
from tvm import te, tirx

from sparsec.backends.cpu.build import settings
from sparsec.backends.cpu.schedule import schedule
from sparsec.backends.cpu.vector_math import expand_functions
from sparsec.target import resolve
from tests.support.targets import TARGETS


def loops(function):
    """The extents of the loops from the outermost on; those that run in parallel are negative."""
    found = []
    tvm_ffi.structural_walk(function.body, (tirx.For, found.append), order="pre")
    return [int(loop.extent) * (-1 if loop.kind == tirx.ForKind.PARALLEL else 1) for loop in found]


def sum_with(channels, pixels, per_channel):
    x = te.placeholder((1, channels, pixels, pixels))
    other = te.placeholder((channels, 1, 1) if per_channel else x.shape)
    y = te.compute(x.shape, lambda *i: x[i] + (other[i[1], 0, 0] if per_channel else other[i]))
    return te.create_prim_func([x, other, y])


def transposition(rows, columns):
    x = te.placeholder((rows, columns))
    return te.create_prim_func([x, te.compute((columns, rows), lambda i, j: x[j, i])])


@pytest.mark.parametrize(("function", "threads", "expected"), [
    (sum_with(64, 56, per_channel=False), 1, [64 * 56 * 56]),
    (sum_with(64, 56, per_channel=True), 1, [64, 56 * 56]),  # what the operands do not share stays a loop of its own
    (sum_with(64, 56, per_channel=True), 2, [-2, 32, 56 * 56]),
    (sum_with(64, 56, per_channel=False), 2, [-2, 32 * 56 * 56]),
    (sum_with(4, 8, per_channel=True), 2, [4, 64]),  # too little work for threads
    (transposition(96, 64), 1, [4, 6, 16, 16]),
])
def test_loops(function, threads, expected):
    assert loops(schedule(function, threads)) == expected


def test_intermediates_are_computed_in_place_unless_they_multiply():
    x = te.placeholder((1000,))
    double = te.compute(x.shape, lambda i: x[i] + x[i])
    chain = te.compute(x.shape, lambda i: double[i] * double[i])
    spread = te.compute((50, 1000), lambda i, j: chain[j] + x[j])  # would compute the chain 50 times
    assert loops(schedule(te.create_prim_func([x, chain]), 1)) == [1000]
    assert loops(schedule(te.create_prim_func([x, spread]), 1)) == [1000, 50, 1000]


SPECIAL = np.array([0, -0.0, 1e-30, 1, -1, 88.5, -88.5, -103.5, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
VALUES = np.concatenate([SPECIAL, np.linspace(-20, 20, 4099, dtype=np.float32)])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("function", "reference"), [
    (te.exp, np.exp), (te.erf, special.erf), (te.tanh, np.tanh), (te.sigmoid, special.expit)])
def test_functions_are_expanded_without_losing_special_values(function, reference, target):
    x = te.placeholder(VALUES.shape)
    kernel = expand_functions(te.create_prim_func([x, te.compute(x.shape, lambda i: function(x[i]))]))
    with settings(resolve(target)) as llvm, np.errstate(all="ignore"):
        executable = tvm.compile(kernel.with_attr("global_symbol", "main"), target=llvm)
        expected = reference(VALUES.astype(np.float64)).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros_like(VALUES))
    executable["main"](tvm.runtime.tensor(VALUES), y)
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-6, atol=2e-7)
