"""Models of symbolic dimensions compile without any option, and one artifact is right at every size."""

from unittest import mock

import numpy as np
import pytest
from onnx import numpy_helper

import sparsec
from sparsec.artifact.file import Artifact
from sparsec.backends.cpu.backend import CpuBackend
from sparsec.backends.program import SIZED, Program, TensorSpec
from sparsec.backends.relax.importer import OPERATORS
from sparsec.bench.sized_profile import profile_sized
from sparsec.errors import ArtifactError, InputError, ShapeError, UnsupportedOperatorError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.runtime.sized.growing import Buffer
from sparsec.target import resolve
from tests.support import texts
from tests.support.decoders import DECODER, DEPTH, GROUPED, GROUPS, HEADER, RNG, decoder_feeds, merged_decoder, model_of
from tests.support.small_session import go_with

IMAGES = f"""{HEADER} images (float[n, 3, 8, 8] x) => (float[n, 5] y) {{
  c = Conv<pads=[1,1,1,1]>(x, kernel) h = Relu(c) p = GlobalAveragePool(h) f = Flatten(p) y = Gemm<transB=1>(f, head)
}}"""

PIXELS = f"""{HEADER} pixels (float[n, 3, h, w] x) => (float[n, 5] y) {{
  c = Conv<pads=[1,1,1,1], strides=[2, 1]>(x, kernel) h = Relu(c)
  m = MaxPool<kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], ceil_mode=1>(h)
  d0 = Conv<group=4, pads=[2, 2, 2, 2], dilations=[2, 2]>(m, each) d = Conv<group=4, auto_pad="SAME_UPPER">(d0, each)
  a = AveragePool<kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1>(d)
  p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB=1>(f, head)
}}"""

COMPUTED = f"""{HEADER} computed (float[n, 3, h, w] x, float[4, 3, 2, 2] k) => (float[n, 4, i, j] y) {{
  weight = Abs(k) y = Conv(x, weight) }}"""

CHOICE = f"""{HEADER} choice (float[n, t, 6] x) => (float[n, 4] y, int64[n, 2] places)
  <float[1, 48, 6] w, float[1, 48, 16] r, float[16, 4] head> {{
  turned = Transpose<perm=[1, 0, 2]>(x) steps, h = GRU<hidden_size=16>(turned, w, r) last = Transpose<perm=[1, 0, 2]>(h)
  s = Shape(last) one = Constant<value_ints=[1]>() size = Gather(s, one) c = Equal(size, one)
  row = If(c) <then_branch = yes () => (a) {{ a = Squeeze(last, one) }},
               else_branch = no () => (b) {{ b = Identity(last) }}>
  y = MatMul(row, head) two = Constant<value_ints=[2]>() largest, places = TopK(y, two) }}"""


def errors(session, model, feeds):
    return [relative_error(*pair) for pair in zip(session.run(None, feeds), run_onnxruntime(model, feeds), strict=True)]


@pytest.fixture(scope="module")
def decoder():
    model = model_of(DECODER)
    artifact = sparsec.compile(model, tune="off", threads=2, dims={"tokens": "0..80", "past": "0..500"})
    return model, Artifact.load(artifact.to_bytes())


@pytest.fixture(scope="module")
def session(decoder):
    return sparsec.InferenceSession(decoder[1])


@pytest.mark.parametrize("sizes", [(1, 1, 0), (1, 1, 3), (1, 5, 0), (2, 3, 4), (1, 70, 33), (3, 0, 2), (0, 1, 1)],
                         ids=str)
def test_a_decoder_is_right_at_every_size(decoder, session, sizes):
    assert max(errors(session, decoder[0], decoder_feeds(*sizes))) < 1e-5


def test_a_decoder_is_compiled_whole(decoder):
    report = decoder[1].report
    assert report["outside"] == []
    rows = {layer["rows"] for layer in report["layers"]}
    assert set(CpuBackend.rows) <= rows <= {*CpuBackend.rows, *CpuBackend.more_rows}
    assert max(report["verification"]["relative_error"].values()) <= report["verification"]["tolerance"]


