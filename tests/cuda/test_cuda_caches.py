"""Decoders with caches of any length on GPUs: every kernel in the emulator, beside onnxruntime."""

from functools import cache

import numpy as np
import onnxruntime
import pytest

from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.errors import InputError, UnsupportedOperatorError
from sparsec.runtime.sized import device, device_attention, device_caches, device_growing
from sparsec.runtime.sized.growing import Copies, reserved
from tests.support import decoders
from tests.support.cuda.emulator import emulate
from tests.support.cuda.sized import Compiled

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
CACHES = "keys", "values"


@cache
def compiled(text):
    """What is compiled of a decoder, and onnxruntime's session."""
    model = decoders.model_of(text)
    return Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())


@pytest.fixture(params=[decoders.DECODER, decoders.GROUPED], ids=["concat", "grouped"])
def decoder(request):
    """Both decoders, with runners of their own."""
    found, session = compiled(request.param)
    found.runner = found.program.runner()
    return found, session


def given(session, ids, caches):
    """The inputs for some tokens, with a mask where there is one."""
    feeds = {"ids": ids, **dict(zip(CACHES, caches, strict=True))}
    if "mask" in {each.name for each in session.get_inputs()}:
        feeds["mask"] = np.ones((len(ids), caches[0].shape[2] + ids.shape[1]), np.int64)
    return feeds


def agree(mine, theirs):
    for own, reference in zip(mine, theirs, strict=True):
        assert own.dtype == reference.dtype
        assert own.shape == reference.shape
        assert np.abs(own - reference).max(initial=0) <= HALF_PRECISIONS["fp16"] * np.abs(reference).max(initial=0)


class Text:
    """A text that grows in both, call by call."""

    def __init__(self, decoder, batch=1, seed=0):
        self.mine, self.theirs = decoder
        self.rng = np.random.default_rng(seed)
        empty = np.zeros((batch, decoders.GROUPS, 0, decoders.DEPTH), np.float32)
        self.own = self.reference = [empty, empty]

    def take(self, tokens):
        ids = self.rng.integers(0, 9, (len(self.own[0]), tokens))
        mine = self.mine(given(self.theirs, ids, self.own))
        theirs = self.theirs.run(None, given(self.theirs, ids, self.reference))
        agree(mine, theirs)
        self.own, self.reference = mine[1:], theirs[1:]
        return self


@pytest.fixture
def sent(monkeypatch):
    """The lengths of the pasts that are sent to the device."""
    lengths, real = [], device_caches.Mirrors._send

    def send(self, past, *more):
        lengths.append(past.shape[2])
        real(self, past, *more)

    monkeypatch.setattr(device_caches.Mirrors, "_send", send)
    return lengths


def test_any_past_and_number_of_tokens(decoder):
    mine, theirs = decoder
    assert not mine.artifact.report["outside"]
    for past in (0, 1, 7):
        for tokens in (1, 5):
            feeds = decoders.decoder_feeds(1, tokens, past)
            feeds = given(theirs, feeds["ids"], [feeds[name] for name in CACHES])
            agree(mine(feeds), theirs.run(None, feeds))
    assert len(mine.runner.tapes) == 2  # whatever the past


def test_sizes_that_follow_a_cache_are_those_of_the_processor_and_reported():
    text = decoders.DECODER.replace("=> (", "=> (float[batch, tokens, n] spread, ", 1).replace(
        "g = MatMul(y, w1)", "top = ReduceMax<axes=[2]>(y) wide1 = Concat<axis=0>(axis1, axis1, length1) "
        "spread = Expand(top, wide1) g = MatMul(y, w1)")
    mine, theirs = compiled(text)
    (note,) = mine.artifact.report["outside"]
    assert note["operator"] == "Expand"
    assert "follows the length of a cache" in note["reason"]
    for past, tokens in ((0, 3), (7, 1), (9, 1)):
        feeds = decoders.decoder_feeds(1, tokens, past)
        feeds = given(theirs, feeds["ids"], [feeds[name] for name in CACHES])
        agree(mine(feeds), theirs.run(None, feeds))
    with pytest.raises(UnsupportedOperatorError, match="would run without sparsec's kernels"):
        Compiled(decoders.model_of(text), "cuda-sm80", strict=True)


def test_one_graph_serves_every_length_and_caches_stay_where_they_are(decoder, sent):
    text = Text(decoder).take(3).take(1)
    lane, copied = text.mine.runner._lane, Copies.nbytes
    recorded, replayed = lane.recorded, lane.replayed
    for _ in range(20):
        text.take(1)
    assert (lane.recorded, lane.replayed) == (recorded, replayed + 20)
    assert not sent
    assert Copies.nbytes == copied


def test_several_texts_take_turns_and_go_on_from_earlier(decoder, sent):
    first, second = Text(decoder).take(4), Text(decoder, seed=1).take(2)
    for _ in range(2):
        first.take(1)
        second.take(1)
    assert sent == [4, 4, 2, 2, 5, 5, 3, 3]
    earlier = second.own, second.reference
    second.take(1).take(2)
    second.own, second.reference = earlier
    second.take(3)
    third = [reserved(each.shape, each.dtype, 99) for each in second.own]
    for own, each in zip(third, second.own, strict=True):
        own[...] = each
    second.own = third
    second.take(1).take(1)


