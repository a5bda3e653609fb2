"""Every kernel family equals numpy exactly on the emulator, whatever the product, epilogue, pattern, tile and seed."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.errors import FormatError
from sparsec.graph.operators.epilogue import ACTIVATIONS as REFERENCES
from sparsec.kernels.cuda import tiles
from sparsec.kernels.cuda.arrange import Arranged, arranged, project
from sparsec.kernels.cuda.families import GENERATED
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator import launches
from tests.support.cuda.products import (
    FINISH,
    PATTERNS,
    PRODUCTS,
    SMALL,
    fitted,
    needs_compiler,
    packed,
    run,
    telling_weight,
    weight_index,
)

ALWAYS = ("2:4", "empty")  # what every family stores
EXACT = {name: family for name, family in GENERATED.items() if not family.precision}
"""Those that multiply the weights that they are given; `test_gap_codes.py` and `test_eight_bits.py` have the others."""
EVERY_FAMILY = pytest.mark.parametrize("family", EXACT.values(), ids=EXACT)


@pytest.mark.sampled(0.3)
@needs_compiler
@pytest.mark.parametrize("name", PRODUCTS)
@EVERY_FAMILY
def test_products_are_exact(family, name):
    wrong, (product, *_) = run(fitted(family, PRODUCTS[name]), family, seeds=range(2))
    assert wrong == 0
    assert product.bank_conflicts == 0


def is_stored(family, p, weight):
    try:
        packed(family, p, weight)
    except FormatError:
        return False
    return True


@pytest.mark.sampled(0.35)
@needs_compiler
@pytest.mark.parametrize("pattern", PATTERNS)
@EVERY_FAMILY
def test_every_pattern_is_exact_or_refused(family, pattern):
    p = fitted(family, MmaParams(100, 13, 144, SMALL, epilogue=FINISH))
    weight = weight_index(np.random.default_rng(1), p, pattern)
    if pattern not in ALWAYS and not is_stored(family, p, weight):
        pytest.skip(f"{family.name} does not store it")
    assert run(p, family, weight)[0] == 0


@pytest.mark.sampled(0.25)
@needs_compiler
@pytest.mark.parametrize(("family", "tile"), [pytest.param(family, tile, id=f"{family.name}, {tile}")
                                              for family in EXACT.values() for tile in family.tiles])
def test_every_tile_is_exact(family, tile):
    wrong, (product,) = run(MmaParams(tile.rows + 8, tile.columns + 3, tile.depth + 16, tile), family)
    assert wrong == 0
    assert product.bank_conflicts == 0


ALPHA, BETA = 0.2, 0.6
GRID = np.concatenate([np.linspace(-12, 12, 499), [-1e4, 1e4, 0, 1e-6, np.nan]]).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize(("family", "activation"), [
    pytest.param(family, activation, id=f"{family.name}, {activation}")
    for family, activation in zip(itertools.cycle(EXACT.values()), sorted(REFERENCES), strict=False)])
def test_activations_agree(family, activation):
    p = fitted(family, MmaParams(len(GRID), 1, 16, SMALL, out="float32", epilogue=Epilogue(activation, ALPHA, BETA)))
    params, arrays = packed(family, p, np.zeros((p.m, p.k), np.float16))
    y = np.zeros(p.m, np.float32)
    launches.call(family.build(params, ()), *arrays.values(), GRID, np.zeros(p.k, np.float16), y, pipeline="tirx")
    expected = REFERENCES[activation](GRID.astype(np.float64), ALPHA, BETA)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * max(1, np.nanmax(np.abs(expected))))


@needs_compiler
@EVERY_FAMILY
def test_kernels_lower_like_scheduled_functions(family):
    assert run(fitted(family, PRODUCTS["shares of K"]), family, pipeline="s_tir")[0] == 0


SHAPES = (*itertools.product(range(1, 101), (4, 20, 32, 64, 96, 136, 160), ("float16", "bfloat16", "int8")),)
"""(m, k, dtype) of weights; a family takes some."""


@settings(max_examples=50)
@given(data=st.data(), seed=st.integers(0, 9))
@EVERY_FAMILY
def test_unpack_inverts_pack(family, data, seed):
    taken = [p for m, k, dtype in SHAPES
             if family.refuses(p := MmaParams(m, 8, k, family.tiles[-1], dtype)) is None]
    p = data.draw(st.sampled_from(taken), "product")
    weights = {name: weight_index(np.random.default_rng(seed), p, name) for name in PATTERNS}
    pattern = data.draw(st.sampled_from([name for name in weights if is_stored(family, p, weights[name])]), "pattern")
    params, arrays = packed(family, p, weights[pattern])
    np.testing.assert_array_equal(family.unpack(arrays, params), weights[pattern])
    lengths = {name: length for name, (length, _) in family.arguments(params).items()}
    assert {name: array.size for name, array in arrays.items()}.items() <= lengths.items()


def keep(rng, n, m):
    """The rows of a weight with at most n of every m elements."""
    rank = np.argsort(rng.random((64, 96 // m, m)), axis=2).argsort(axis=2)
    return (rank < n).reshape(64, 96)


WEIGHTS = {
    "2:4": lambda rng: keep(rng, 2, 4),
    "2:4 in another order": lambda rng: project(keep(rng, 3, 4).astype(float))[:, rng.permutation(96)],
    "4:6": lambda rng: keep(rng, 4, 6),
    "6:8": lambda rng: keep(rng, 6, 8),
    "2:4 but for a corner": lambda rng: keep(rng, 2, 4) | np.logical_and.outer(np.arange(64) < 8, np.arange(96) < 8),
    "blocks": lambda rng: np.kron(np.eye(4, 6, dtype=bool), np.ones((16, 16), bool)),
}
FORMATS = [(family, form) for family in EXACT.values() for form in family.formats]


def stored(family, form, archs):
    """A layer with a weight that a family stores in a format, how it is arranged, and the options."""
    for columns, make in itertools.product((8, 256), WEIGHTS.values()):  # few, and as many as some are for
        rng = np.random.default_rng(0)
        weight = (make(rng) * rng.integers(1, 5, (64, 96))).astype(np.float32)
        layer = GpuProduct(weight, np.zeros(64, np.float32), columns, Epilogue())
        offers = family.offers(layer, SimpleNamespace(archs=archs), archs, "fp16")
        if isinstance(found := arranged(layer, form), Arranged) and not isinstance(offers, str):
            return layer, found, [offer for offer in offers if offer.format == form]
    raise AssertionError(f"no weight here is stored as {form}: add one")


@needs_compiler
@pytest.mark.parametrize(("family", "form"), FORMATS, ids=[f"{family.name}, {form}" for family, form in FORMATS])
def test_an_option_multiplies_the_layers_own_weight(family, form):
    archs = (family.architecture.removesuffix("a"),) if family.architecture else ("sm_80",)
    layer, found, options = stored(family, form, archs)
    p = options[-1].params
    weight = found.of(layer.weight).astype(np.float16)
    gather = None if found.gather is None else found.gather.astype(np.int32)
    assert run(p, family, weight, gather=gather)[0] == 0
    x = np.random.default_rng(0).integers(-3, 4, (96, p.n)).astype(np.float32)
    arranged_x = x if gather is None else x[gather]
    np.testing.assert_array_equal(family.reference(found.of(layer.weight), arranged_x, p), layer.weight @ x)


@pytest.mark.parametrize("architecture", tiles.LIMITS)
@pytest.mark.parametrize("n", [1, 8, 100, 5000])
@EVERY_FAMILY
def test_every_architecture_has_a_tile(family, n, architecture):
    if family.architecture not in ("", f"{architecture}a"):
        pytest.skip(f"for {family.architecture} only")
    products = [MmaParams(512, n, 512, tile) for tile in tiles.candidates(n, 2, family.tiles)]
    params = [family.params(telling_weight(family, p), p) for p in products if family.refuses(p) is None]
    assert any(tiles.reject(family.shared_bytes(p), architecture) is None for p in params)
