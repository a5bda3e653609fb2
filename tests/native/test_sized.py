"""Bundles for run-time sizes give the Python session's answers, and caches grow in place."""

import re
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

import sparsec
from sparsec.errors import UsageError
from sparsec.graph.compare import relative_error
from sparsec.native.bundle import MODEL, SOURCES, write_bundle
from sparsec.native.model_file import model_bytes
from sparsec.native.sized import NATIVE
from sparsec.native.types import TYPES
from tests.support import images, recurrent, texts
from tests.support.bundles import link, run
from tests.support.decoders import DECODER, GROUPED, decoder_feeds, merged_decoder, model_of
from tests.support.random_sizes import WIDTH, network

HERE = Path(__file__).parent
NUMBERS = {number: name for name, number in TYPES.items()}
EVERY_OPERATOR = """<ir_version: 8, opset_import: ["": 18]> g (float[n, 6] x, int64[m] i, bool[n, 6] b) =>
    (float[a, c] y0, int64[d] y1, float[e, f, g] y2, bool[h, j] y3) <int64[1] axis = {1}, int64[1] zero = {0},
    int64 three = {3}, float half = {0.5}, int64[2] twice = {1, 2}, int64[1] last = {-1}, int64[1] two = {2},
    int64[1] end = {9223372036854775807}, int64[3] apart = {0, 2, 3}, float[6] scale = {1, 2, 3, 4, 5, 6},
    int64 axis0 = {1}> {
  s = Softmax<axis=0>(x) cs = CumSum<reverse=1>(s, axis0) u = Trilu<upper=0>(cs) mx = ReduceMax<keepdims=1>(x, zero)
  shape = Shape(x) wide = Expand(mx, shape) c = Where(b, u, wide) t = Tile(c, twice) tt = Transpose(t)
  ln = LayerNormalization<axis=-1>(c, scale) twof = Cast<to=1>(two) pw = Pow(ln, twof) cl = Clip(pw, half)
  mm = MatMul(tt, cl) sm = ReduceSum(mm) am = ArgMax<axis=1, keepdims=0>(x) lowest = Sub(zero, end)
  back = Slice(am, last, lowest, zero, last) i1 = Add(i, i) i2 = Mod(i1, three) i3 = Div(i1, three)
  i4 = Concat<axis=0>(i2, i3, back) y1 = Neg(i4) g0 = Gather<axis=1>(x, i2) g1 = ReduceMean<keepdims=1>(g0, axis)
  y0 = Mul(g1, sm) r = Reshape(x, apart) e0, e1 = Split<axis=1, num_outputs=2>(r) y2 = Max(e0, e1) n0 = Not(b)
  q = Less(x, half) y3 = Xor(n0, q)
}"""


@pytest.fixture(scope="module")
def drive(bundle, tmp_path_factory):
    """A function from an artifact and calls to what the C library gives: a list of arrays a call, or its error."""
    folder = tmp_path_factory.mktemp("drive")
    link("c++", "-std=c++17", HERE / "drive.cpp", bundle=bundle, output=folder / "drive")

    def call(artifact, calls):
        write_bundle(artifact, folder / "model")
        (folder / "calls").write_bytes(b"".join(map(encoded, calls)))
        done = run(folder / "drive", folder / "model" / MODEL, folder / "calls", folder / "answers", environment={})
        outputs = len(artifact.manifest.outputs)
        return done.stderr if done.returncode else list(decoded((folder / "answers").read_bytes(), outputs))

    return call


def encoded(inputs):
    parts = [struct.pack("<q", len(inputs))]
    for each in inputs:
        if isinstance(each, int):
            parts.append(struct.pack("<qq", -1, each))
        else:
            parts += struct.pack(f"<{2 + each.ndim}q", TYPES[each.dtype.name], each.ndim, *each.shape), each.tobytes()
    return b"".join(parts)