def test_a_profile_counts_what_a_token_moves(decoder):
    feeds = decoder_feeds(1, 1, 40)
    found = profile_sized(decoder[1], feeds)
    assert (found.cache_bytes, found.copied_bytes) == (feeds["keys"].nbytes + feeds["values"].nbytes, 0)
    assert found.weight_bytes


def test_sessions_tell_the_names_of_sizes(session):
    cache = ["batch", GROUPS, "past", DEPTH]
    assert [info.shape for info in session.get_inputs()] == [["batch", "tokens"], cache, cache]
    assert session.get_outputs()[1].shape == ["batch", GROUPS, "tokens + past", DEPTH]


def test_caches_grow_in_place_and_branches_do_not_meet(decoder, session):
    feeds = decoder_feeds(1, 5, 0)
    first = session.run(None, feeds)

    def step(token, cache):
        return session.run(None, {"ids": np.array([[token]]), "keys": cache[1], "values": cache[2]})

    second = step(1, first)
    assert np.shares_memory(first[1], second[1])
    kept = [array.copy() for array in second]
    other = step(2, first)
    assert not np.shares_memory(other[1], second[1])
    assert all(np.array_equal(*pair) for pair in zip(kept, second, strict=True))
    whole = run_onnxruntime(decoder[0], {**feeds, "ids": np.concatenate([feeds["ids"], [[2]]], axis=1)})
    assert relative_error(other[0][:, -1], whole[0][:, -1]) < 1e-5


def test_tokens_follow_on_whatever_caches_come_back(decoder, session):
    def follow(cache):
        feeds = {"ids": RNG.integers(0, 9, (1, 1)), "keys": cache[0], "values": cache[1]}
        logits, *present = session.run(None, feeds)
        whole = run_onnxruntime(decoder[0], feeds)
        assert max(relative_error(*pair) for pair in zip((logits, *present), whole, strict=True)) < 1e-5
        return present

    older = cache = session.run(None, decoder_feeds(1, 3, 0))[1:]
    for _ in range(140):  # more than buffers have room for
        older, cache = cache, follow(cache)
    for given in (cache[::-1], older, [each[:, :, 1:] for each in cache], [each.copy() for each in cache], cache):
        follow(follow(given))


def test_tokens_that_follow_end_with_the_range(session):
    cache = session.run(None, decoder_feeds(1, 1, 498))[1:]
    for _ in range(2):
        cache = session.run(None, {"ids": np.array([[1]]), "keys": cache[0], "values": cache[1]})[1:]
    with pytest.raises(InputError, match=r"'past' is 501 .* 0 to 500"):
        session.run(None, {"ids": np.array([[1]]), "keys": cache[0], "values": cache[1]})


