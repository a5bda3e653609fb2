"""What NVIDIA's compiler makes of the kernels: sparse tensor instructions, no spills, within every architecture's
limits. Needs nvcc (and cuobjdump where instructions are counted), but no GPU.
"""

import itertools
from dataclasses import replace
from functools import cache, partial

import pytest

from sparsec.kernels.cuda import (
    attention,
    attention_parts,
    bitmap,
    gaps,
    key_lists,
    sized_attention,
    tiles,
    wgmma,
)
from sparsec.kernels.cuda.attention_params import AttentionParams, tiled
from sparsec.kernels.cuda.families import GENERATED
from sparsec.kernels.cuda.params import MmaParams
from sparsec.kernels.divided_keys import PLANES
from sparsec.kernels.emit.epilogue import Epilogue
from sparsec.kernels.emit.projection import Projection
from tests.support.cuda.products import telling_weight
from tests.support.cuda.sass import check_limits, instructions, needs_cuobjdump, needs_nvcc

pytestmark = needs_nvcc

FINISH = Epilogue("gelu_erf", residual=True)
SIZES = 512, 4096, 4096  # outputs, columns, inputs: enough stages that their loop is not unrolled


FEW_TOKENS = bitmap.FAMILY, gaps.FAMILY, gaps.CODES


def products():
    """Every tile of every family once, and the largest that runs on every other architecture, dtypes in turn."""
    for family in GENERATED.values():
        if "bulk" in family.name:  # test_bulk.py has them
            continue
        if family.dtype:
            yield from codes(family)
            continue
        first, *others = [family.architecture] if family.architecture else tiles.LIMITS
        for tile in family.tiles:
            yield family, MmaParams(*SIZES, tile, epilogue=FINISH), first
        for architecture, (dtype, depth) in itertools.product(others, {"bfloat16": 1, "int8": 2}.items()):
            offers = (MmaParams(*SIZES, replace(tile, depth=depth * tile.depth), dtype) for tile in family.tiles)
            yield from [(family, p, architecture) for p in offers if fits(family, p, architecture)][:1]


def codes(family):
    """Every tile of a family of 8 bits whose results are codes, on an architecture that has room for it."""
    for tile in family.tiles:
        deep = replace(tile, depth=2 * tile.depth)
        integers = family.dtype == "int8"
        p = MmaParams(*SIZES, deep, family.dtype, epilogue=FINISH, x="uint8" if integers else "",
                      coded="uint8" if integers else "e4m3")
        warps = "sm_89" if not integers else "sm_90" if tile == family.tiles[-1] else "sm_80"
        architecture = family.architecture or warps
        if fits(family, p, architecture.removesuffix("a")):  # single warps of sm_90 would not multiply e4m3
            yield family, p, architecture


UNITS = {"int8": "I", "e4m3": "Q"}
"""How the names of instructions begin."""


def fits(family, p, architecture):
    if family.refuses(p) is not None:
        return False
    depth = p.k if family in (gaps.FAMILY, gaps.CODES) else 512  # in which a stage takes the same
    small = parameters(family, replace(p, m=64, k=depth))
    return tiles.reject(family.shared_bytes(small), architecture) is None


@cache
def parameters(family, p):
    return family.params(telling_weight(family, p), p)


@cache
def built(family, p):
    return family.build(parameters(family, p), ())


def named(family, p, architecture):
    t = p.tile
    name = f"{family.name}-{architecture}-{p.dtype}-{t.rows}x{t.columns}x{t.depth}x{t.stages}"
    return pytest.param(family, p, architecture, id=name)


PRODUCTS = [named(*product) for product in products()]


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize(("family", "p", "architecture"), PRODUCTS)
def test_kernels_stay_within_limits(family, p, architecture):
    check_limits(built(family, p), p.tile.threads, family.shared_bytes(parameters(family, p)), architecture)


@pytest.mark.sampled(0.3)
@needs_cuobjdump
@pytest.mark.parametrize(("family", "p", "architecture"), [product for product in PRODUCTS
                                                           if product.values[0] not in FEW_TOKENS][::3])