def decoded(data, outputs):
    at = 0
    while at < len(data):
        arrays = []
        for _ in range(outputs):
            kind, rank = struct.unpack_from("<qq", data, at)
            shape = struct.unpack_from(f"<{rank}q", data, at + 16)
            at += 16 + 8 * rank
            arrays.append(np.frombuffer(data, NUMBERS[kind], int(np.prod(shape)), at).reshape(shape))
            at += arrays[-1].nbytes
        yield arrays


def assert_equal(found, expected):
    assert not isinstance(found, str), found
    for pair in zip(found, expected, strict=True):
        assert [(each.dtype, each.shape) for each in pair[:1]] == [(pair[1].dtype, pair[1].shape)]
        assert relative_error(*pair) < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_random_networks_give_the_sessions_answers(drive, seed):
    artifact, rng = sparsec.compile(network(seed), tune="off", verify=False), np.random.default_rng(seed)
    calls = [{name: rng.standard_normal((batch, tokens, WIDTH), np.float32) for name in ("x", "z")}
             for batch, tokens in ((1, 1), (0, 3), (3, 7), (2, 65))]
    session = sparsec.InferenceSession(artifact)
    for found, feeds in zip(drive(artifact, [list(feeds.values()) for feeds in calls]), calls, strict=True):
        assert_equal(found, session.run(None, feeds))


def test_operators_between_stages_give_the_sessions_answers(drive):
    artifact = sparsec.compile(onnx.parser.parse_model(EVERY_OPERATOR), tune="off", verify=False)
    rng = np.random.default_rng(0)
    session = sparsec.InferenceSession(artifact)
    calls = [{"x": rng.standard_normal((n, 6), np.float32), "i": rng.integers(-3, 3, m), "b": rng.random((n, 6)) < 0.5}
             for n, m in ((1, 1), (5, 4))]
    for found, feeds in zip(drive(artifact, [list(feeds.values()) for feeds in calls]), calls, strict=True):
        assert_equal(found, session.run(None, feeds))


COLUMNS = {"RMSNormalization": """ g (float[n, 6] x) => (float[m, 6] y) <float[6] scale = {1, 2, 3, 4, 5, 6},
        float[1] one = {3}> {
    t = Transpose(x) r = RMSNormalization<axis = 0>(t, one) u = Transpose(r) y = Mul(u, scale) }""",
    **{f"Reduce{name}": f""" g (float[n, 6] x) => (float[a, b] y, float[c, d] z, float[n, 6] same) <
        int64[1] first = {{0}}, int64[2] both = {{0, 1}}> {{
    e = Exp(x) y = Reduce{name}<keepdims = 1>(e, first) r = Reduce{name}<keepdims = 0>(e, both) z = Mul(e, r)
    w = Reduce{name}<noop_with_empty_axes = 1>(e) same = Sub(w, y) }}"""
       for name in ("L1", "L2", "LogSum", "LogSumExp", "SumSquare")},
    "QuantizeLinear": """ g (float[n, 6] x) => (int8[6, m] y, float[6, p] z, uint8[6, q] d, float scale, uint8 zero) <
        float[6] s = {0.5, 0.25, 0.125, 0.01, 1, 2}, int8[6] o = {1, -2, 3, 0, 5, 6}> {
    t = Transpose(x) y = QuantizeLinear<axis = 0>(t, s, o) z = DequantizeLinear<axis = 0>(y, s, o)
    d, scale, zero = DynamicQuantizeLinear(z) }"""}


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_reductions_of_integers_are_exact_and_those_of_nothing_are_the_sessions(drive, dtype):
    kind = {np.int32: "int32", np.int64: "int64"}[dtype]
    names = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Min", "SumSquare")
    outputs = ", ".join(f"{kind}[k, one] y{name}" for name in names)
    nodes = " ".join(f"y{name} = Reduce{name}<keepdims = 1>(x, axis)" for name in names)
    text = f"g ({kind}[n, m] x) => ({outputs}) <int64[1] axis = {{1}}> {{ {nodes} }}"
    artifact = sparsec.compile(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 18]>' + text), tune="off",
                               verify=False)
    x = np.array([[40000, 2], [3, 7]], dtype)
    found, nothing = drive(artifact, [[x], [x[:, :0]]])
    expected = sparsec.InferenceSession(artifact).run(None, {"x": x})
    np.testing.assert_array_equal(expected[1], [[40000], [7]])
    assert_equal(found, expected)
    for each, name in zip(nothing, names, strict=True):
        limit = {"Max": np.iinfo(dtype).min, "Min": np.iinfo(dtype).max, "L1": 0, "L2": 0, "SumSquare": 0}
        assert name not in limit or (each == limit[name]).all()


