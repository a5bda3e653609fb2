"""Attention agrees with the operator's reference on every instruction set, for every form of mask and every tail."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from sparsec.kernels.cpu.tensors import attention
from sparsec.kernels.cpu.tensors.attention_blocks import AttentionParams
from sparsec.kernels.cpu.tensors.attention_bounds import bounds_of
from sparsec.kernels.cpu.tensors.reformat_tiled import tile, untile
from sparsec.kernels.emit.projection import Projection
from sparsec.target import machine_features
from tests.support.targets import TARGETS, compiled, isa

SHAPES = [  # batch, heads, depth, tokens, keys, width
    (1, 2, 16, 64, 64, 64), (2, 3, 10, 37, 53, 16), (1, 4, 5, 1, 70, 32), (3, 1, 8, 20, 3, 16),
]


PAIRED = [(1, 2, 16, 64, 64, 64), (2, 3, 10, 37, 53, 32), (1, 2, 8, 70, 301, 48), (1, 1, 6, 20, 75, 80)]


def projections(batch, heads, depth, tokens, keys):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((batch, n, heads * depth)).astype(np.float32) for n in (tokens, keys, keys)]


def run(target, params, q, k, v, mask, threads=1, bounds=None):
    buffers = [tile(x, params.layout(name)) for name, x in zip("qkv", (q, k, v), strict=True)]
    masks = [each.ravel() for each in (mask, bounds) if each is not None]
    kernel = compiled(attention.build(params, isa(target, threads)), target)
    return untile(kernel(*buffers, *masks, out=params.output.size), params.output)


def plain_params(batch, heads, depth, tokens, keys, width, mask=None):
    own = Projection(heads * depth)
    return AttentionParams(heads, depth, batch, tokens, keys, width, depth**-0.5, own, own, own, mask)


@pytest.mark.sampled(0.6)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mask", ["absent", "keys", "batch", "queries", "full"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_operator(shape, mask, target):
    batch, heads, _, tokens, keys, _ = shape
    dims = {"keys": (1, 1, 1, keys), "batch": (batch, 1, 1, keys), "queries": (1, 1, tokens, keys),
            "full": (batch, heads, tokens, keys)}.get(mask)
    params = plain_params(*shape, dims)
    q, k, v = projections(*shape[:5])
    added = None
    if dims is not None:
        added = np.where(np.random.default_rng(1).random(dims) < 0.3, np.float32(-np.inf), np.float32(0.5))
        added[..., 0] = 0
    y = run(target, params, q, k, v, added, threads=1 + batch % 2)
    np.testing.assert_allclose(y, attention.reference(q, k, v, added, params), rtol=0, atol=3e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_projections_may_share_a_buffer(target):
    q, k, v = projections(1, 2, 8, 40, 40)
    shared = [Projection(48, 16 * i) for i in range(3)]
    params = AttentionParams(2, 8, 1, 40, 40, 16, 0.3, *shared)
    fused = np.concatenate([q, k, v], axis=-1)
    y = run(target, params, fused, fused, fused, None)
    np.testing.assert_allclose(y, attention.reference(q, k, v, None, params), rtol=0, atol=3e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("masked", "expected"), [(-np.inf, "nan"), (np.finfo(np.float32).min, "mean")])
def test_a_fully_masked_query_is_as_in_onnxruntime(masked, expected, target):
    """-inf everywhere yields NaN; the lowest finite number swallows the scores, so that all keys weigh the same."""
    q, k, v = projections(1, 1, 4, 16, 9)
    mask = np.zeros((1, 1, 16, 9), np.float32)
    mask[0, 0, 5] = masked
    y = run(target, plain_params(1, 1, 4, 16, 9, 16, mask.shape), q, k, v, mask)
    assert np.isfinite(np.delete(y, 5, axis=1)).all()
    np.testing.assert_allclose(y[0, 5], np.full(4, np.nan) if expected == "nan" else v[0].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_large_scores_do_not_overflow(target):
    q, k, v = projections(1, 1, 4, 16, 9)
    params = plain_params(1, 1, 4, 16, 9, 16)
    y = run(target, params, 1e3 * q, k, v, None)
    np.testing.assert_allclose(y, attention.reference(1e3 * q, k, v, None, params), rtol=0, atol=1e-4)


HIDING = ["none", "some", "all", "few", "-1e4"]


def padding(hiding, batch, keys):
    """A mask (batch, 1, 1, keys) that hides keys from all queries of a sequence."""
    rng = np.random.default_rng(2)
    hidden = {"none": np.zeros((batch, keys), bool), "all": np.ones((batch, keys), bool),
              "few": rng.random((batch, keys)) < 0.05}.get(hiding, rng.random((batch, keys)) < 0.6)
    hidden[0, 0] = hiding == "all"
    value = np.float32(-1e4) if hiding == "-1e4" else np.finfo(np.float32).min / 2
    return np.where(hidden, value, rng.standard_normal((batch, keys)).astype(np.float32))[:, None, None]


@pytest.mark.sampled(0.6)
@pytest.mark.parametrize("pairs", [
    pytest.param(pairs, marks=pytest.mark.skipif(feature not in machine_features(), reason=f"no {feature} here"))
    for pairs, feature in (("s16", "avx512_vnni"), ("bf16", "avx512_bf16"))])
@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("shape", PAIRED)
def test_keys_that_a_mask_hides_from_all_queries_are_left_out(shape, hiding, pairs):
    batch, heads, depth, tokens, keys, _ = shape
    mask = padding(hiding, batch, keys)
    params = replace(plain_params(*shape, mask.shape), pairs=pairs)
    q, k, v = projections(batch, heads, depth, tokens, keys)
    expected = attention.reference(q, k, v, mask, params)
    hidden = np.broadcast_to((mask < -1e3) & (hiding != "all"), (batch, 1, 1, keys))[:, 0, 0]
    k[hidden], v[hidden] = np.nan, np.nan  # never read
    y = run("cpu", params, q, k, v, mask, threads=2)
    limit = np.ptp(expected) / 255 / 10 if pairs == "s16" else 2**-5
    np.testing.assert_allclose(y, expected, rtol=0, atol=limit)


@pytest.mark.skipif("avx512_bf16" not in machine_features(), reason="this processor has no avx512_bf16")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", PAIRED)
def test_bf16_errs_by_its_rounding(shape, masked):
    batch, heads, _, tokens, keys, _ = shape
    dims = (batch, heads, tokens, keys) if masked else None
    params = replace(plain_params(*shape, dims), pairs="bf16")
    q, k, v = projections(*shape[:5])
    mask = None if dims is None else np.where(np.random.default_rng(1).random(dims) < 0.3, np.float32(-9), 0)
    y = run("cpu", params, q, k, v, mask, threads=2)
    rounded = [x.astype(ml_dtypes.bfloat16).astype(np.float32) for x in (q, k, v)]
    expected = attention.reference(*rounded, mask, params)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2**-8 * np.abs(v).max())  # the softmax is rounded, too


@pytest.mark.sampled(0.5)
@pytest.mark.skipif("avx512_vnni" not in machine_features(), reason="this processor has no avx512_vnni")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1e-6, 1.0, 4.0])
@pytest.mark.parametrize("shape", PAIRED)
def test_integers_err_by_a_tenth_of_a_code(shape, size, masked):
    """A code of 8 bits stands for a 255th of what the result ranges over."""
    batch, heads, _, tokens, keys, _ = shape
    dims = (batch, heads, tokens, keys) if masked else None
    params = replace(plain_params(*shape, dims), pairs="s16")
    q, k, v = projections(*shape[:5])
    mask = None if dims is None else np.where(np.random.default_rng(1).random(dims) < 0.3, np.float32(-9), 0)
    y = run("cpu", params, q * np.float32(size), k, v * np.float32(size), mask, threads=2)
    expected = attention.reference(q * np.float32(size), k, v * np.float32(size), mask, params)
    np.testing.assert_allclose(y, expected, rtol=0, atol=np.ptp(expected) / 255 / 10)


@pytest.mark.skipif("avx512_vnni" not in machine_features(), reason="this processor has no avx512_vnni")
def test_integers_keep_to_their_bounds():
    """Parallel queries and keys of any length give the largest sums there are; a query of zeros weighs all alike."""
    params = replace(plain_params(1, 1, 16, 32, 40, 16), pairs="s16")
    q, k, v = (np.ones((1, n, 16), np.float32) for n in (32, 40, 40))
    q[0, :, 0], k[0, :, 0], q[0, 3] = 100, np.linspace(1, 3, 40), 0
    v *= np.linspace(-1, 1, 40, dtype=np.float32)[None, :, None]
    y = run("cpu", params, q, k, v, None)
    np.testing.assert_allclose(y, attention.reference(q, k, v, None, params), rtol=0, atol=2e-4)


def shown(kind, tokens, keys):
    """Which keys a mask shows to which queries."""
    query, key = np.arange(tokens)[:, None] + keys - tokens, np.arange(keys)
    return {"causal": key <= query, "window": (key <= query) & (key > query - 50), "blocks": query // 64 == key // 64,
            "late": key >= query}[kind]


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("kind", ["causal", "window", "blocks", "late"])
@pytest.mark.parametrize(("tokens", "keys", "width", "threads"), [
    (300, 300, 16, 1), (400, 461, 64, 2), (385, 385, 32, 1)])
@pytest.mark.parametrize("target", TARGETS)
def test_hidden_keys_are_left_out(target, tokens, keys, width, threads, kind):
    q, k, v = projections(2, 2, 8, tokens, keys)
    mask = np.where(shown(kind, tokens, keys), 0, np.finfo(np.float32).min).astype(np.float32)[None, None]
    params = replace(plain_params(2, 2, 8, tokens, keys, width, mask.shape), bounded=True)
    features = isa(target, threads)
    chunk = params.step * width
    bounds = bounds_of(mask, params.vectors(features) * features.lanes, chunk)
    k[:, bounds[:, 1].max() * chunk:] = np.nan  # which is not read
    expected = attention.reference(q, np.nan_to_num(k), v, mask, params)
    np.testing.assert_allclose(run(target, params, q, k, v, mask, threads, bounds), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("mask", [
    np.zeros((1, 1, 300, 300)), np.full((1, 1, 300, 300), -np.inf), np.full((1, 1, 300, 300), -1e9)],
    ids=["nothing hidden", "all hidden", "all far away"])
def test_masks_that_hide_nothing_or_all_bound_nothing(mask):
    assert bounds_of(mask.astype(np.float32), 64, 128) is None