def test_caches_grow_and_graphs_are_recorded_anew(decoder, monkeypatch):
    monkeypatch.setattr(device_caches, "FIRST_TOKENS", 4)
    monkeypatch.setattr(device, "FIRST_BYTES", 1 << 12)
    monkeypatch.setattr(device, "FIRST_PINNED", 1 << 8)
    decoder[0].runner = decoder[0].program.runner()
    text = Text(decoder).take(3)
    for _ in range(20):
        text.take(1)
    assert text.mine.runner._mirrors.room(1) == 32


def test_batches_have_caches_of_their_own_lengths():
    decoder = compiled(decoders.DECODER)
    one, three = Text(decoder), Text(decoder, batch=3)
    for tokens in (2, 1, 1):
        one.take(tokens)
        three.take(tokens)


def test_texts_of_different_lengths_are_appended_to_by_the_processor(sent):
    mine, theirs = compiled(decoders.GROUPED)
    feeds = decoders.decoder_feeds(2, 1, 6)
    feeds = given(theirs, feeds["ids"], [feeds[name] for name in CACHES])
    agree(mine(feeds), theirs.run(None, feeds))
    feeds["mask"][1, 5:] = 0
    reference, *presents = theirs.run(None, feeds)
    sent.clear()
    for _ in range(3):  # what the first one finds out of such texts holds until others begin
        logits, *caches = mine(feeds)
        agree([logits, *(each[1, :, :5] for each in caches)], [reference, *(each[1, :, :5] for each in presents)])
    assert sent == [6, 6]
    Text((mine, theirs), batch=2).take(1).take(1).take(1)
    assert sent == [6, 6]


def test_steps_that_must_know_how_long_caches_are_end_no_others(decoder, monkeypatch):
    def refuse(self, *about):
        raise device_caches.Unfit("so")

    text = Text(decoder).take(3).take(1)
    with monkeypatch.context() as patch:
        patch.setattr(device_growing.GrowingRecorder, "_append", refuse)
        with pytest.warns(UserWarning, match=r"the processor appends to the caches.*: so"):
            text.take(2)
    text.take(1).take(2).take(1)
    assert {tape.tokens for tape in text.mine.runner.tapes.values()} == {3, 1, 0}


def test_caches_grow_as_far_as_sizes_may():
    text = decoders.DECODER.replace("past", "before")
    model = decoders.model_of(text)
    runner = Compiled(model, "cuda-sm80", dims={"batch": "1..2", "before": "0..900"}).runner
    mirrors = runner._mirrors
    for batch, tokens, room in ((1, 513, 1024), (2, 600, 964), (2, 970, 970)):
        mirrors.grow(batch, tokens, spare=True)
        assert mirrors.room(batch) == room
    mirrors.grow(1, 2000, spare=False)
    assert mirrors.room(1) == 2000
    with pytest.raises(ValueError, match=r"caches of 2 x 99999999 tokens of 32 numbers have more elements"):
        mirrors.grow(2, 99999999, spare=True)


def test_a_cache_that_is_read_otherwise_is_sent_whole():
    text = decoders.DECODER.replace("float[b, g, n, d] all_keys,", "float[b, g, n, d] all_keys, float[b, g, n, d] less,"
                                    ).replace("total = Shape", "less = Sin(all_keys) total = Shape")
    model = decoders.model_of(text)
    mine, theirs = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    assert {note["operator"] for note in mine.artifact.report["outside"]} >= {"Sin"}
    for past, tokens in ((0, 2), (3, 1), (4, 1)):
        feeds = decoders.decoder_feeds(2, tokens, past)
        agree(mine(feeds), theirs.run(None, feeds))
    with pytest.raises(UnsupportedOperatorError, match="would run without sparsec's kernels"):
        Compiled(model, "cuda-sm80", strict=True)


def test_what_comes_back_is_not_written_to(decoder):
    text = Text(decoder).take(2)
    with pytest.raises(ValueError, match="read-only"):
        text.own[0][...] = 0


def test_masks_of_other_lengths_are_refused():
    decoder = compiled(decoders.GROUPED)
    text = Text(decoder).take(2)
    feeds = given(text.theirs, np.zeros((1, 1), np.int64), text.own)
    feeds["mask"] = np.ones((1, 9), np.int64)
    with pytest.raises(InputError, match="cannot be computed where"):
        text.mine(feeds)
    text.take(1)


def test_masks_are_given_for_all_keys_or_one():
    text = decoders.DECODER.replace("mask = Where(late, lowest, nothing)", "").replace(
        "int64[batch, tokens] ids", "int64[batch, tokens] ids, float[batch, 1, tokens, total] mask")
    model = decoders.model_of(text)
    mine, theirs = Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())
    for past in (0, 1, 9, 0):
        for total in dict.fromkeys((past + 1, 1)):
            feeds = {**decoders.decoder_feeds(1, 1, past),
                     "mask": np.random.default_rng(past).standard_normal((1, 1, 1, total), np.float32)}
            agree(mine(feeds), theirs.run(None, feeds))
    assert len(mine.runner.tapes) == 1


def test_keys_of_caches_are_divided_and_those_that_masks_hide_left_out(decoder, monkeypatch):
    monkeypatch.setattr(device_attention, "LISTED_STAGES", {True: 1, False: 1})
    text = Text(decoder)
    for tokens in (3, 1, 70, 1, 1):
        text.take(tokens)
    kernels = decoder[0].program._kernels.lowered
    assert {"lists_16_64_grown", "lists_64_64_grown", "combine0_masked"} <= set(kernels)