@pytest.mark.parametrize("operator", COLUMNS)
def test_what_goes_across_rows_gives_the_sessions_answers(drive, operator):
    text = '<ir_version: 10, opset_import: ["": 23]>' + COLUMNS[operator]
    artifact, rng = sparsec.compile(onnx.parser.parse_model(text), tune="off", verify=False), np.random.default_rng(0)
    session = sparsec.InferenceSession(artifact)
    assert operator in {step["op"] for step in session._sized.steps}
    calls = [3 * rng.standard_normal((n, 6), np.float32) for n in (1, 5)]
    for found, x in zip(drive(artifact, [[x] for x in calls]), calls, strict=True):
        assert_equal(found, session.run(None, {"x": x}))


def test_a_scale_of_all_rows_gives_the_sessions_answers(drive):
    rng = np.random.default_rng(0)
    model = texts.model("""g (float[n, 16] x) => (float[n, 8] y) <int8[16, 8] w, float s> {
        c, d, z = DynamicQuantizeLinear(x) p = MatMulInteger(c, w, z) f = Cast<to = 1>(p) e = Mul(d, s) y = Mul(f, e) }
        """, w=rng.integers(-99, 99, (16, 8)).astype(np.int8), s=np.float32(0.01))
    artifact = sparsec.compile(model, tune="off", verify=False)
    session = sparsec.InferenceSession(artifact)
    assert any(each.get("whole") for step in session._sized.steps for each in step.get("given", ()))
    calls = [rng.standard_normal((n, 16), np.float32) for n in (1, 5, 70)]
    for found, x in zip(drive(artifact, [[x] for x in calls]), calls, strict=True):
        assert_equal(found, session.run(None, {"x": x}))


def test_the_library_has_the_operators_that_bundles_may_have():
    text = "".join(path.read_text() for path in (SOURCES / "src" / "sized").glob("*.cpp"))
    named = set(re.findall(r'\{"([A-Z]\w+)",', text))
    assert named == {name for name in NATIVE if ":" not in name}


@pytest.mark.parametrize("name", [*images.NETWORKS, "quantised"])
def test_images_of_any_size_give_the_sessions_answers(drive, name):
    quantised = images.quantised(), [(1, 3, 21, 34), (1, 3, 5, 4)]
    model, shapes = quantised if name == "quantised" else images.network(name)
    artifact, rng = sparsec.compile(model, tune="off", verify=False), np.random.default_rng(0)
    session = sparsec.InferenceSession(artifact)
    calls = [rng.standard_normal(shape, np.float32) for shape in shapes]
    for found, x in zip(drive(artifact, [[x] for x in calls]), calls, strict=True):
        assert_equal(found, session.run(None, {"x": x}))


@pytest.mark.parametrize("operator", [
    *(f'Resize<mode="{mode}", coordinate_transformation_mode="{way}", nearest_mode="{rounding}">(c, , scales)'
      for mode, way, rounding in (("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_ceil"),
                                  ("linear", "align_corners", "ceil"), ("linear", "pytorch_half_pixel", "floor"),
                                  ("cubic", "half_pixel", "floor"))),
    "DepthToSpace<blocksize=2>(c)", 'DepthToSpace<blocksize=2, mode="CRD">(c)',
    "MaxPool<kernel_shape=[3,2], strides=[2,2], ceil_mode=1>(c)",
    "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)",
    'AveragePool<kernel_shape=[2,2], auto_pad="SAME_LOWER">(c)',
])
def test_windows_of_every_kind_give_the_sessions_answers(drive, operator):
    model = texts.model(f"""g (float[n, 3, h, w] x) => (float[n, o, i, j] y)
        <float[8, 3, 1, 1] k, float[4] scales = {{1, 1, 2, 3}}> {{ c = Conv(x, k) y = {operator} }}""",
                        k=np.random.default_rng(1).standard_normal((8, 3, 1, 1), np.float32))
    artifact, rng = sparsec.compile(model, tune="off", verify=False), np.random.default_rng(0)
    session = sparsec.InferenceSession(artifact)
    assert any(step["op"] == "windows" for step in session._sized.steps)
    calls = [rng.standard_normal(shape, np.float32) for shape in ((1, 3, 9, 12), (2, 3, 4, 5))]
    for found, x in zip(drive(artifact, [[x] for x in calls]), calls, strict=True):
        assert_equal(found, session.run(None, {"x": x}))


