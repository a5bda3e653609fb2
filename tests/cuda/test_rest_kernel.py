"""2:4 and a rest is exactly reversible, and its kernel equals numpy exactly whatever the pattern of non-zeros."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.errors import FormatError
from sparsec.kernels.cuda import rest, tiles
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.products import CONVOLUTIONS, DTYPES, counted, is_caught, needs_compiler, run

SMALL = Tile(64, 32, 64, (2, 1), 3)
FINISH = Epilogue("relu", residual=True)
PRODUCTS = {
    "aligned": MmaParams(64, 32, 128, SMALL),
    "one token": MmaParams(130, 1, 260, Tile(32, 8, 128, (1, 1), 4)),
    "tails": MmaParams(100, 35, 136, Tile(64, 32, 64, (2, 2), 3), epilogue=FINISH),
    "tails, features first": MmaParams(100, 35, 136, Tile(64, 32, 64, (2, 2), 3), layout="kn", epilogue=FINISH),
    "a batch in shares of K": MmaParams(66, 20, 300, SMALL, layout="kn", batch=2, split_k=3, out="float32"),
    "shares of K": MmaParams(100, 36, 324, Tile(128, 64, 64, (2, 2), 2), "bfloat16", "bfloat16", split_k=2),
    "bfloat16, features first": MmaParams(40, 24, 68, Tile(32, 8, 128, (1, 1), 2), "bfloat16", "float32", "kn"),
    "gathered": MmaParams(64, 16, 100, SMALL, gather=Gather(72, 2)),
    "3x3": CONVOLUTIONS["3x3"],
    "a convolution in shares of K": CONVOLUTIONS["shares of K"],
}
PATTERNS = {
    "dense": lambda rng, shape: np.ones(shape, bool),
    "few": lambda rng, shape: rng.random(shape) < 0.15,
    "2:4": lambda rng, shape: np.tile([True, False, False, True], (shape[0], shape[1] // 4)),
    "one block": lambda rng, shape: np.add.outer(np.arange(shape[0]) // 16 == 1, np.arange(shape[1]) < 33) == 2,
}


def weight_of(rng, p, pattern):
    values = rng.integers(1, 5, (p.m, p.depth)) * rng.choice([-1, 1], (p.m, p.depth))
    return (values * PATTERNS[pattern](rng, values.shape)).astype(DTYPES[p.dtype])


@needs_compiler
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_exact(name):
    p, rng = PRODUCTS[name], np.random.default_rng(1)
    params = rest.params(weight_of(rng, p, "dense"), p)  # of the most there can be: one kernel for all patterns
    for pattern in PATTERNS:
        weight = weight_of(rng, p, pattern)
        wrong, (product, *_) = run(p, counted(rest, params), seeds=range(2), weight=weight)
        assert wrong == 0, pattern
        assert product.bank_conflicts == 0


@needs_compiler
@pytest.mark.parametrize("tile", tiles.TILES[::5], ids=str)
def test_tiles_are_exact(tile):
    p = MmaParams(tile.rows + 8, tile.columns + 3, 2 * tile.depth + 4, tile)
    weight = weight_of(np.random.default_rng(1), p, "few")
    assert run(p, counted(rest, rest.params(weight, p)), weight=weight)[0] == 0


@given(m=st.integers(1, 100), groups=st.integers(1, 40), seed=st.integers(0, 9),
       pattern=st.sampled_from(list(PATTERNS)), tile=st.sampled_from([SMALL, Tile(32, 8, 256, (1, 1), 4)]))
def test_unpack_inverts_pack(m, groups, seed, pattern, tile):
    p = MmaParams(m, 1, 4 * groups, tile)
    weight = weight_of(np.random.default_rng(seed), p, pattern)
    params = rest.params(weight, p)
    arrays = rest.pack(weight, params)
    np.testing.assert_array_equal(rest.unpack(arrays, params), weight)
    lengths = {name: length for name, (length, _) in rest.arguments(params).items()}
    assert {name: array.size for name, array in arrays.items()}.items() <= lengths.items()


def test_weights_that_half_precision_makes_zero_leave_room():
    wide = np.ones((64, 64), np.float32)
    wide[:, ::3] = 1e-9
    params = rest.params(wide, MmaParams(64, 1, 64, SMALL))
    weight = wide.astype(np.float16)
    np.testing.assert_array_equal(rest.unpack(rest.pack(weight, params), params), weight)


@pytest.mark.parametrize(("sparsity", "percent"), [(50, 9.4), (60, 5.1), (70, 2.3), (80, 0.72), (90, 0.09)])
def test_what_independent_masks_leave_over(sparsity, percent):
    weight = np.random.default_rng(0).random((2048, 2048)) < 1 - sparsity / 100
    assert 100 * len(rest.left_over(weight)[0]) / weight.size == pytest.approx(percent, rel=0.1)


@pytest.mark.parametrize(("change", "reason"), [
    ({"dtype": "int8"}, "2-byte"), ({"k": 66}, "not a multiple of 4"),
    ({"tile": replace(SMALL, rows=32)}, "share a word"),
])
def test_other_products_are_refused(change, reason):
    p = replace(PRODUCTS["aligned"], **change)
    with pytest.raises(FormatError, match=reason):
        rest.params(np.ones((p.m, p.k)), p)


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
PRODUCT = PRODUCTS["tails"]


@pytest.fixture(scope="module")
def mutated():
    """A weight with a rest, and its parameters; the product is right without a mutation."""
    weight = weight_of(np.random.default_rng(1), PRODUCT, "few")
    params = rest.params(weight, PRODUCT)
    assert run(PRODUCT, counted(rest, params), weight=weight)[0] == 0
    return weight, params


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(mutated, name):
    weight, params = mutated

    def mutate(source):
        mutant = MUTANTS[name](source)
        assert mutant != source
        return mutant

    assert is_caught(PRODUCT, counted(rest, params), mutate=mutate, weight=weight)


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
    weight, params = mutated
    arrays = rest.pack(weight, params)
    parts = np.split(arrays["rest"].reshape(params.stages, -1), [params.bounds_bytes // 4], axis=1)
    wrong = arrays | {"rest": np.hstack(REPACKED[name](*parts)).ravel()}
    family = SimpleNamespace(**vars(counted(rest, params)) | {"pack": lambda *_: wrong})
    assert is_caught(PRODUCT, family, weight=weight)
