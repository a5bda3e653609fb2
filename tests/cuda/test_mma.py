"""Products that no kernel computes have a reason, whatever the family."""

from dataclasses import replace

import pytest

from sparsec.errors import FormatError
from sparsec.kernels.cuda import bitmap, eight_bits, gaps, mma_dense, mma_sp, rest, wgmma
from sparsec.kernels.cuda.families import GENERATED
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile
from tests.support.cuda.products import SMALL

PRODUCT = MmaParams(128, 64, 128, SMALL)
STAGED = {name: family for name, family in GENERATED.items()
          if family not in (bitmap.FAMILY, gaps.FAMILY, gaps.CODES) and "bulk" not in name}
GROUP = Tile(64, 64, 64, (4, 1), 3)


@pytest.mark.parametrize(("change", "reason"), [
    ({"split_k": 5}, "too short"),
    ({"dtype": "int8", "gather": Gather(128, 1)}, "even number"),
    ({"tile": replace(SMALL, rows=48)}, "whole fragments"),
    ({"tile": replace(SMALL, stages=1)}, "two stages"),
    ({"tile": replace(SMALL, depth=48)}, "whole fragments"),
])
@pytest.mark.parametrize("family", STAGED.values(), ids=STAGED)
def test_what_no_kernel_computes_has_a_reason(family, change, reason):
    p = replace(PRODUCT, **change)
    assert reason in family.refuses(p)


@pytest.mark.parametrize(("family", "change", "reason"), [
    (mma_sp.FAMILY, {"tile": replace(SMALL, rows=32)}, "share a word"),
    (rest.FAMILY, {"tile": replace(SMALL, rows=32)}, "share a word"),
    (eight_bits.SPARSE_INT8, {}, "multiplies int8"),
    (eight_bits.DENSE_INT8, {"dtype": "int8", "x": "float16", "tile": replace(SMALL, depth=128)}, "no instruction"),
    (rest.FAMILY, {"dtype": "int8", "k": 256, "tile": replace(SMALL, depth=128)}, "2-byte"),
    (bitmap.FAMILY, {"dtype": "int8", "k": 256, "tile": replace(SMALL, depth=128)}, "2 bytes"),
    (bitmap.FAMILY, {"k": 68}, "not a multiple"),
    (gaps.FAMILY, {"dtype": "int8"}, "2 bytes"),
    (gaps.FAMILY, {"k": 67}, "odd"),
    *[(family, change, reason) for family, reason in ((bitmap.FAMILY, "whole blocks"), (gaps.FAMILY, "16 warps"))
      for change in ({}, {"tile": replace(SMALL, columns=12)})],
    *[(family, change, reason) for family in (bitmap.FAMILY, gaps.FAMILY) for change, reason in (
        ({"split_k": 2}, "blocks"), ({"gather": Gather(64)}, "order of their own"))],
    (rest.FAMILY, {"k": 66}, "not a multiple of 4"),
    *[(family, {"tile": GROUP} | change, reason) for family in (wgmma.DENSE, wgmma.SPARSE) for change, reason in (
        ({"tile": replace(GROUP, depth=128)}, "128 bytes deep"),
        ({"tile": replace(GROUP, warps=(2, 2))}, "four warps"),
        ({"tile": replace(GROUP, stages=2)}, "one that arrives"),
        ({"k": 192, "split_k": 2}, "equal shares"),
        ({"tile": Tile(256, 64, 64, (16, 1), 3), "gather": Gather(64)}, "more registers"))],
])
def test_families_refuse_with_a_reason(family, change, reason):
    assert reason in family.refuses(replace(PRODUCT, **change))


def test_a_refused_product_is_not_built():
    with pytest.raises(FormatError, match="two stages"):
        mma_dense.FAMILY.build(replace(PRODUCT, tile=replace(SMALL, stages=1)), ())
