"""Fused attention agrees with the operator's reference on the emulator, whatever the mask, the tails and the tile."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sparsec.errors import FormatError
from sparsec.graph.operators.attention import Attention
from sparsec.kernels.cuda import attention
from sparsec.kernels.cuda.attention_params import MANY_BLOCKS, TILES, AttentionParams, AttentionTile, tiled
from sparsec.kernels.cuda.tiles import LIMITS
from sparsec.kernels.emit.projection import Projection
from tests.support.cuda.emulator import emulate, launches
from tests.support.cuda.products import DTYPES, needs_compiler

SMALL = AttentionTile(32, 32, 2)
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8}


def params(heads, width, batch, queries, keys, tile=SMALL, **more):
    own = Projection(heads * width)
    return AttentionParams(heads, width, batch, queries, keys, 2 * width**-0.5, own, own, own, tile=tile, **more)


SHAPES = {
    "whole tiles": params(2, 32, 1, 32, 64),
    "tails": params(1, 16, 2, 40, 75),
    "half a step of features": params(2, 24, 1, 5, 41, dtype="bfloat16"),
    "the widest head": params(1, 128, 1, 17, 34, AttentionTile(32, 16, 2)),
    "the narrowest head": params(3, 8, 1, 3, 9, dtype="bfloat16"),
    "one query and one key": params(1, 40, 2, 1, 1),
}
MASKS = {
    "keys": lambda p: (1, 1, 1, p.keys),
    "sequences": lambda p: (p.batch, 1, 1, p.keys),
    "queries": lambda p: (1, 1, p.queries, p.keys),
    "queries alone": lambda p: (p.batch, 1, p.queries, 1),
    "heads": lambda p: (1, p.heads, 1, p.keys),
    "everything": lambda p: (p.batch, p.heads, p.queries, p.keys),
    "absent": lambda _: None,
}


def projections(p):
    rng = np.random.default_rng(0)
    shapes = [(p.batch, tokens, p.heads * p.width) for tokens in (p.queries, p.keys, p.keys)]
    return [rng.standard_normal(shape).astype(DTYPES[p.dtype]) for shape in shapes]


def mask_of(p):
    """A random mask; to its last row the keys of the first stage are hidden, if there are others."""
    if p.mask is None:
        return None
    rng = np.random.default_rng(1)
    mask = np.where(rng.random(p.mask) < 0.3, -np.inf, rng.standard_normal(p.mask)).astype(np.float32)
    mask[..., -1, :p.tile.keys] = -np.inf
    mask[..., -1] = 0
    return mask


def expected(p, q, k, v, mask):
    wide = [None if x is None else x.astype(np.float64) for x in (q, k, v, mask)]
    with np.errstate(invalid="ignore", over="ignore"):
        return Attention.eval(*wide, heads=p.heads, scale=p.scale)


@cache
def program(p):
    return launches.lower(attention.build(p), "tirx")


def run(p, buffers, mask, seeds=(0,), source=None):
    """Y of the last seed, and the launch's statistics; the seeds agree."""
    library = launches.compiled(source or program(p).source)
    arrays = [x.ravel() for x in (*buffers, mask) if x is not None]
    ys = []
    for seed in seeds:
        ys.append(np.full((p.batch, p.queries, p.heads * p.width), np.nan, DTYPES[p.dtype]))
        every = [*arrays, ys[-1].reshape(-1)]
        assert [(x.size, str(x.dtype)) for x in every] == list(attention.arguments(p).values())
        (statistics,) = program(p).run(every, seed, library)
        np.testing.assert_array_equal(ys[-1], ys[0])
    return ys[-1].astype(np.float64), statistics


def check(p, q, k, v, mask, **how):
    """Weights and results are rounded once each."""
    y, statistics = run(p, (q, k, v), mask, **how)
    bound = 2.1 * ROUNDING[p.dtype] * np.nanmax(np.abs(v.astype(np.float64)))
    np.testing.assert_allclose(y, expected(p, q, k, v, mask), rtol=0, atol=bound)
    return statistics


@pytest.mark.sampled(0.5)
@needs_compiler
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_matches_the_operator(shape, mask):
    p = replace(SHAPES[shape], mask=MASKS[mask](SHAPES[shape]))
    assert check(p, *projections(p), mask_of(p), seeds=range(2)).bank_conflicts == 0


@needs_compiler
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_tile_is_right(tile):
    p = params(1, 16, 1, tile.queries + 3, 2 * tile.keys + 5, tile, mask=(1, 1, 1, 2 * tile.keys + 5))
    assert check(p, *projections(p), mask_of(p)).bank_conflicts == 0


@needs_compiler
def test_projections_may_be_slices_of_one_buffer():
    p = replace(params(2, 8, 2, 9, 9), q=Projection(56), k=Projection(56, 16), v=Projection(56, 40))
    q, k, v = projections(p)
    fused = np.concatenate([q, k, np.full((2, 9, 8), np.nan, np.float16), v], axis=-1)
    y, _ = run(p, [fused] * 3, None)
    np.testing.assert_allclose(y, expected(p, q, k, v, None), rtol=0, atol=4e-3)


