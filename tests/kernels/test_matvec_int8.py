"""The kernels for few rows on 8-bit integers hold the longest sums, and refuse what integers cannot hold."""

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.kernels.cpu import rows
from sparsec.kernels.cpu.rows import gemv_int8, matvec_int8
from sparsec.kernels.cpu.rows.layer import RowProduct
from sparsec.kernels.cpu.rows.matvec import Matvec
from sparsec.kernels.cpu.rows.matvec_int8 import MOST_INPUTS
from sparsec.target import resolve
from tests.support.targets import compiled, isa

CPU = resolve("cpu")
INTEGERS = [family for family in rows.FAMILIES.values() if family.precision == "int8"]


def run(family, weight, x):
    """The products of rows, by the first option of a family."""
    layer = RowProduct(weight, np.zeros(len(weight), np.float32), Matvec(*weight.shape, len(x)))
    options = family.offers(layer, CPU, isa("cpu"), "int8")
    if isinstance(options, str):
        pytest.skip(options)
    kernel = call(layer, options[0], isa("cpu"))
    return compiled(kernel.kernel, "cpu")(*kernel.constants, x.ravel(), out=kernel.output.size).reshape(len(x), -1)


@pytest.mark.parametrize("family", INTEGERS, ids=lambda family: family.name)
def test_the_longest_sums_fit(family):
    weight, x = np.ones((16, MOST_INPUTS), np.float32), np.ones((1, MOST_INPUTS), np.float32)
    np.testing.assert_allclose(run(family, weight, -x), -MOST_INPUTS, rtol=1e-6)


@pytest.mark.parametrize(("weight", "reason"), [
    (np.ones((1, MOST_INPUTS + 1), np.float32), "32 bits"), (np.float32([[1, np.nan]]), "NaN"),
    (np.float32([[1, np.inf]]), "infinity"), (np.ones((3, 5), np.float32), None),
])
def test_what_integers_cannot_hold_has_a_reason(weight, reason):
    assert (matvec_int8.reject(weight) is None) if reason is None else reason in matvec_int8.reject(weight)


def test_a_row_of_zeros_and_one_of_zero_activations_are_zero():
    weight, x = np.ones((20, 8), np.float32), np.ones((2, 8), np.float32)
    weight[3], x[1] = 0, 0
    y = run(gemv_int8.FAMILY, weight, x)
    assert y[0, 3] == 0
    assert not y[1].any()
    np.testing.assert_allclose(y[0, :3], 8, rtol=1e-6)
