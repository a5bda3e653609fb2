"""Every tensor-core kernel equals numpy exactly on the emulator, whatever the layout, dtype, tails, tile and seed."""

from dataclasses import replace

import numpy as np
import pytest

from sparsec.errors import FormatError
from sparsec.kernels.cuda import tiles
from sparsec.kernels.cuda.params import Gather, MmaParams, Tile, reject
from sparsec.kernels.emit.epilogue import Epilogue
from tests.support.cuda.products import FAMILIES, needs_compiler, run

SEEDS = range(3)
SMALL = Tile(64, 32, 64, (2, 1), 3)
FINISH = Epilogue("relu", residual=True)

PRODUCTS = {
    "aligned features first": MmaParams(64, 32, 128, SMALL, layout="kn"),
    "aligned tokens first": MmaParams(128, 64, 128, SMALL),
    "tails in m, n and k": MmaParams(100, 72, 136, SMALL, layout="kn", epilogue=FINISH),
    "odd columns": MmaParams(66, 33, 68, SMALL, layout="kn", epilogue=FINISH),
    "two columns aligned": MmaParams(66, 34, 68, SMALL, layout="kn"),
    "odd outputs": MmaParams(65, 35, 76, SMALL, epilogue=FINISH),
    "a batch": MmaParams(40, 20, 60, SMALL, layout="kn", batch=3, epilogue=FINISH),
    "one token": MmaParams(130, 1, 260, Tile(32, 8, 128, (1, 1), 4)),
    "one of everything": MmaParams(1, 1, 4, SMALL),
    "13 tokens": MmaParams(64, 13, 256, Tile(64, 16, 128, (2, 1), 5)),
    "a group of rows of tiles": MmaParams(32 * 11, 24, 64, Tile(32, 8, 64, (1, 1), 2)),
    "float32 results": MmaParams(70, 30, 100, SMALL, layout="kn", out="float32"),
    "bfloat16": MmaParams(100, 36, 140, SMALL, dtype="bfloat16", out="bfloat16", epilogue=FINISH),
    "bfloat16 features first": MmaParams(100, 36, 140, SMALL, layout="kn", dtype="bfloat16", out="bfloat16"),
    "bytes": MmaParams(100, 36, 320, Tile(64, 32, 128, (2, 1), 3), dtype="int8", epilogue=FINISH),
    "bytes with tails": MmaParams(33, 5, 324, Tile(32, 8, 128, (1, 1), 4), dtype="int8", out="float32"),
    "shares of K": MmaParams(100, 36, 324, SMALL, split_k=2, epilogue=FINISH),
    "uneven shares of a batch": MmaParams(100, 36, 300, SMALL, layout="kn", batch=2, split_k=3, out="float32"),
    "shares of bytes": MmaParams(64, 32, 512, Tile(64, 32, 128, (2, 1), 2), dtype="int8", split_k=4),
    "gathered rows": MmaParams(100, 36, 100, SMALL, layout="kn", gather=Gather(132), epilogue=FINISH),
    "gathered pairs": MmaParams(100, 36, 100, SMALL, gather=Gather(132, 2)),
    "gathered elements": MmaParams(40, 10, 100, SMALL, gather=Gather(68)),
    "gathered runs of bytes": MmaParams(40, 10, 96, Tile(64, 32, 128, (2, 1), 2), dtype="int8", gather=Gather(160, 4)),
}


@needs_compiler
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_exact(family, name):
    wrong, (product, *_) = run(PRODUCTS[name], FAMILIES[family], SEEDS)
    assert wrong == 0
    assert product.bank_conflicts == 0


@needs_compiler
@pytest.mark.parametrize("tile", tiles.TILES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tile_is_exact(family, tile):
    p = MmaParams(tile.rows + 8, tile.columns + 3, 2 * tile.depth + 4, tile)
    wrong, (product,) = run(p, FAMILIES[family])
    assert wrong == 0
    assert product.bank_conflicts == 0


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_lower_like_scheduled_functions(family):
    p = replace(PRODUCTS["shares of K"], n=13)
    assert run(p, FAMILIES[family], pipeline="s_tir")[0] == 0


@pytest.mark.parametrize(("change", "reason"), [
    ({"dtype": "int8", "layout": "kn"}, "tokens first"),
    ({"batch": 2}, "more tokens"),
    ({"split_k": 5}, "too short"),
    ({"dtype": "int8", "gather": Gather(128, 1)}, "even number"),
    ({"tile": replace(SMALL, rows=48)}, "whole fragments"),
    ({"tile": replace(SMALL, stages=1)}, "two stages"),
    ({"tile": replace(SMALL, depth=48)}, "whole fragments"),
])
def test_what_no_kernel_computes_has_a_reason(change, reason):
    p = replace(PRODUCTS["aligned tokens first"], **change)
    assert reason in reject(p)
    with pytest.raises(FormatError, match=reason):
        FAMILIES["dense"].build(p)


def test_warps_of_odd_rows_share_no_metadata():
    with pytest.raises(FormatError, match="share a word"):
        FAMILIES["sparse"].build(replace(PRODUCTS["aligned tokens first"], tile=replace(SMALL, rows=32)))


@pytest.mark.parametrize("architecture", tiles.LIMITS)
@pytest.mark.parametrize("n", [1, 8, 100, 5000])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_has_a_tile(architecture, n, dtype, family):
    products = [MmaParams(512, n, 512, tile, dtype) for tile in tiles.candidates(n, 1 if dtype == "int8" else 2)]
    assert any(tiles.reject(FAMILIES[family].shared_bytes(p), architecture) is None for p in products)


@pytest.mark.parametrize("multiprocessors", [1, 46, 108, 132])
@pytest.mark.parametrize("k", [4, 64, 1000, 4096])
def test_shares_leave_none_empty(multiprocessors, k):
    p = MmaParams(1024, 8, k, SMALL)
    split = tiles.shares(p, multiprocessors)
    assert reject(replace(p, split_k=split)) is None
    assert split == 1 or np.prod(p.grid) * split <= multiprocessors