WRONG = {
    "beyond the range": (lambda f: {**f, "ids": np.zeros((1, 81), np.int64)}, "'tokens' is 81 .* 0 to 80"),
    "two sizes": (lambda f: {**f, "values": f["values"][:, :, 1:]}, "'past' is 3 in input 'keys' and 2 in .*'values'"),
    "a cache beyond the limit": (lambda f: {**f, **{name: np.zeros((1, GROUPS, 501, DEPTH), np.float32)
                                                    for name in ("keys", "values")}}, "'past' is 501 .* 0 to 500"),
    "another type": (lambda f: {**f, "ids": f["ids"].astype(np.float32)}, r"'ids' takes int64 .* \(batch, tokens\)"),
    "another number": (lambda f: {**f, "keys": f["keys"][:, :1]}, "axis 1 of input 'keys' must be 2"),
    "missing": (lambda f: {"ids": f["ids"]}, "takes the inputs"),
    "one more": (lambda f: {**f, "more": f["ids"]}, "no input 'more'"),
    "no such token": (lambda f: {**f, "ids": f["ids"] + 100}, "index"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_feeds_that_do_not_fit_are_refused_by_name(session, change, message):
    with pytest.raises(InputError, match=message):
        session.run(None, change(decoder_feeds(1, 2, 3)))


def test_grouped_queries_of_onnxruntime_have_any_size():
    model = model_of(GROUPED)
    artifact = sparsec.compile(model, tune="off")
    session = sparsec.InferenceSession(artifact)
    assert artifact.report["outside"] == []
    for batch, tokens, past in ((1, 4, 0), (1, 1, 4), (1, 5, 3), (2, 1, 6)):
        ids, keys, values = decoder_feeds(batch, tokens, past).values()
        feeds = {"ids": ids, "mask": np.ones((batch, past + tokens), np.int64), "keys": keys, "values": values}
        assert max(errors(session, model, feeds)) < 1e-5


def test_a_batch_of_images_has_any_size():
    model = model_of(IMAGES)
    artifact = sparsec.compile(model, tune="off")
    session = sparsec.InferenceSession(artifact)
    for count in (0, 1, 3, 11):
        assert max(errors(session, model, {"x": RNG.standard_normal((count, 3, 8, 8), np.float32)})) < 1e-5
    assert artifact.report["outside"] == []


def test_what_has_no_kernel_yet_is_named_and_right():
    model = model_of(COMPUTED)
    artifact = sparsec.compile(model, tune="off")
    assert artifact.report["outside"][0]["operator"] == "Conv"
    session = sparsec.InferenceSession(artifact)
    weight = RNG.standard_normal((4, 3, 2, 2), np.float32)
    for size in ((2, 3, 5, 4), (0, 3, 8, 8)):
        assert max(errors(session, model, {"x": RNG.standard_normal(size, np.float32), "k": weight})) < 1e-5
    with pytest.raises(UnsupportedOperatorError, match="strict"):
        sparsec.compile(model, tune="off", strict=True)


def test_what_the_target_lacks_is_computed_between_stages():
    model = model_of(f"""{HEADER} lacking (float[n, 4] x) => (float[n, 5] y) {{
      a = Erf(x) y = Gemm<transB=1>(a, head) }}""")

    def refuse(*_):
        raise UnsupportedOperatorError("no function of errors")

    with mock.patch.dict(OPERATORS, Erf=refuse):
        artifact = sparsec.compile(model, tune="off")
        with pytest.raises(UnsupportedOperatorError, match="no function of errors"):
            sparsec.compile(model, tune="off", strict=True)
    (row,) = artifact.report["outside"]
    assert row["operator"] == "Erf"
    assert row["reason"].endswith("; no function of errors")
    session = sparsec.InferenceSession(artifact)
    assert max(errors(session, model, {"x": RNG.standard_normal((3, 4), np.float32)})) < 1e-5


def test_a_mask_of_a_length_by_another_name_is_one_of_attention():
    model = model_of(f"""{HEADER} masked (float[n, 2, t, 8] q, float[n, 2, past, 8] k, float[n, 2, past, 8] v,
      float[n, 1, 1, total] mask) => (float[n, 2, t, 8] y) {{
      turned = Transpose<perm=[0, 1, 3, 2]>(k) s = MatMul(q, turned) m = Add(s, mask) p = Softmax(m) y = MatMul(p, v)
    }}""")
    artifact = sparsec.compile(model, tune="off")
    assert artifact.report["outside"] == []
    session = sparsec.InferenceSession(artifact)

    def feeds(total):
        return {name: RNG.standard_normal(shape, np.float32) for name, shape in (
            ("q", (2, 2, 3, 8)), ("k", (2, 2, 5, 8)), ("v", (2, 2, 5, 8)), ("mask", (2, 1, 1, total)))}

    assert max(errors(session, model, feeds(5)) + errors(session, model, feeds(1))) < 1e-5
    with pytest.raises(InputError):
        session.run(None, feeds(4))


def test_the_size_of_a_batch_is_known_to_the_end():
    weights = {name: RNG.standard_normal(shape) for name, shape in (
        ("w", (1, 48, 6)), ("r", (1, 48, 16)), ("head", (16, 4)))}
    model = texts.model(CHOICE.removeprefix(HEADER), **weights)
    artifact = sparsec.compile(model, tune="off")
    assert artifact.report["outside"] == []
    session = sparsec.InferenceSession(artifact)
    assert [output.shape for output in session.get_outputs()] == [["n", 4], ["n", 2]]
    assert "[n, t, 6]" in repr(session)
    assert max(errors(session, model, {"x": RNG.standard_normal((3, 5, 6), np.float32)})) < 1e-5


def test_images_of_any_size_run_on_kernels():
    model = model_of(PIXELS)
    artifact = sparsec.compile(model, tune="off")
    assert artifact.report["outside"] == []
    session = sparsec.InferenceSession(artifact)
    assert {step["op"] for step in session._sized.steps} & {"onnx"} == set()
    for size in ((2, 3, 5, 9), (1, 3, 6, 4), (0, 3, 8, 8)):
        assert max(errors(session, model, {"x": RNG.standard_normal(size, np.float32)})) < 1e-5


@pytest.mark.parametrize(("dims", "message"), [
    ({"tokens": "5..2"}, "'5..2'"), ({"token": 3}, "'batch', 'tokens', 'past'"), ({"tokens": -1}, "'-1'")])
def test_dimensions_that_are_none_are_refused(dims, message):
    with pytest.raises(ShapeError, match=message):
        sparsec.compile(model_of(DECODER), dims=dims)


def test_ranges_of_few_rows_leave_the_others_out():
    artifact = sparsec.compile(model_of(DECODER), tune="off", dims={"batch": 1, "tokens": "1..1"}, verify=False)
    assert {layer["detail"].rpartition(" ")[2] for layer in artifact.report["layers"]} == {"rows=1"}


@pytest.mark.parametrize("plan", [b"", b"[]", b"{}", b'{"inputs": [{}]}'])
def test_plans_that_contradict_themselves_are_refused(plan):
    spec = TensorSpec("x", "float32", (-1,))
    program = Program(b"", SIZED, (np.frombuffer(plan, np.uint8),), (spec,), (spec,))
    with pytest.raises(ArtifactError, match="contradicts itself"):
        sparsec.InferenceSession(Artifact.build(program, resolve("cpu"), 1, b"", {}))


def test_dimensions_of_one_size_make_a_fixed_artifact():
    artifact = sparsec.compile(model_of(DECODER), tune="off", dims={"batch": 1, "tokens": 2, "past": 3}, verify=False)
    assert artifact.manifest.inputs[1].shape == (1, GROUPS, 3, DEPTH)


GIVEN = DECODER.replace("mask = Where(late, lowest, nothing)", "").replace(
    "int64[batch, tokens] ids", "int64[batch, tokens] ids, float[batch, 1, tokens, total] mask")


def runs_without_a_machine(session):
    """Whether one token is one function that only calls kernels."""
    plan = session._sized._plan
    return plan["token"] is not None and plan["rows"][0]["functions"][-1]["calls"] is not None


@pytest.mark.parametrize(("text", "options"), [
    (DECODER, {}), (GROUPED, {}), (DECODER, {"dims": {"batch": 1}, "threads": 2}),
    (DECODER, {"precision": "bf16"})], ids=["decoder", "grouped", "one text", "bf16"])
def test_one_token_runs_as_one_function(text, options):
    model = model_of(text)
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off", verify=False, **options))
    assert runs_without_a_machine(session)
    ids, keys, values = decoder_feeds(1, 3, 2).values()
    for tokens in (3, 1, 1, 2, 1):
        feeds = {"ids": ids[:, :tokens], "keys": keys, "values": values}
        if text == GROUPED:
            feeds["mask"] = np.ones((1, keys.shape[2] + tokens), np.int64)
        assert max(errors(session, model, feeds)) < (2e-2 if "precision" in options else 1e-5)
        _, keys, values = session.run(None, feeds)


def test_a_decoder_for_one_token_alone_has_its_norms_in_the_function():
    model = model_of(DECODER)
    artifact = sparsec.compile(model, tune="off", verify=False, dims={"batch": 1, "tokens": 1})
    session = sparsec.InferenceSession(artifact)
    assert runs_without_a_machine(session)
    assert "ReduceMean" not in {step["op"] for step in session._sized.steps}
    for past in (0, 1, 127):
        assert max(errors(session, model, decoder_feeds(1, 1, past))) < 1e-5


def test_outputs_of_a_token_that_follow_from_sizes_are_the_callers():
    model = model_of(DECODER.replace("float[b, g, n, d] all_values)", "float[b, g, n, d] all_values, int64 length)"))
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off", verify=False))
    assert runs_without_a_machine(session)
    feeds = decoder_feeds(1, 1, 3)
    for _ in range(3):
        logits, *_, length = session.run(None, feeds)
        assert length == 4
        assert relative_error(logits, run_onnxruntime(model, feeds)[0]) < 1e-5
        length += 100


def test_the_weights_of_a_decoder_go_with_its_session(decoder):
    session = sparsec.InferenceSession(decoder[1])
    cache = session.run(None, decoder_feeds(1, 3, 0))[1:]
    for _ in range(2):
        cache = session.run(None, {"ids": np.array([[1]]), "keys": cache[0], "values": cache[1]})[1:]
    sessions = [session]
    del session
    assert go_with(sessions)


def test_a_token_that_was_interrupted_may_be_asked_for_again(decoder, session, monkeypatch):
    cache = session.run(None, decoder_feeds(1, 3, 0))[1:]
    feeds = {"ids": np.array([[1]]), "keys": cache[0], "values": cache[1]}
    cache = session.run(None, feeds)[1:]
    feeds = {"ids": np.array([[2]]), "keys": cache[0], "values": cache[1]}
    with monkeypatch.context() as patch:
        patch.setattr(Buffer, "view", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            session.run(None, feeds)
    assert max(errors(session, decoder[0], feeds)) < 1e-5


def test_one_token_whose_mask_names_its_length_otherwise_is_one_function():
    model = model_of(GIVEN)
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off", verify=False))
    assert runs_without_a_machine(session)
    for past in (0, 1, 127):
        feeds = decoder_feeds(1, 1, past)
        for total in {past + 1, 1}:
            mask = RNG.standard_normal((1, 1, 1, total), np.float32)
            assert max(errors(session, model, {**feeds, "mask": mask})) < 1e-5
        with pytest.raises(InputError):
            session.run(None, {**feeds, "mask": np.zeros((1, 1, 1, past + 2), np.float32)})


def test_branches_are_chosen_by_the_session():
    model = merged_decoder()
    artifact = sparsec.compile(model, tune="off")
    session = sparsec.InferenceSession(artifact)
    assert artifact.report["outside"] == []
    assert session._sized._plan["token"]["when"]
    for cached, sizes in ((False, (1, 4, 2)), (True, (1, 1, 4)), (True, (2, 3, 5)), (False, (1, 1, 1))):
        feeds = {**decoder_feeds(*sizes), "use_cache_branch": np.array([cached])}
        assert max(errors(session, model, feeds)) < 1e-5
    first = session.run(None, {**decoder_feeds(1, 3, 0), "use_cache_branch": np.array([False])})
    feeds = {"ids": np.array([[1]]), "keys": first[1], "values": first[2], "use_cache_branch": np.array([True])}
    second = session.run(None, feeds)
    assert max(errors(session, model, feeds)) < 1e-5
    third = session.run(None, {**feeds, "keys": second[1], "values": second[2]})
    assert np.shares_memory(second[1], third[1])


@pytest.mark.parametrize("dims", [None, {"n": 1}, {"n": 2, "t": "1..40"}, {"t": "1..40"}, {"t": 7}, {"n": 1, "t": 7}],
                         ids=str)
def test_sizes_that_the_file_declares_of_its_example_are_not_believed(dims):
    model = model_of(f"""{HEADER} stale (float[n, t, 16] x) => (float[n, 11, 5] y) <float[n, 11, 16] r> {{
      s = Shape(x) d = Mul(s, step) r = Reshape(x, d) a = Relu(r) y = MatMul(a, weight)
    }}""")
    model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((16, 5)).astype(np.float32), "weight"))
    artifact = sparsec.compile(model, tune="off", dims=dims)
    session = sparsec.InferenceSession(artifact)
    given = {name: size for name, size in (dims or {}).items() if isinstance(size, int)}
    for free in ({"n": 1, "t": 1}, {"n": 2, "t": 7}, {"n": 1, "t": 11}, {"n": 1, "t": 30}):
        n, t = ({**free, **given}[name] for name in "nt")
        feeds = {"x": RNG.standard_normal((n, t, 16)).astype(np.float32)}
        (y,) = session.run(None, feeds)
        assert y.shape == (n, t, 5)
        assert errors(session, model, feeds)[0] < 1e-5