def test_kernels_are_tensor_instructions(family, p, architecture):
    unit = UNITS.get(p.dtype, "H") + ("GMMA" if family.architecture else "MMA")
    sparse = instructions(built(family, p), architecture, f"{unit}.SP")
    dense = instructions(built(family, p), architecture, unit) - sparse
    blocks = 1 if family.architecture else p.tile.row_blocks * p.tile.column_blocks
    ragged = family is wgmma.BLOCKS or p.k_tiles % 2  # a turn that the loop's two leave over
    steps = p.tile_steps * blocks * (2 + ragged if family.architecture else 1)  # copies of the loop's body
    if family.sparse:
        assert sparse == steps
        assert dense in (0, blocks)  # of what 2:4 leaves over
    else:
        assert (sparse, dense) == (0, 2 * steps)


@needs_cuobjdump
@pytest.mark.parametrize(("family", "p", "architecture"), [product for product in PRODUCTS
                                                           if product.values[0] is bitmap.FAMILY])
def test_bitmaps_are_expanded_by_dot_products_of_bytes(family, p, architecture):
    groups, fragments = p.tile.rows // 16 * bitmap.GROUPS, p.tile.rows // 16 * bitmap.GROUPS // 2
    counts = {name: instructions(built(family, p), architecture, name)
              for name in ("POPC", "LDS.U16", "PRMT", "HMMA.16816", "IDP.4A", "LDG.E.128", "LDGSTS.E.BYPASS")}
    assert (counts["POPC"], counts["LDS.U16"], counts["PRMT"]) == (groups, 4 * groups, 2 * groups)
    assert counts["HMMA.16816"] == fragments * p.tile.columns // 8
    assert counts["IDP.4A"] <= 5 * groups
    assert counts["LDG.E.128"] >= p.tile.columns // 8 * 2  # activations, 16 bytes at once
    assert counts["LDGSTS.E.BYPASS"] > 0


@needs_cuobjdump
@pytest.mark.parametrize(("family", "p", "architecture"), [product for product in PRODUCTS
                                                           if product.values[0] in FEW_TOKENS[1:]][::2])
def test_gaps_are_read_in_chunks_and_summed_by_dot_products_of_bytes(family, p, architecture):
    ahead, tokens = p.tile.depth // 256, p.tile.columns
    counts = {name: instructions(built(family, p), architecture, name)
              for name in ("LDG.E.EF.128", "LDG.E.EF.64", "IDP.4A", "FFMA")}
    codes = family is gaps.CODES  # whose values take as many bytes as their gaps
    wide, narrow = counts["LDG.E.EF.128"], counts["LDG.E.EF.64"]
    assert (wide, narrow) == ((0, 4 * ahead) if codes else (2 * ahead, 2 * ahead))  # before the loop and in it
    assert 10 * ahead <= counts["IDP.4A"] <= 20 * ahead  # some again, where the scan's shuffles might diverge
    assert counts["FFMA"] >= 8 * ahead * tokens  # scales, and on sm_80 sums, take more


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


def attentions_in_turns():
    """As `attentions`, with lists of keys, and with keys that are divided; of fixed sizes and of the run's."""
    ways = {"listed": {"listed": True}, "divided": {"splits": 3}, "both": {"listed": True, "splits": 3}}
    for param in attentions():
        p, architecture = param.values
        for how, more in ways.items():
            yield pytest.param(built_attention, replace(p, **more), architecture, id=f"{architecture}-{p.width}-{how}")
        sized = tiled(replace(p, batch=1, heads=1), [architecture])
        for grown in (False, True):
            yield pytest.param(partial(built_sized_attention, grown=grown), sized, architecture,
                               id=f"{architecture}-{p.width}-sized{'-grown' * grown}")


built_sized_attention = cache(sized_attention.build)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize(("build", "p", "architecture"), attentions_in_turns())
def test_attention_in_turns_stays_within_limits(build, p, architecture):
    check_limits(build(p), 2 * p.tile.threads, 2 * p.shared_bytes, architecture)


@pytest.mark.parametrize("kernel", [
    partial(key_lists.build_sized, key_lists.ListParams(64, 64), grown=True),
    partial(attention_parts.build, 128, "bfloat16", 1.0)], ids=["lists", "parts"])
def test_what_serves_attention_stays_within_limits(kernel):
    check_limits(kernel(), key_lists.THREADS, 4 * (64 + PLANES * key_lists.THREADS), "sm_90")
