"""Attention on GPUs leaves out stages of keys that masks hide, and divides keys among blocks: right, with less work.

Everything runs on the emulator, which counts the rows of keys and values that are read for products.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import onnxruntime
import pytest
from tvm import relax

from sparsec.backends.cuda import attention as attention_lowering
from sparsec.backends.cuda import attention_cost
from sparsec.backends.cuda.context import CudaContext
from sparsec.backends.cuda.lower import lower
from sparsec.compiler.pipeline import run_passes
from sparsec.graph import reader
from sparsec.graph.operators.attention import Attention
from sparsec.kernels.cuda import attention, key_lists
from sparsec.kernels.cuda.attention_params import AttentionParams, AttentionTile
from sparsec.kernels.cuda.attention_turns import MASKED
from sparsec.kernels.divided_keys import PLANES
from sparsec.kernels.emit.isa import isa_of
from sparsec.kernels.emit.projection import Projection
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.cuda import networks, walk
from tests.support.cuda.emulator import launches
from tests.support.cuda.products import DTYPES, needs_compiler

TILE = AttentionTile(32, 32, 2)
TARGET = resolve("cuda-sm80")
LOWEST = np.finfo(np.float32).min


def distance(queries, keys):
    """How far keys lie behind queries, of which the last is the last key's."""
    return np.arange(keys) - (np.arange(queries)[:, None] + keys - queries)


