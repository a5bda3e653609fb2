"""Kernels on GPUs whose sizes and strides the run tells agree with numpy on the emulator."""

from functools import cache

import numpy as np
import pytest

from sparsec.kernels.cuda import sized_attention, sized_copy
from sparsec.kernels.cuda.attention_params import TILES, AttentionParams
from sparsec.kernels.emit.projection import Projection
from sparsec.machine.memory import element_type
from tests.support.cuda.emulator import launches
from tests.support.cuda.products import needs_compiler

pytestmark = needs_compiler
SCALE = 0.3


@cache
def program(width, queries, masked, dtype, *, grown=False):
    own = Projection(width)
    tile = next(tile for tile in TILES if tile.queries == queries and tile.row_blocks == 1)
    p = AttentionParams(1, width, 1, 1, 1, SCALE, own, own, own, (1, 1, 1, 1) if masked else None, dtype, tile)
    return launches.lower(sized_attention.build(p, grown=grown), "tirx")


@pytest.mark.parametrize(("batch", "heads", "groups", "queries", "keys"), [
    (1, 1, 1, 1, 1), (2, 4, 2, 7, 7), (1, 2, 2, 3, 70), (2, 2, 1, 65, 33)])
@pytest.mark.parametrize("mask", [
    None, (True, False, False, True), (False, True, True, True), (True, True, True, False)])
@pytest.mark.parametrize(("block", "width", "dtype"), [(16, 32, "float16"), (64, 24, "bfloat16")])
def test_attention_reads_what_lies_anywhere(batch, heads, groups, queries, keys, mask, block, width, dtype):
    rng = np.random.default_rng(0)
    q = draw(rng, (batch, queries, heads, width), dtype).transpose(0, 2, 1, 3)
    k, v = draw(rng, (batch, groups, keys, width), dtype), draw(rng, (keys, batch, groups, width), dtype)
    v = v.transpose(1, 2, 0, 3)
    y = np.zeros((batch, queries, heads, width), q.dtype)
    arrays = [q, k, v]
    numbers = [heads, heads // groups, queries, keys, batch]
    numbers += [stride // 2 for each in arrays for stride in each.strides[:3]]
    scores = SCALE * wide(q) @ np.repeat(wide(k), heads // groups, 1).swapaxes(2, 3)
    if mask is not None:
        shape = [size if whole else 1 for size, whole in zip(scores.shape, mask, strict=True)]
        arrays.append(rng.standard_normal(shape).astype(np.float32))
        numbers += [stride // 4 for stride in np.broadcast_to(arrays[-1], scores.shape).strides]
        scores = scores + arrays[-1]
    flat = [each.ravel(order="K") for each in arrays]
    program(width, block, mask is not None, dtype).run([*flat, y.reshape(-1), *numbers])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ np.repeat(wide(v), heads // groups, 1)
    np.testing.assert_allclose(wide(y).transpose(0, 2, 1, 3), expected, atol=4e-3 if dtype == "float16" else 3e-2)


def draw(rng, shape, dtype):
    return rng.standard_normal(shape).astype(element_type(dtype))


def wide(array):
    return array.astype(np.float32)


@pytest.mark.parametrize(("source", "target"), [("float16", "float32"), ("float32", "float16")])
def test_copies_take_any_order(source, target):
    x = np.arange(2 * 3 * 5 * 8).reshape(2, 3, 5, 8).astype(source)
    y = np.zeros((2, 5, 3, 8), target)
    turned = x.transpose(0, 2, 1, 3)
    numbers = [(1, *y.shape), *((0, *(stride // each.itemsize for stride in each.strides)) for each in (turned, y))]
    launches.lower(sized_copy.build(source, target), "tirx").run([x.ravel(), y.reshape(-1), *sum(numbers, ())])
    assert np.array_equal(y, turned)


@pytest.mark.parametrize(("past", "tokens"), [(0, 1), (7, 1), (90, 1), (3, 20)])
def test_attention_reads_how_many_keys_a_cache_has(past, tokens):
    rng, (width, room, keys) = np.random.default_rng(0), (32, 128, past + tokens)
    q, k, v = (draw(rng, (1, 1, count, width), "float16") for count in (tokens, room, room))
    k[:, :, keys:] = v[:, :, keys:] = np.nan
    mask = rng.standard_normal((tokens, room)).astype(np.float32)
    mask[:, keys:] = np.nan
    y = np.zeros((1, tokens, 1, width), q.dtype)
    numbers = [1, 1, tokens, tokens, 1, *(stride // 2 for each in (q, k, v) for stride in each.strides[:3])]
    numbers += [0, 0, room, 1]
    program(width, 16, True, "float16", grown=True).run(
        [*(each.reshape(-1) for each in (q, k, v, mask)), np.array([past], np.int32), y.reshape(-1), *numbers])
    scores = SCALE * wide(q[0, 0]) @ wide(k[0, 0, :keys]).T + mask[:, :keys]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(wide(y)[0, :, 0], weights / weights.sum(-1, keepdims=True) @ wide(v[0, 0, :keys]),
                               atol=4e-3)


def test_copies_are_appended_behind_a_cache():
    x = np.arange(2 * 3 * 4 * 8).reshape(2, 4, 3, 8).astype(np.float32).transpose(0, 2, 1, 3)
    y = np.zeros((2, 3, 10, 8), np.float16)
    numbers = [(1, *x.shape), *((0, *(stride // each.itemsize for stride in each.strides)) for each in (x, y))]
    launches.lower(sized_copy.build("float32", "float16", behind=True), "tirx").run(
        [x.ravel(order="K"), np.array([5], np.int32), y.reshape(-1), *sum(numbers, ()), 8])
    assert np.array_equal(y[:, :, 5:9], x)
    assert not y[:, :, :5].any()
    assert not y[:, :, 9:].any()
