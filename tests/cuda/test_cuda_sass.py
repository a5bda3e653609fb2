"""What NVIDIA's compiler makes of the kernels: sparse tensor instructions, no spills, within every architecture's
limits. Needs nvcc (and cuobjdump where instructions are counted), but no GPU.
"""

from functools import cache

import numpy as np
import pytest

from sparsec.kernels.cuda import attention, bitmap, mma_dense, mma_sp, rest, tiles
from sparsec.kernels.cuda.attention_params import AttentionParams, tiled
from sparsec.kernels.cuda.params import MmaParams, Tile
from sparsec.kernels.cuda.rest import RestParams
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.projection import Projection
from tests.support.cuda.sass import check_limits, instructions, needs_cuobjdump, needs_nvcc

pytestmark = needs_nvcc

FAMILIES = {"sparse": mma_sp, "dense": mma_dense}
FINISH = Epilogue("gelu_erf", residual=True)


@cache
def built(family, p):
    return FAMILIES[family].build(p)


def products():
    """Every tile once, epilogues, layouts and dtypes in turn; every architecture for the largest that it runs."""
    for family, module in FAMILIES.items():
        for number, tile in enumerate(tiles.TILES):
            p = MmaParams(4096, 4096, 4096, tile, layout=("nk", "kn")[number % 2], epilogue=FINISH)
            yield family, p, "sm_80"
        for architecture in ("sm_86", "sm_89", "sm_90"):
            for dtype in ("bfloat16", "int8"):
                fitting = [p for p in (MmaParams(4096, 4096, 4096, tile, dtype)
                                       for tile in tiles.candidates(4096, 1 if dtype == "int8" else 2))
                           if tiles.reject(module.shared_bytes(p), architecture) is None]
                yield family, fitting[0], architecture


def named(family, p, architecture):
    t = p.tile
    name = f"{family}-{architecture}-{p.dtype}-{t.rows}x{t.columns}x{t.depth}x{t.stages}"
    return pytest.param(family, p, architecture, id=name)


PRODUCTS = [named(*product) for product in products()]


@pytest.mark.parametrize(("family", "p", "architecture"), PRODUCTS)
def test_kernels_stay_within_limits(family, p, architecture):
    function = built(family, p)
    check_limits(function, p.tile.threads, FAMILIES[family].shared_bytes(p), architecture)


@needs_cuobjdump
@pytest.mark.parametrize(("family", "p", "architecture"), PRODUCTS[::3])
def test_kernels_are_tensor_instructions(family, p, architecture):
    unit = "IMMA" if p.dtype == "int8" else "HMMA"
    steps = p.tile_steps * p.tile.row_blocks * p.tile.column_blocks
    sparse = instructions(built(family, p), architecture, f"{unit}.SP")
    every = instructions(built(family, p), architecture, unit)
    if family == "sparse":
        assert (sparse, every) == (steps, steps)
    else:
        assert (sparse, every) == (0, 2 * steps)


@pytest.mark.parametrize("architecture", tiles.LIMITS)
def test_the_bitmap_kernel_stays_within_limits(architecture):
    weight = np.random.default_rng(0).random((256, 1024)) < 0.5
    params = bitmap.params(weight.astype(np.float16), MmaParams(256, 16, 1024, Tile(64, 16, 128, (4, 1), 4)))
    check_limits(bitmap.build(params), 128, bitmap.shared_bytes(params), architecture)


@pytest.mark.parametrize(("tile", "architecture"), [(tile, "sm_80") for tile in tiles.TILES[::2]]
                         + [(tiles.TILES[6], arch) for arch in ("sm_86", "sm_89", "sm_90")], ids=str)
def test_kernels_with_a_rest_stay_within_limits(tile, architecture):
    params = RestParams(MmaParams(4096, 4096, 4096, tile, epilogue=FINISH), capacity=16)
    check_limits(rest.build(params), tile.threads, rest.shared_bytes(params), architecture)


@needs_cuobjdump
def test_a_rest_is_a_product_of_tensor_cores_for_every_block():
    tile = tiles.TILES[6]
    params = RestParams(MmaParams(4096, 4096, 4096, tile), capacity=16)
    blocks = tile.row_blocks * tile.column_blocks
    assert instructions(rest.build(params), "sm_80", "HMMA.SP") == tile.depth // 32 * blocks
    assert instructions(rest.build(params), "sm_80", "HMMA.1688") == blocks


def attentions():
    """By architecture, what takes the most registers: two blocks of queries a warp, and the widest head with a mask."""
    for architecture in tiles.LIMITS:
        for width, mask in ((64, (1, 1, 1, 150)), (128, (1, 1, 500, 150))):
            own = Projection(12 * width)
            p = AttentionParams(12, width, 32, 500, 150, width**-0.5, own, own, own, mask)
            yield pytest.param(tiled(p, [architecture]), architecture, id=f"{architecture}-{width}")


built_attention = cache(attention.build)


@pytest.mark.parametrize(("p", "architecture"), attentions())
def test_attention_stays_within_limits(p, architecture):
    check_limits(built_attention(p), 2 * p.tile.threads, 2 * p.shared_bytes, architecture)  # two blocks


@needs_cuobjdump
@pytest.mark.parametrize(("p", "architecture"), attentions())
def test_attention_is_tensor_instructions(p, architecture):
    last = p.keys - (p.key_blocks - 1) * p.tile.keys
    products = sum(p.steps * -(-keys // 8) + p.width // 8 * -(-keys // 16) for keys in (p.tile.keys, last))
    assert instructions(built_attention(p), architecture, "HMMA") == p.tile.row_blocks * products