@pytest.mark.parametrize(("given", "centred"), [("mtl", 0), ("mt", 1), ("ml", 1), ("", 0)])
def test_suppression_selects_the_sessions_boxes(drive, given, centred):
    listed = {"m": "int64[1] m", "t": "float[1] t", "l": "float[1] l"}
    taken = ", ".join(name if name in given else "" for name in listed).rstrip(", ")
    model = texts.model(f"""g (float[b, n, 4] x, float[b, c, n] s{"".join(f", {listed[name]}" for name in given)}) =>
        (int64[k, 3] y, float[k, 3] z) {{ w = NonMaxSuppression<center_point_box={centred}>(
        x, s{", " if taken else ""}{taken}) y = Neg(w) z = Cast<to=1>(w) }}""")
    artifact, rng = sparsec.compile(model, tune="off", verify=False), np.random.default_rng(len(given))
    session, calls = sparsec.InferenceSession(artifact), []
    for batch, count, classes, most in ((1, 90, 2, 7), (2, 33, 3, 1000), (3, 0, 1, 4), (1, 5, 2, 0)):
        limits = {"m": np.array([most]), "t": np.float32([0.4]), "l": np.float32([0.25])}
        boxes, scores = rng.integers(0, 9, (batch, count, 4)) / 8, rng.integers(0, 8, (batch, classes, count)) / 8
        calls.append({"x": boxes.astype(np.float32), "s": scores.astype(np.float32)}
                     | {name: limits[name] for name in given})
    for found, feeds in zip(drive(artifact, [list(feeds.values()) for feeds in calls]), calls, strict=True):
        expected = session.run(None, feeds)
        assert_equal(found, expected)
        np.testing.assert_array_equal(found[0], expected[0])


def test_a_detectors_boxes_are_the_sessions(drive):
    model = texts.model("""g (float[n, 3, h, w] x) => (float[k, 4] y) <float[5, 3, 1, 1] k, int64[3] grid = {0, -1, 4},
        int64[3] each = {0, 1, -1}, int64[2] cut = {4, 1}, int64 two = {2}, int64[1] m = {9}, float[1] t = {0.5},
        int64[1] first = {0}> { c = Conv(x, k) b0, s0 = Split<axis=1>(c, cut) b1 = Transpose<perm=[0, 2, 3, 1]>(b0)
        b = Reshape(b1, grid) s = Reshape(s0, each) i = NonMaxSuppression(b, s, m, t) j = Gather<axis=1>(i, two)
        r = Gather<axis=1>(b, j) y = Squeeze(r, first) }""",
                        k=np.random.default_rng(1).standard_normal((5, 3, 1, 1), np.float32))
    artifact, rng = sparsec.compile(model, tune="off", verify=False), np.random.default_rng(0)
    session = sparsec.InferenceSession(artifact)
    calls = [rng.standard_normal((1, 3, *shape), np.float32) for shape in ((4, 5), (9, 7))]
    for found, x in zip(drive(artifact, [[x] for x in calls]), calls, strict=True):
        assert_equal(found, session.run(None, {"x": x}))