@needs_compiler
@pytest.mark.parametrize("masked", [-np.inf, np.finfo(np.float32).min, -3e38])
def test_a_fully_masked_query_is_as_in_onnxruntime(masked):
    """-inf everywhere yields NaN; a huge finite number swallows the scores, so that all keys weigh the same."""
    p = params(1, 8, 1, 3, 41, mask=(1, 1, 3, 41))
    q, k, v = projections(p)
    mask = np.zeros(p.mask, np.float32)
    mask[..., 1, :] = masked
    (y,), _ = run(p, (q, k, v), mask)
    assert np.isfinite(y[[0, 2]]).all()
    mean = v[0].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(y[1], np.full(8, np.nan) if masked == -np.inf else mean, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("place", ["q", "k", "v", "mask", "infinite q"])
def test_nan_goes_where_the_operator_lets_it(place):
    p = params(1, 16, 1, 5, 41, mask=(1, 1, 5, 41))
    q, k, v = projections(p)
    mask = mask_of(p)
    {"q": q, "k": k, "v": v, "mask": mask[0], "infinite q": q}[place][0, 2, 3] = np.inf if "inf" in place else np.nan
    y, _ = run(p, (q, k, v), mask)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected(p, q, k, v, mask)))


@needs_compiler
def test_large_scores_do_not_overflow():
    p = params(1, 16, 1, 5, 70)
    q, k, v = projections(p)
    check(p, q * np.float16(1000), k * np.float16(1000), v, None)


# Several warps, heads, blocks of queries and stages of keys; tails in all three.
MUTATED = params(2, 24, 1, 40, 75, mask=(1, 2, 40, 75))
SCALED = r"(_ptr_\w+\[\d+\]) = \(\1 \* _ptr_\d+\[[01]\]\);"

MUTANTS = {
    "no barriers": lambda s: s.replace("__syncthreads();", ""),
    "no wait for queries": lambda s: s.replace('asm volatile("cp.async.wait_group 1;" :  :  : "memory");', ""),
    "no wait for keys": lambda s: s.replace('asm volatile("cp.async.wait_group 0;" :  :  : "memory");', ""),
    "no commit": lambda s: s.replace('asm volatile("cp.async.commit_group;" :  : );', ""),
    "a stage filled too early": lambda s: re.sub(r"\(\((\w+) \+ 1\) & 1\)", r"(\1 & 1)", s),
    "no swizzle where matrices are read": lambda s: re.sub(r"\^ \(\(\(\(int\)threadIdx\.x\) & 7\) >> 1\)", "^ 0", s),
    "values not transposed": lambda s: s.replace("x4.trans.shared", "x4.shared"),
    "keys transposed": lambda s: s.replace("x4.shared", "x4.trans.shared"),
    "features beyond the head": lambda s: s.replace(" & 3) < 3)", " & 3) < 4)"),
    "another query's mask": lambda s: s.replace(" + 8), 39)", "), 39)"),
    "another head's mask": lambda s: s.replace("* 3000", "* 0"),
    "a mask beyond the queries": lambda s: s.replace(", 39)", ", 40)"),
    "a mask beyond the keys": lambda s: s.replace(", 74)", ", 75)"),
    "no rescaling": lambda s: re.sub(SCALED, "", s),
    "no rescaling of a total": lambda s: re.sub(SCALED, "", s, count=1),
    "the maximum of a lane alone": lambda s: s.replace("val = max(val, shuffled);", ""),
    "the total of a lane alone": lambda s: s.replace("val += shuffled;", ""),
    "maxima from -inf on": lambda s: s.replace("-0x1.fffffep+127f", "-CUDART_INF_F"),
    "powers of two": lambda s: s.replace(" * 0x1.71547652b82fep+0f", ""),
    "keys beyond the end": lambda s: s.replace(": -CUDART_INF_F", ": 0.0f"),
    "one key too many": lambda s: s.replace(" & 3) < 2) ?", " & 3) < 3) ?"),
    "one key too few": lambda s: s.replace(" & 3) < 2) ?", " & 3) < 1) ?"),
    "queries beyond the end": lambda s: s.replace(" * 2)) < 5)", " * 2)) < 7)"),
    "weights of exchanged keys": lambda s: s.replace("cvt.rn.f16x2.f32 %0, %1, %2", "cvt.rn.f16x2.f32 %0, %2, %1"),
    "rows exchanged": lambda s: s.replace("{%4, %5, %6, %7}", "{%5, %4, %7, %6}"),
    "the total not divided by": lambda s: s.replace("0x1p+0f/*1.000000e+00*/ / ", ""),
}


@needs_compiler
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name):
    source = program(MUTATED).source
    mutant = MUTANTS[name](source)
    assert mutant != source
    with pytest.raises((emulate.EmulationError, AssertionError)):
        check(MUTATED, *projections(MUTATED), mask_of(MUTATED), seeds=range(2), source=mutant)


@needs_compiler
def test_what_is_mutated_is_right():
    check(MUTATED, *projections(MUTATED), mask_of(MUTATED), seeds=range(2))


@pytest.mark.parametrize(("change", "reason"), [
    ({"width": 136, "q": Projection(272), "k": Projection(272), "v": Projection(272)}, "heads of 136 features"),
    ({"width": 20, "q": Projection(40), "k": Projection(40), "v": Projection(40)}, "multiples of 8"),
    ({"k": Projection(64, 4)}, "begin at multiples"),
    ({"v": Projection(68)}, "begin at multiples"),
    ({"queries": 0}, "no tokens"),
])
def test_what_no_kernel_computes_has_a_reason(change, reason):
    with pytest.raises(FormatError, match=reason):
        attention.build(replace(SHAPES["whole tiles"], **change))


@pytest.mark.parametrize("arch", LIMITS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [8, 64, 72, 128])
@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (1, 20), (1, 200), (MANY_BLOCKS, 200)])
def test_tiles_suit_the_shape(batch, queries, width, masked, arch):
    p = tiled(params(1, width, batch, queries, 200, mask=(1, 1, queries, 200) if masked else None), [arch])
    assert 2 * p.shared_bytes <= LIMITS[arch].shared_bytes
    assert p.tile.queries < 2 * max(16, queries)
    assert (p.tile.row_blocks == 2) == (batch > 1 and width <= 64 and not masked)
