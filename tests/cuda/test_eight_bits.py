"""Products of 8-bit codes equal numpy bit for bit on the emulator: sums, zero points, scales, epilogues, codes of Y."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.kernels.cuda import eight_bits, encoding
from sparsec.kernels.cuda.codes import Codes, decode, encode, of_range
from sparsec.kernels.cuda.families import GENERATED
from sparsec.kernels.cuda.family import GpuProduct
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, Window
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.emulator import launches
from tests.support.cuda.products import DTYPES, FINISH, SMALL, convolution, needs_compiler, run, stored, weight_index

TILE = replace(SMALL, depth=128)
BYTES = MmaParams(100, 36, 324, TILE, dtype="int8", epilogue=FINISH)
PRODUCTS = {
    "signed": BYTES,
    "unsigned": replace(BYTES, x="uint8"),
    "to codes": replace(BYTES, x="uint8", coded="uint8"),
    "to signed codes": replace(BYTES, coded="int8", epilogue=Epilogue()),
    "odd outputs to codes": replace(BYTES, m=35, n=5, coded="uint8", epilogue=Epilogue("relu")),
    "shares": replace(BYTES, k=512, split_k=4, coded="uint8"),
    "gathered": replace(BYTES, k=96, gather=Gather(160, 4), x="uint8"),
    "windows": replace(convolution(40, 1, Window((4, 4, 32), (3, 3), (4, 4), pads=(1, 1)), dtype="int8", x="uint8"),
                       tile=TILE, coded="uint8"),
}


FLOATS = {
    "e4m3": replace(BYTES, dtype="e4m3"),
    "e4m3 to codes": replace(BYTES, dtype="e4m3", coded="e4m3"),
    "shares of e4m3": replace(BYTES, dtype="e4m3", k=512, split_k=4, coded="e4m3", m=33),
}
CASES = [pytest.param(family, p, id=f"{family.name}, {name}")
         for families, products in (((eight_bits.SPARSE_INT8, eight_bits.DENSE_INT8), PRODUCTS),
                                    ((eight_bits.SPARSE_FP8, eight_bits.DENSE_FP8), FLOATS))
         for family in families for name, p in products.items()]
GROUP = Tile(64, 64, 128, (4, 1), 3)
CASES += [pytest.param(family, replace(p, tile=GROUP), id=f"{family.name}, {name}")
          for families, products in (((eight_bits.SPARSE_GROUPS_INT8, eight_bits.GROUPS_INT8), PRODUCTS),
                                     ((eight_bits.SPARSE_GROUPS_FP8, eight_bits.GROUPS_FP8), FLOATS))
          for family in families for name, p in products.items()]
CASES += [pytest.param(family, replace(p, tile=GROUP, k=400), id=f"{family.name}, {name}")
          for families, products in (((eight_bits.SPARSE_BULK_INT8, eight_bits.BULK_INT8), PRODUCTS),
                                     ((eight_bits.SPARSE_BULK_FP8, eight_bits.BULK_FP8), FLOATS))
          for family in families for name, p in products.items()
          if p.split_k == 1 and p.gather is None and p.window is None]


@needs_compiler
@pytest.mark.parametrize(("family", "p"), CASES)
def test_products_are_exact(family, p):
    weight = weight_index(np.random.default_rng(1), p, "2:4")
    wrong, (product, *_) = run(p, family, weight, seeds=range(2))
    assert (wrong, product.bank_conflicts) == (0, 0)


@pytest.mark.parametrize("family", [each for each in GENERATED.values() if each.dtype], ids=lambda each: each.name)
def test_unpack_inverts_pack(family):
    p = replace(FLOATS["e4m3"] if family.dtype == "e4m3" else BYTES, m=150, k=400)
    p = next(offer for tile in (TILE, GROUP) if family.refuses(offer := replace(p, tile=tile)) is None)
    weight = stored(weight_index(np.random.default_rng(1), p, "2:4"))
    params = family.params(weight, p)
    np.testing.assert_array_equal(family.unpack(family.recipe(params).pack(weight), params), weight)


KINDS = Codes("uint8", 0.031, 77), Codes("int8", 0.25, -9), Codes("uint8", 2.0), Codes("e4m3", 0.11)


@needs_compiler
@pytest.mark.parametrize("source", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_codes_are_made_as_numpy_makes_them(codes, source):
    values = np.random.default_rng(0).standard_normal(1003) * 20
    values[:10] = 0, -0.0, 1e4, -1e4, 0.125, 0.375, 1e-3, -2e-4, 49.28, 50
    values, y = values.astype(DTYPES[source]), np.zeros(1003, codes.stored)
    launches.call(encoding.build(values.size, source, codes.dtype), values, codes.numbers, y, pipeline="tirx")
    np.testing.assert_array_equal(y, encode(values.astype(np.float32), codes))


@given(m=st.integers(1, 9), k=st.integers(1, 90), most=st.integers(1, 128), seed=st.integers(0, 99))
def test_the_codes_of_a_weight_are_found_in_its_floats(m, k, most, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-most, min(most, 127) + 1, (m, k)).astype(np.int8)
    weight = codes.astype(np.float32) * rng.uniform(1e-4, 3, (m, 1)).astype(np.float32)
    found, scale = eight_bits.rows_of_codes(weight)
    np.testing.assert_allclose(found * scale[:, np.newaxis], weight, rtol=1e-6)


def test_other_weights_have_no_codes():
    weight = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    assert eight_bits.rows_of_codes(weight) == eight_bits.NOT_CODES
    assert eight_bits.rows_of_codes(np.array([[128, 127, 1]], np.float32)) == eight_bits.NOT_CODES


@pytest.mark.parametrize(("least", "largest", "padded"), [(0, 5, True), (-3, 5, False), (-3, 5, True), (-4, 0, False),
                                                          (0, 0, False)])
def test_zero_is_exact_and_ranges_fit(least, largest, padded):
    codes = of_range(least, largest, "int8", padded=padded)
    ends = encode(np.array([least, 0, largest], np.float32), codes).astype(int) - codes.zero_point
    assert ends[1] == 0
    np.testing.assert_allclose(ends * codes.scale, [least, 0, largest], atol=codes.scale / 1.9)
    assert not padded or codes.zero_point == 0


def test_ends_of_a_range_are_the_largest_floats_of_8_bits():
    codes = of_range(-3, 5, "e4m3")
    np.testing.assert_array_equal(decode(encode(np.array([-5, 0, 5], np.float32), codes), codes), [-448, 0, 448])


def test_weights_of_e4m3_lose_a_sixteenth_at_most_and_keep_their_zeros():
    weight = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    weight[:, ::3] = 0
    codes, scale = eight_bits.rounded(weight, "e4m3")
    found = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale[:, np.newaxis]
    np.testing.assert_allclose(found, weight, rtol=1 / 16, atol=scale.max() * 2**-9)
    np.testing.assert_array_equal(codes == 0, weight == 0)


@pytest.mark.parametrize("dtype", ["int8", "e4m3"])
def test_rows_too_small_for_a_scale_are_zeros(dtype):
    weight = np.array([[1e-45, -1e-45], [0, 0], [1, -0.5]], np.float32)
    codes, scale = eight_bits.rounded(weight, dtype)
    assert not codes[:2].any()
    assert codes[2].all()
    assert (scale > 0).all()


def test_a_product_of_a_layer_is_within_half_a_code_of_each_operand():
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, 96), (96, 50)))
    layer = GpuProduct(weight, np.zeros(24), 50, Epilogue(), ranges=(float(x.min()), float(x.max())))
    error = np.abs(eight_bits.product(layer, weight, x, "int8") - weight @ x)
    steps = np.abs(weight).max(axis=1)[:, np.newaxis] / 254, layer.codes("int8").scale / 2
    bound = steps[0] * (np.abs(x).sum(axis=0) + 96 * steps[1]) + steps[1] * np.abs(weight).sum(axis=1)[:, np.newaxis]
    assert (error <= bound + 1e-3).all()
    assert error.max() > 0