def test_an_image_that_is_smaller_than_a_window_is_refused(drive):
    model = texts.model("g (float[n, 3, h, w] x) => (float[n, 2, i, j] y) <float[2, 3, 3, 3] k> { y = Conv(x, k) }",
                        k=np.ones((2, 3, 3, 3)))
    artifact = sparsec.compile(model, tune="off", verify=False)
    assert "fewer than a window of 3 takes" in drive(artifact, [[np.zeros((1, 3, 2, 5), np.float32)]])


def test_convolutions_by_computed_weights_are_refused():
    computed = texts.model("""g (float[n, 3, h, w] x, float[2, 3, 3, 3] k) => (float[n, 2, i, j] y) {
        z = Abs(k) y = Conv(x, z) }""")
    with pytest.raises(UsageError, match="'y' of the model is computed by numpy \\(Conv of images of any size"):
        model_bytes(sparsec.compile(computed, tune="off", verify=False))


@pytest.mark.parametrize("name", ["gru of papers", "gru that clips, of other activations", "lstm with everything"])
def test_recurrent_layers_of_any_length_give_the_sessions_answers(drive, name):
    model = recurrent.NETWORKS[name]
    artifact = sparsec.compile(model, tune="off", verify=False)
    session = sparsec.InferenceSession(artifact)
    calls = [recurrent.feeds_of(model, *sizes) for sizes in ((1, 1), (3, 21), (0, 2), (2, 0), (7, 4))]
    given = [[feeds[spec.name] for spec in session.get_inputs()] for feeds in calls]
    for found, feeds in zip(drive(artifact, given), calls, strict=True):
        assert_equal(found, session.run(None, feeds))


@pytest.fixture(scope="module")
def decoder():
    return sparsec.compile(model_of(DECODER), tune="off", threads=2, verify=False, dims={"tokens": "0..80"})


@pytest.mark.parametrize("text", [DECODER, GROUPED], ids=["grows", "appends"])
def test_decoders_hand_their_caches_back(drive, decoder, text):
    artifact = decoder if text is DECODER else sparsec.compile(model_of(text), tune="off", verify=False)
    session = sparsec.InferenceSession(artifact)
    first = decoder_feeds(2, 5, 0)
    steps = [{"ids": np.array([[token], [token + 1]])} for token in (1, 4, 2)]
    calls, cache, expected = [], {name: first[name] for name in ("keys", "values")}, []
    for position, feeds in enumerate([{"ids": first["ids"]}, *steps]):
        mask = {"mask": np.ones((2, 5 + position), np.int64)} if text is GROUPED else {}
        outputs = session.run(None, {**feeds, **mask, **cache})
        cache = {"keys": outputs[1], "values": outputs[2]}
        calls.append([feeds["ids"], *mask.values(), *((1, 2) if position else (first["keys"], first["values"]))])
        expected.append(outputs)
    for found, outputs in zip(drive(artifact, calls), expected, strict=True):
        assert_equal(found, outputs)


def test_branches_are_chosen_by_a_condition(drive):
    artifact = sparsec.compile(merged_decoder(), tune="off", verify=False)
    session = sparsec.InferenceSession(artifact)
    calls = [{**decoder_feeds(*sizes), "use_cache_branch": np.array([cached])}
             for cached, sizes in ((False, (1, 4, 2)), (True, (2, 3, 5)), (False, (1, 1, 1)))]
    given = [[feeds[spec.name] for spec in session.get_inputs()] for feeds in calls]
    for found, feeds in zip(drive(artifact, given), calls, strict=True):
        assert_equal(found, session.run(None, feeds))


def test_inputs_that_do_not_fit_are_refused_by_name(drive, decoder):
    ids, keys, values = decoder_feeds(1, 2, 3).values()
    for wrong, message in (([ids, keys, values[:, :, 1:]], "'past' is 3 in input 'keys' and 2 in input 'values'"),
                           ([ids.astype(np.float32), keys, values], "input 'ids' takes int64 of shape (batch, tokens)"),
                           ([np.zeros((1, 81), np.int64), keys, values], "compiled for 0 to 80"),
                           ([ids + 100, keys, values], "index")):
        assert message in drive(decoder, [[np.ascontiguousarray(each) for each in wrong]])
