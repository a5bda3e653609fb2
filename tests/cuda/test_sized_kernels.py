"""Kernels on GPUs whose sizes and strides the run tells agree with numpy on the emulator."""

import re
from functools import cache
from inspect import signature

import numpy as np
import pytest

from sparsec.kernels.cuda import attention_parts, key_lists, sized_attention, sized_copy, sized_elementwise
from sparsec.kernels.cuda.attention_params import TILES, AttentionParams, unit
from sparsec.kernels.divided_keys import partial_length
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
@pytest.mark.parametrize(("block", "width", "dtype", "shares"), [
    (16, 32, "float16", 1), (64, 24, "bfloat16", 1), (16, 24, "float16", 3)])
def test_attention_reads_what_lies_anywhere(batch, heads, groups, queries, keys, mask, block, width, dtype, shares):
    rng = np.random.default_rng(0)
    q = draw(rng, (batch, queries, heads, width), dtype).transpose(0, 2, 1, 3)
    k, v = draw(rng, (batch, groups, keys, width), dtype), draw(rng, (keys, batch, groups, width), dtype)
    v = v.transpose(1, 2, 0, 3)
    y = np.zeros((batch, queries, heads, width), q.dtype)
    arrays = [q, k, v]
    numbers = [heads, heads // groups, queries, keys, batch, shares]
    numbers += [stride // 2 for each in arrays for stride in each.strides[:3]]
    scores = SCALE * wide(q) @ np.repeat(wide(k), heads // groups, 1).swapaxes(2, 3)
    if mask is not None:
        shape = [size if whole else 1 for size, whole in zip(scores.shape, mask, strict=True)]
        arrays.append(rng.standard_normal(shape).astype(np.float32))
        numbers += [stride // 4 for stride in np.broadcast_to(arrays[-1], scores.shape).strides]
        scores = scores + arrays[-1]
    attend(program(width, block, mask is not None, dtype), [each.ravel(order="K") for each in arrays], y, numbers)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ np.repeat(wide(v), heads // groups, 1)
    np.testing.assert_allclose(wide(y).transpose(0, 2, 1, 3), expected, atol=4e-3 if dtype == "float16" else 3e-2)


def attend(attention, flat, y, numbers, *, lists=None, past=()):
    """Run attention on (q, k, v, [mask]), and what puts shares together; the rows that products read."""
    batch, queries, heads, width = y.shape
    rows, shares, masked = batch * queries * heads, numbers[5], len(flat) > 3
    partial = np.full(partial_length(rows, width, shares) if shares > 1 else 1, np.nan, np.float32)
    strides = [] if not masked else [0] * 4 if lists is None else [
        1, *(0 if size == 1 else stride // 4
             for size, stride in zip(lists.shape, lists.strides[:3], strict=False))]
    there = [np.zeros(1, np.int32) if lists is None else lists.reshape(-1)] if masked else []
    (found,) = attention.run([*flat[:3], partial, *flat[3:], *there, *past, y.reshape(-1), *numbers, *strides])
    if shares > 1:
        combining(width, str(y.dtype), masked).run([partial, y.reshape(-1), rows, shares])
    return found.matrix_rows


@cache
def combining(width, dtype, masked):
    return launches.lower(attention_parts.build(width, dtype, unit(masked=masked)), "tirx")


@pytest.mark.parametrize("shares", [1, 4])
@pytest.mark.parametrize("low", [-np.inf, np.finfo(np.float32).min])
@pytest.mark.parametrize(("batch", "heads", "queries", "keys"), [(2, 2, 70, 300), (1, 3, 1, 500)])
def test_keys_that_lists_leave_out_are_not_multiplied(batch, heads, queries, keys, low, shares):
    rng, width = np.random.default_rng(0), 8
    q, k, v = (draw(rng, (batch, heads, count, width), "float16") for count in (queries, keys, keys))
    behind = np.arange(keys) - np.arange(queries)[:, None] - keys + queries
    mask = np.where((behind > 0) | (behind < -100), low, 0).astype(np.float32) * np.ones((batch, 1, 1, 1), np.float32)
    mask[:, :, queries // 2] = low
    block = 16 if queries == 1 else 64
    lists = key_lists.lists_of(mask, block, 64)
    y = np.zeros((batch, queries, heads, width), q.dtype)
    numbers = [heads, 1, queries, keys, batch, shares]
    numbers += [stride // 2 for each in (q, k, v) for stride in each.strides[:3]]
    numbers += [mask.strides[0] // 4 if batch > 1 else 0, 0, keys if queries > 1 else 0, 1]
    flat = [each.ravel() for each in (q, k, v, mask)]
    rows = [attend(program(width, block, True, "float16"), flat, y, numbers, lists=each) for each in (None, lists)]
    with np.errstate(invalid="ignore"):
        expected = attended(q, k, v, mask)
    np.testing.assert_allclose(wide(y).transpose(0, 2, 1, 3), expected, atol=4e-3)
    stages = [batch * heads * each for each in (-(-keys // 64) * lists[0, 0].shape[0], lists[0, ..., 0].sum())]
    assert rows[0] - rows[1] == (stages[0] - stages[1]) * (block // 16) * 32 * (64 // 16 * 2)


def attended(q, k, v, mask):
    scores = SCALE * wide(q) @ wide(k).swapaxes(2, 3) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ wide(v)


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


@pytest.mark.parametrize("shares", [1, 2, 5])
@pytest.mark.parametrize(("past", "tokens"), [(0, 1), (7, 1), (90, 1), (3, 20)])
def test_attention_reads_how_many_keys_a_cache_has(past, tokens, shares):
    rng, (width, room, keys) = np.random.default_rng(0), (32, 128, past + tokens)
    q, k, v = (draw(rng, (1, 1, count, width), "float16") for count in (tokens, room, room))
    k[:, :, keys:] = v[:, :, keys:] = np.nan
    mask = rng.standard_normal((tokens, room)).astype(np.float32)
    mask[:, keys:] = np.nan
    y = np.zeros((1, tokens, 1, width), q.dtype)
    numbers = [1, 1, tokens, tokens, 1, shares, *(stride // 2 for each in (q, k, v) for stride in each.strides[:3])]
    numbers += [0, 0, room, 1]
    attend(program(width, 16, True, "float16", grown=True), [each.reshape(-1) for each in (q, k, v, mask)], y, numbers,
           past=[np.array([past], np.int32)])
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


def test_divisions_by_numbers_of_the_run_are_those_of_the_machine():
    text = sized_copy.build("float32", "float16").script()
    assert not re.search(r"(//|%) [a-z]", text)
    assert re.search(r"// \d", text)


@pytest.mark.parametrize("operator", [each for each in sized_elementwise.OPERATORS if each not in (
    "Where", *sized_elementwise.COMPARED, *sized_elementwise.LOGICAL)])
def test_every_operator_is_compiled_between_others(operator):
    count = len(signature(sized_elementwise.OPERATORS[operator]).parameters)
    name = "_".join((sized_elementwise.CHAIN, *["x_x_Add"] * count, operator, "x_Mul"))
    launches.lower(sized_elementwise.build(name, ["float32"] * (2 * count + 1), "float32"), "tirx")