PATTERNS = {
    "causal": lambda q, k: distance(q, k) > 0,
    "a window": lambda q, k: (distance(q, k) > 0) | (distance(q, k) <= -20),
    "a window and the first keys": lambda q, k: (distance(q, k) > 0) | (
        (distance(q, k) <= -20) & (np.arange(k) >= 3)),
    "blocks": lambda q, k: (np.arange(q)[:, None] * 4 // q) != (np.arange(k) * 4 // k),
    "padding": lambda q, k: (distance(q, k) > 10**6) | (np.arange(k) > k // 3),
    "a query sees none": lambda q, k: (distance(q, k) > 0) | (np.arange(q)[:, None] == q // 2),
    "none sees any": lambda q, k: distance(q, k) < 10**6,
    "all see all": lambda q, k: distance(q, k) > 10**6,
}
SIZES = {"odd": (75, 171), "one query": (1, 170), "one key": (40, 1), "even": (64, 128)}


def mask_of(pattern, size, low, number=0):
    """A mask; the larger `number` is, the less it shows."""
    mask = np.where(PATTERNS[pattern](*size), np.float32(low), np.float32(0))
    mask[:, :number * 40] = low
    return mask


def masks(pattern, size, low, batch, heads):
    """Masks (batch, heads, queries, keys) that differ."""
    return np.stack([np.stack([mask_of(pattern, size, low, sequence + head) for head in range(heads)])
                     for sequence in range(batch)])


@cache
def program(p):
    return launches.lower(attention.build(p), "tirx")


def run(p, q, k, v, mask=None, lists=None):
    """Y, and the rows that products read."""
    given = [q, k, v, *([] if p.mask is None else [mask]), *([lists] if p.listed else [])]
    outputs = [np.full(length, np.nan, np.dtype(DTYPES.get(dtype, dtype)))
               for name, (length, dtype) in attention.arguments(p).items() if name in ("partial", "y")]
    statistics = program(p).run([*(each.ravel() for each in given), *outputs])
    return outputs[-1].reshape(p.batch, p.queries, -1).astype(np.float64), statistics[0].matrix_rows


def projections(p):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((p.batch, tokens, p.heads * p.width)).astype(DTYPES[p.dtype])
            for tokens in (p.queries, p.keys, p.keys)]


def expected(p, q, k, v, mask):
    with np.errstate(invalid="ignore", over="ignore"):
        return Attention.eval(*(None if x is None else x.astype(np.float64) for x in (q, k, v, mask)),
                              heads=p.heads, scale=p.scale)


def params(size, batch, heads, mask, **more):
    own = Projection(heads * 24)
    return AttentionParams(heads, 24, batch, *size, 24**-0.5, own, own, own, mask, **({"tile": TILE} | more))


def rows_read(p, stages):
    """Rows that products read: of queries once, and of so many stages of keys and values of both warps."""
    steps = p.tile.warps * p.steps * 32  # rows that a warp's instruction of each step reads
    return p.batch * p.heads * p.query_blocks * max(1, p.splits) * steps * p.tile.row_blocks + stages * steps * (
        2 * p.tile.keys // 16)


@needs_compiler
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("low", [-np.inf, LOWEST])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_keys_that_are_hidden_are_not_multiplied(pattern, size, low, splits):
    size = SIZES[size]
    batch, heads = (2, 1) if splits == 1 else (1, 2)
    mask = masks(pattern, size, low, batch, heads)
    p = params(size, batch, heads, mask.shape, splits=splits, listed=True)
    lists = key_lists.lists_of(mask, p.tile.queries, p.tile.keys)
    q, k, v = projections(p)
    y, rows = run(p, q, k, v, mask, lists)
    np.testing.assert_allclose(y, expected(p, q, k, v, mask), rtol=0, atol=4e-3)
    assert rows == rows_read(p, lists[..., 0].sum())


@needs_compiler
@pytest.mark.parametrize(("pattern", "most"), [("causal", 0.6), ("a window", 0.3), ("blocks", 0.35), ("padding", 0.4)])
def test_masks_spare_their_share_of_keys(pattern, most):
    lists = key_lists.lists_of(mask_of(pattern, (512, 512), -np.inf)[None, None], 64, 32)
    assert lists[..., 0].sum() <= most * lists[..., 1:].size


@needs_compiler
def test_masks_are_read_where_they_are_not_0():
    mask = mask_of("causal", (64, 128), -np.inf)[None, None]
    p = params((64, 128), 1, 2, mask.shape, listed=True)
    lists = key_lists.lists_of(mask, p.tile.queries, p.tile.keys)
    entries = [row[1:1 + row[0]] % MASKED for row in lists[0, 0]]
    assert [list(each) for each in entries] == [[0, 0, 1], [0, 0, 0, 1]]
    q, k, v = projections(p)
    unread = mask.copy()
    unread[..., :64] = np.nan
    np.testing.assert_array_equal(run(p, q, k, v, unread, lists)[0], run(p, q, k, v, mask, lists)[0])


@needs_compiler
@pytest.mark.parametrize("width", [8, 40, 128])
@pytest.mark.parametrize(("size", "splits"), [((1, 1), 2), ((1, 300), 4), ((3, 65), 2), ((16, 130), 9), ((33, 96), 3)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.sampled(0.5)
def test_keys_are_divided_among_blocks(size, splits, width, dtype):
    p = replace(params(size, 2, 2, None, splits=splits), width=width, dtype=dtype, q=Projection(2 * width),
                k=Projection(2 * width), v=Projection(2 * width), tile=AttentionTile(16, 32, 1))
    q, k, v = projections(p)
    atol = 4e-3 if dtype == "float16" else 3e-2
    np.testing.assert_allclose(run(p, q, k, v)[0], expected(p, q, k, v, None), rtol=0, atol=atol)


@needs_compiler
@pytest.mark.parametrize("place", ["q", "k", "v", "mask", "infinite v"])
def test_shares_keep_what_is_no_number(place):
    p = params((5, 100), 1, 1, (1, 1, 5, 100), splits=3)
    q, k, v = projections(p)
    mask = masks("causal", (5, 100), -np.inf, 1, 1)
    {"q": q, "k": k, "v": v, "mask": mask[0], "infinite v": v}[place][0, 2, 3] = np.inf if "inf" in place else np.nan
    np.testing.assert_array_equal(np.isfinite(run(p, q, k, v, mask)[0]), np.isfinite(expected(p, q, k, v, mask)))


@needs_compiler
@pytest.mark.parametrize("low", [-np.inf, LOWEST, -1e4, -5])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_gpu_lists_what_numpy_does(pattern, low):
    p = key_lists.ListParams(16, 32)
    mask = masks(pattern, (37, 75), low, 2, 1)
    mask[1, 0, 3, 5], mask[1, 0, 20, 40] = np.nan, np.inf
    same_lists(listed_at_run(p, mask, 3), key_lists.lists_of(mask, p.rows, p.keys))


@needs_compiler
def test_lists_of_many_stages_and_of_fixed_sizes():
    p = key_lists.ListParams(16, 32)
    mask = masks("a window and the first keys", (3, 1200), -np.inf, 1, 1)
    lists = key_lists.lists_of(mask, p.rows, p.keys)
    same_lists(listed_at_run(p, mask, 38), lists)
    found, peaks = np.zeros(lists.size, np.int32), np.zeros(key_lists.peaks_length(mask.shape, p.keys), np.float32)
    launches.lower(key_lists.build(p, mask.shape), "tirx").run([mask.ravel(), np.zeros(1, np.int32), peaks, found])
    same_lists(found.reshape(lists.shape), lists)


@needs_compiler
def test_lists_of_caches_end_with_these():
    p = key_lists.ListParams(16, 32)
    mask = masks("a window", (3, 100), -np.inf, 1, 1)
    room = np.full((1, 1, 3, 256), np.nan, np.float32)
    room[..., :100] = mask
    same_lists(listed_at_run(p, room, 8, past=97), key_lists.lists_of(mask, p.rows, p.keys))


@needs_compiler
def test_masks_of_very_many_rows_and_stages_fit_a_grid():
    program = listing(key_lists.ListParams(64, 32), grown=False)
    for shape in ((64, 64, 512, 512), (1, 1, 1, 1 << 27)):
        numbers = zip(program.parameters[3:], (*shape, 1 + -(-shape[3] // 32), 0, 0, 0, 0), strict=True)
        told = program.bound | dict(numbers)
        assert [launch.told(told).grid[1:] for launch in program.launches] == [(1, 1)] * 2


@cache
def listing(p, *, grown):
    return launches.lower(key_lists.build_sized(p, grown=grown), "tirx")


def listed_at_run(p, mask, stages, past=None):
    batch, heads, queries, keys = mask.shape
    lists = np.zeros((batch, heads, -(-queries // p.rows), 1 + stages), np.int32)
    peaks = np.zeros(PLANES * batch * heads * queries * stages, np.float32)
    extra = [] if past is None else [np.array([past], np.int32)]
    new = queries if past is not None else keys
    listing(p, grown=past is not None).run([mask.ravel(), *extra, peaks, lists.reshape(-1), batch, heads, queries, new,
                                            1 + stages, *(stride // 4 for stride in mask.strides)])
    return lists


def same_lists(found, wanted):
    np.testing.assert_array_equal(found[..., 0], wanted[..., 0])
    for place in np.ndindex(wanted.shape[:-1]):
        end = 1 + wanted[place][0]
        np.testing.assert_array_equal(found[place][:end], wanted[place][:end])


def model(tokens, keys, mask, batch=1, layers=1, heads=2):
    """Layers of attention of x to a memory m, a mask added that is a constant, an input, or none (None)."""
    g = networks.Graph()
    split = g.constant(np.array([0, 0, heads, -1]))
    x, added = "x", "mask" if isinstance(mask, str) else None if mask is None else g.constant(mask)
    for _ in range(layers):
        q, k, v = (g("Transpose", g("Reshape", each, split), perm=[0, 2, 1, 3]) for each in (x, "m", "m"))
        scores = g("Mul", g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2])), g.constant(np.float32(0.3)))
        weights = g("Softmax", scores if added is None else g("Add", scores, added), axis=-1)
        y = g("Reshape", g("Transpose", g("MatMul", weights, v), perm=[0, 2, 1, 3]), g.constant(np.array([0, 0, -1])))
        x = g("Add", x, y)
    g("Add", x, g.constant(np.zeros(1, np.float32) + 1), name="y")
    shapes = {"x": (1, [batch, tokens, heads * 8]), "m": (1, [batch, keys, heads * 8])}
    return g.model(shapes | ({"mask": (1, [1, 1, tokens, keys])} if isinstance(mask, str) else {}),
                   {"y": [batch, tokens, heads * 8]})


def check(model, feeds):
    """The kernels that a model has; it computes what onnxruntime does."""
    graph = reader.load(model)
    run_passes(graph, Context(TARGET))
    lowered = lower(graph, TARGET, "fp16")
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    (y,) = walk.run(lowered, feeds)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=5e-3)
    return walk.kernels(lowered)


def feeds_of(tokens, keys, **more):
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((1, tokens, 16)).astype(np.float32),
            "m": rng.standard_normal((1, keys, 16)).astype(np.float32), **more}


@needs_compiler
@pytest.mark.parametrize("low", [-np.inf, LOWEST])
def test_constant_masks_become_lists(low):
    mask = mask_of("a window", (512, 512), low)
    kernels = check(model(512, 512, mask), feeds_of(512, 512))
    assert not [name for name in kernels if "lists" in name]  # they are constants
    p = params_of(mask)
    assert p.listed
    assert p.splits == 1


def params_of(mask, tokens=512, keys=512):
    graph = reader.load(model(tokens, keys, mask))
    run_passes(graph, Context(TARGET))
    (node,) = (each for each in graph.graph if each.op_type == "Attention")
    context = CudaContext(relax.BlockBuilder(), isa_of(TARGET), TARGET, None)
    return attention_lowering.planned(context, node)[0]


@needs_compiler
@pytest.mark.parametrize("pattern", ["causal", "a query sees none"])
def test_masks_of_runs_are_listed_once_for_all_layers(pattern, monkeypatch):
    monkeypatch.setattr(attention_cost, "assumed", lambda _: attention_cost.Visits(1, 1))
    monkeypatch.setattr(attention_cost, "list_seconds", lambda *_: 0)
    mask = mask_of(pattern, (80, 512), LOWEST)[None, None]
    kernels = check(model(80, 512, "mask", layers=2), feeds_of(80, 512, mask=mask))
    assert sum("lists" in name for name in kernels) == 1
    assert sum("attention" in name for name in kernels) == 2


@needs_compiler
def test_few_queries_with_many_keys_divide_them():
    check(model(1, 1000, None), feeds_of(1, 1000))
    assert params_of(None, 1, 1000).splits > 1
    assert params_of(None, 1, 64).splits == 1
