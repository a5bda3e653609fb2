"""What the first call of some sizes works out is repeated by the others, whatever came between."""

import threading

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsec
from sparsec.errors import InputError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.machine.memory import ALIGNMENT
from sparsec.runtime.sized.arena import Arena, Full
from sparsec.runtime.sized.rows import Splitter
from tests.support.small_session import go_with

HEADER = '<ir_version: 10, opset_import: ["" : 18]>'
TABLE, FEATURES, CLASSES = 20, 12, 7  # rows of 48 and 28 bytes, of which four begin aligned, and sixteen
EMBEDDED = f"""{HEADER} embedded (int64[batch, length] ids, float[batch, length] mask) => (float[b, l, c] y, m) {{
  e = Gather(table, ids) axes = Constant<value_ints = [2]>() wide = Unsqueeze(mask, axes) s = Mul(e, wide)
  h = MatMul(s, w) r = Relu(h) y = MatMul(r, v) m = Identity(mask)
}}"""
CHOSEN = f"""{HEADER} chosen (float[rows, {FEATURES}] x) => (float[rows, {CLASSES}] y, float[k, {CLASSES}] z) {{
  h = MatMul(x, w) y = MatMul(h, v) zero = Constant<value_float = 0.0>() first = Constant<value_ints = [0]>()
  places = Constant<value_ints = [1]>() top = ReduceMax<keepdims = 0>(y, places) more = Greater(top, zero)
  kept = Compress<axis = 0>(y, more) z = Relu(kept)
}}"""


def model(text):
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("table", (TABLE, FEATURES)), ("w", (FEATURES, 24)), ("v", (24, CLASSES))):
        if f"({name}" in text or f", {name})" in text:
            array = rng.standard_normal(shape, np.float32) * (rng.random(shape) < 0.5)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return proto


@pytest.fixture(scope="module")
def embedded():
    proto = model(EMBEDDED)
    return proto, sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False))


def feeds_of(batch, length, seed=0):
    rng = np.random.default_rng(seed)
    return {"ids": rng.integers(0, TABLE, (batch, length)), "mask": rng.random((batch, length), np.float32)}


def errors(session, proto, feeds):
    return max(relative_error(*pair) for pair in zip(session.run(None, feeds), run_onnxruntime(proto, feeds),
                                                     strict=True))


def test_every_number_of_rows_is_right_again(embedded):
    proto, session = embedded
    sizes = [(1, length) for length in (*range(1, 20), 63, 64, 65, 150)]
    for seed, each in enumerate([*sizes, *reversed(sizes)]):
        assert errors(session, proto, feeds_of(*each, seed)) < 1e-5, each


def test_sizes_are_worked_out_once(embedded, monkeypatch):
    proto, session = embedded
    session.run(None, feeds_of(3, 9))
    monkeypatch.setattr("sparsec.runtime.sized.flow.Recorder", None)
    assert errors(session, proto, feeds_of(3, 9, 1)) < 1e-5


def test_results_have_memory_of_their_own(embedded):
    session = embedded[1]
    feeds = feeds_of(2, 5)
    first = session.run(None, feeds)
    kept = [array.copy() for array in first]
    session.run(None, feeds_of(2, 5, 1))
    feeds["mask"][...] = 0
    assert all(np.array_equal(*pair) for pair in zip(first, kept, strict=True))


def test_arrays_may_lie_anywhere(embedded):
    proto, session = embedded
    plain = feeds_of(4, 6)
    odd = {"ids": np.asfortranarray(plain["ids"]), "mask": np.repeat(plain["mask"], 2, axis=1)[:, ::2].astype(">f4")}
    for _ in range(2):
        assert errors(session, proto, plain) < 1e-5
        assert relative_error(session.run(["y"], odd)[0], session.run(["y"], plain)[0]) == 0


def test_an_index_outside_is_refused_each_time(embedded):
    proto, session = embedded
    good = feeds_of(2, 3)
    for _ in range(3):
        with pytest.raises(InputError, match="index"):
            session.run(None, {**good, "ids": good["ids"] + TABLE})
        assert errors(session, proto, good) < 1e-5
    with pytest.raises(InputError, match="'ids'"):
        session.run(None, {"mask": good["mask"]})
    with pytest.raises(InputError, match="one size"):
        session.run(None, {**good, "mask": good["mask"][:, 1:]})


def test_threads_do_not_share_memory(embedded):
    proto, session = embedded
    failed = []

    def work(seed):
        for turn in range(20):
            feeds = feeds_of(1 + (seed + turn) % 3, 5 + turn % 4, seed)
            if errors(session, proto, feeds) > 1e-5:
                failed.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed


def test_sizes_that_follow_from_values_may_change():
    proto = model(CHOSEN)
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False))
    for seed in range(6):
        x = np.random.default_rng(seed).standard_normal((9, FEATURES), np.float32)
        assert errors(session, proto, {"x": x}) < 1e-5


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_pieces_of_memory_do_not_meet(sizes, random):
    arena, taken = Arena(4096), {}
    for size in sizes:
        try:
            start = arena.take(size)
        except Full:
            assert taken
            arena.give(start := random.choice(list(taken)))
            del taken[start]
            continue
        assert start % ALIGNMENT == 0
        assert all(start + size <= other or other + each <= start for other, each in taken.items())
        taken[start] = size
    for start in taken:
        arena.give(start)
    assert arena.take(4096) == 0


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_parts_cover_all_rows_and_begin_aligned(rows, apart):
    parts = Splitter({1: 1.0, 4: 2.0, 16: 5.0, 64: 12.0}).parts(rows, apart)
    assert sum(parts[:-1]) < rows <= sum(parts)
    assert all(part % apart == 0 for part in parts[:-1])


def test_weights_go_with_the_last_reference_to_a_session(embedded):
    session = sparsec.InferenceSession(sparsec.compile(embedded[0], tune="off", verify=False))
    for _ in range(2):
        session.run(None, feeds_of(2, 9))
    sessions = [session]
    del session
    assert go_with(sessions)
