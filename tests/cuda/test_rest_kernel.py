"""What 2:4 leaves over, and that a wrong kernel or packing of it is caught."""

import re

import numpy as np
import pytest

from sparsec.kernels.cuda import bitmap, gaps, rest
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.products import SMALL, fitted, is_caught, needs_compiler, run, weight_index


@pytest.mark.parametrize("family", [rest.FAMILY, bitmap.FAMILY, gaps.FAMILY], ids=["rest", "bitmap", "gaps"])
def test_weights_that_half_precision_makes_zero_leave_room(family):
    p = fitted(family, MmaParams(64, 1, 64, SMALL))
    wide = np.ones((64, 64), np.float32)
    wide[:, ::3] = 1e-9
    params = family.params(wide, p)
    weight = wide.astype(np.float16)
    arrays = family.recipe(params).pack(weight)
    np.testing.assert_array_equal(family.unpack(arrays, params), weight)
    assert {name: array.size for name, array in arrays.items()}.items() <= {
        name: length for name, (length, _) in family.arguments(params).items()}.items()


@pytest.mark.parametrize(("sparsity", "percent"), [(50, 9.4), (60, 5.1), (70, 2.3), (80, 0.72), (90, 0.09)])
def test_what_independent_masks_leave_over(sparsity, percent):
    weight = np.random.default_rng(0).random((2048, 2048)) < 1 - sparsity / 100
    assert 100 * len(rest.left_over(weight)[0]) / weight.size == pytest.approx(percent, rel=0.1)


MUTANTS = {
    "another stage's rest": lambda s: s.replace("(&(rest_ptr[", "(&(rest_ptr[4 + "),
    "one item too few": lambda s: re.sub(r"(v_\d+ < )(v_\d+; \+\+)", r"\1 -1 + \2", s),
    "an item too many": lambda s: re.sub(r"(v_\d+ < )(v_\d+; \+\+)", r"\1 1 + \2", s),
    "rows of the other half": lambda s: s.replace("+ (uint)8))", "+ (uint)0))"),
    "another row": lambda s: s.replace(">> (uint)12) & (uint)15)", ">> (uint)12) & (uint)7)"),
    "the column for the value": lambda s: re.sub(r"(_ptr_\d+\[\d\]) >> \(uint\)16\);\n", r"\1 & (uint)4095);\n", s),
    "the value for the column": lambda s: s.replace("& (uint)4095)", ">> (uint)26)"),
    "slots exchanged": lambda s: re.sub(r"(\(\(uint\)_ptr_\d+)\[0\]\) \|", r"\1[1]) |", s),
    "no swizzle": lambda s: s.replace(">> 3) ^ ((((int)threadIdx.x) & 31) >> 2)", ">> 3) ^ 0"),
}
PRODUCT = MmaParams(100, 35, 136, Tile(64, 32, 64, (2, 2), 3), epilogue=Epilogue("relu", residual=True))


@pytest.fixture(scope="module")
def mutated():
    """A weight with a rest; the product is right without a mutation."""
    weight = weight_index(np.random.default_rng(1), PRODUCT, "few")
    assert run(PRODUCT, rest.FAMILY, weight)[0] == 0
    return weight


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(mutated, name):
    assert is_caught(PRODUCT, rest.FAMILY, mutated, mutate=MUTANTS[name])


REPACKED = {
    "bounds of another stage": lambda bounds, items: (np.roll(bounds, 1, axis=0), items),
    "bounds of exchanged blocks": lambda bounds, items: (bounds[:, [1, 0, 2, 3]], items),
    "another column": lambda bounds, items: (bounds, items ^ 1),
    "another row": lambda bounds, items: (bounds, items ^ 1 << rest.FEATURE_BITS),
    "values of another stage": lambda bounds, items: (bounds, items & 0xFFFF | items[::-1] & 0xFFFF0000),
    "no rest": lambda bounds, items: (bounds, np.zeros_like(items)),
}


@needs_compiler
@pytest.mark.parametrize("name", REPACKED)
def test_wrong_packing_is_caught(mutated, name):
    params = rest.params(mutated, PRODUCT)

    def repack(arrays):
        parts = np.split(arrays["rest"].reshape(params.stages, -1), [params.bounds_bytes // 4], axis=1)
        return arrays | {"rest": np.hstack(REPACKED[name](*parts)).ravel()}

    assert is_caught(PRODUCT, rest.FAMILY, mutated, repack=repack)
