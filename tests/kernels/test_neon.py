"""Every kernel family for aarch64, run by qemu, against its reference: `pytest -k neon`."""

import os
from dataclasses import replace

import numpy as np
import pytest

from sparsec.backends.cpu.calls import call
from sparsec.cost.precisions import PRECISIONS
from sparsec.kernels.cpu.families import FAMILIES
from sparsec.target import resolve
from tests.support.arm import NEEDS_ARM, NEON, compiled
from tests.support.layers import CASES
from tests.support.targets import isa

OLDER = replace(resolve("cpu-neon"), name="armv8", mcpu="cortex-a72", features=frozenset({"asimd"}))
SMALL = {"l1_bytes": 4096, "l2_bytes": 16384}
EVERY = [(family, index, target) for family in FAMILIES.values() for index in range(len(CASES[family.layer]))
         for target in (*NEON, OLDER)]
SHORT = [next(each for number, each in enumerate(mine, 1) if number % len(mine) == at % len(mine))
         for at, mine in enumerate([each for each in EVERY if each[0] is family] for family in FAMILIES.values())]


def offered(family, index, target):
    """A case, and the family's options for it or the reason to have none."""
    features = isa(target, 1 + index % 3)
    make, *arguments = CASES[family.layer][index]
    case = make(features.lanes, *arguments)
    return case, features, family.offers(case.layer, replace(resolve(target), **SMALL), features, list(PRECISIONS)[-1])


@NEEDS_ARM
@pytest.mark.parametrize(("family", "index", "target"), EVERY if os.environ.get("SPARSEC_LONG") else SHORT,
                         ids=lambda each: getattr(each, "name", each))
def test_kernels_compute_what_their_reference_says(family, index, target):
    case, features, options = offered(family, index, target)
    if isinstance(options, str):
        pytest.skip(options)
    option = options[np.random.default_rng(index).integers(len(options))]
    kernel = call(case.layer, option, features)
    y = compiled(kernel.kernel, target)(*kernel.constants, *case.inputs, out=kernel.output.size,
                                        dtype=kernel.output.dtype)
    expected = case.finished(family.reference(case.layer.weight, case.columns, option.params))
    defined = ~np.isnan(expected)
    tolerance = 2e-5 * max(1, np.abs(expected[defined]).max()) + (4e-4 if family.precision != "fp32" else 0)
    np.testing.assert_allclose(y[defined], expected[defined], rtol=0, atol=tolerance)


@pytest.mark.parametrize("target", NEON)
@pytest.mark.parametrize("layer", CASES)
def test_every_layer_has_a_dense_kernel_for_neon(layer, target):
    for index in range(len(CASES[layer])):
        found = [offered(family, index, target)[2] for family in FAMILIES.values() if family.layer is layer]
        assert any(option.keeps_ieee for options in found if not isinstance(options, str) for option in options)
