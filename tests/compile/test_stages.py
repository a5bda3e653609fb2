"""Models whose sizes depend on values run in stages, with onnxruntime's answers for whatever sizes come out."""

import threading
from collections import defaultdict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.artifact.file import Artifact
from sparsec.errors import InputError, UnsupportedOperatorError, UsageError
from sparsec.graph.compare import run_onnxruntime
from sparsec.native.model_file import model_bytes
from sparsec.report.explain import explain
from sparsec.runtime import engines
from sparsec.runtime.evaluator import Evaluator
from tests.support.texts import model

X = "g (float[6,8] x)"
X24 = "g (float[2,4] x) => (float[2,4] y)"
W = "float[8,5] w"
MODELS = {
    "non-zero": f"{X} => (int64[2,n] y) <{W}> {{ h = MatMul(x, w) r = Relu(h) y = NonZero(r) }}",
    "boolean indexing": f"{X} => (float[n] y, float[6,5] z) <{W}> {{ h = MatMul(x, w) r = Relu(h) i = NonZero(r)"
                        "t = Transpose(i) y = GatherND(h, t) z = Neg(h) }",
    "compress": f"{X} => (float[n,5] y) <{W}, float zero> {{ h = MatMul(x, w) m = ReduceMean<axes=[1], keepdims=0>(h)"
                "c = Greater(m, zero) y = Compress<axis=0>(h, c) }",
    "unique, as they come": "g (int64[9] x) => (int64[n] y) { y = Unique<sorted=0>(x) }",
    "unique": "g (int64[9] x) => (int64[n] y, int64[9] back) { y, i, back, c = Unique(x) }",
    "top of a computed number": f"{X} => (float[6,n] y) <{W}, float zero> {{ h = MatMul(x, w) g = Greater(h, zero)"
                                "c = Cast<to=7>(g) s = ReduceSum<keepdims=0>(c) d = Clip(s, low, high)"
                                "k = Unsqueeze(d, axis) y, i = TopK(h, k) }",
    "a range of a computed length": f"{X} => (float[n] y) <float low0, float step> {{ m = ReduceMax<keepdims=0>(x)"
                                    "e = Exp(m) y = Range(low0, e, step) }",
    "static again": f"{X} => (float[6,5] y) <{W}, float[5,5] v> {{ r = Relu(x) i = NonZero(r)"
                    "n = Shape(i) c = Cast<to=1>(n) s = ReduceSum<keepdims=0>(c) h = MatMul(x, w) z = Div(h, s)"
                    "p = MatMul(z, v) y = Tanh(p) }",
    "two stages of unknown sizes": f"{X} => (float[n] y) <{W}, float zero> {{ r = Relu(x) i = NonZero(r)"
                                   "f = Cast<to=1>(i) m = ReduceMean<keepdims=0>(f) h = MatMul(x, w) a = Add(h, m)"
                                   "b = Sub(a, four) e = Reshape(b, flat) c = Greater(e, zero) y = Compress(b, c) }",
}
VALUES = {"zero": 0, "low": 1, "high": 4, "axis": [0], "low0": 0, "step": 0.25, "four": 4, "flat": [-1]}


def text(name):
    graph = MODELS[name]
    extra = {"top of a computed number": "int64 low, int64 high, int64[1] axis", "two stages of unknown sizes":
             "float four, int64[1] flat"}.get(name)
    return model(graph.replace("<" + W, f"<{extra}, {W}", 1) if extra else graph, 13, **VALUES)


def agrees(proto, artifact, feeds):
    session = sparsec.InferenceSession(artifact)
    expected = run_onnxruntime(proto, feeds)
    for array, wanted in zip(session.run(None, feeds), expected, strict=True):
        assert (array.shape, array.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=1e-5)
    return [array.shape for array in expected]


@pytest.mark.parametrize("size", [{"dims": {"rows": 6}}, {"shapes": {"x": (6, 8)}}])
def test_sizes_that_are_given_bind_every_stage(size):
    proto = text("non-zero")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    agrees(proto, sparsec.compile(proto, tune="off", **size), {"x": np.ones((6, 8), np.float32)})


@pytest.mark.parametrize("name", MODELS)
def test_sizes_that_depend_on_values(name):
    proto = text(name)
    artifact = Artifact.load(sparsec.compile(proto, tune="off").to_bytes())
    kind = artifact.manifest.inputs[0]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(rng.uniform(-1, 1), 1, kind.shape).astype(kind.dtype)
        agrees(proto, artifact, {"x": x})


def test_a_size_that_nobody_knows_is_told_as_such():
    session = sparsec.InferenceSession(sparsec.compile(text("non-zero"), tune="off"))
    (info,) = session.get_outputs()
    assert info.shape == [2, "?"]


def constants(**values):
    """Initializers: of integers as int64, the others as float32."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return [numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name)
            for name, array in arrays.items()]


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def network(nodes, inits, x, outputs):
    graph = helper.make_graph(nodes, "g", [value("x", x)], outputs, inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def detector():
    """A head as YOLO has it: boxes and scores of two layers, suppressed and gathered."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["r"]),
             node("Conv", ["r", "wb"], ["b0"]), node("Reshape", ["b0", "boxes"], ["b1"]),
             node("Transpose", ["b1"], ["b"], perm=[0, 2, 1]), node("Conv", ["r", "ws"], ["s0"]),
             node("Reshape", ["s0", "classes"], ["s1"]), node("Sigmoid", ["s1"], ["s"]),
             node("NonMaxSuppression", ["b", "s", "most", "iou", "score"], ["kept"]),
             node("Gather", ["kept", "at"], ["i0"], axis=1), node("Squeeze", ["i0", "axis"], ["i"]),
             node("Squeeze", ["b", "zero"], ["flat"]), node("Gather", ["flat", "i"], ["found"])]
    inits = constants(w=rng.normal(size=(6, 3, 3, 3)), wb=rng.normal(size=(4, 6, 1, 1)), iou=0.5, score=0.4,
                      ws=rng.normal(size=(2, 6, 1, 1)), boxes=[1, 4, 36], classes=[1, 2, 36], most=[40], at=[2],
                      axis=[1], zero=[0])
    return network(nodes, inits, [1, 3, 6, 6], [value("found", ["n", 4]), value("kept", ["n", 3], TensorProto.INT64)])


def test_detection_with_suppression():
    proto = detector()
    artifact = sparsec.compile(proto, tune="off")
    assert {row["operator"] for row in artifact.report["layers"]} == {"Conv"}
    assert not artifact.report["outside"]
    with pytest.raises(UsageError, match=r"how large things are: 'kept' \(NonMaxSuppression\);.*`sparsec serve`"):
        model_bytes(artifact)
    images = [np.random.default_rng(seed).normal(size=(1, 3, 6, 6)).astype(np.float32) for seed in range(4)]
    shapes = {agrees(proto, artifact, {"x": image})[0] for image in images}
    assert len(shapes) > 1


def test_what_is_interpreted_is_listed():
    proto = model("g (int64[9] x) => (int64[n] y) { [once] y = Unique<sorted=0>(x) }")
    noted = sparsec.compile(proto, tune="off").report["outside"]
    assert [(row["layer"], row["operator"]) for row in noted] == [("once", "Unique")]
    assert [each.node for each in explain(proto).outside] == ["once"]


def branches(then, otherwise):
    """If with branches of these nodes on x, and a layer behind it."""
    def body(node):
        return helper.make_graph([node], "body", [], [value(node.output[0], None)])

    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
             helper.make_node("Greater", ["m", "zero"], ["c"]),
             helper.make_node("If", ["c"], ["h"], then_branch=body(then), else_branch=body(otherwise)),
             helper.make_node("MatMul", ["h", "w"], ["y"])]
    return network(nodes, constants(zero=0.0, w=np.ones((8, 5))), [6, 8], [value("y", ["n", 5])])


def loop():
    """As many trips as the input's largest value says; every one doubles a state."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["state", "w"], ["next"]), helper.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("state", [6, 8])],
        [value("d", [], TensorProto.BOOL), value("next", [6, 8])])
    nodes = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Abs", ["m"], ["a"]),
             helper.make_node("Cast", ["a"], ["n"], to=TensorProto.INT64),
             helper.make_node("Loop", ["n", "", "x"], ["s"], body=body), helper.make_node("Relu", ["s"], ["y"])]
    return network(nodes, constants(w=np.eye(8) * 2), [6, 8], [value("y", [6, 8])])


CONTROL = {
    "branches of different shapes": branches(helper.make_node("Relu", ["x"], ["t"]),
                                             helper.make_node("Concat", ["x", "x"], ["e"], axis=0)),
    "a computed number of trips": loop(),
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_flow_that_values_decide(name):
    proto = CONTROL[name]
    artifact = sparsec.compile(proto, tune="off")
    for mean in (-1, 1, 3):
        x = np.random.default_rng(0).normal(mean, 0.5, (6, 8)).astype(np.float32)
        agrees(proto, artifact, {"x": x})


SCAN = "Scan<body = b (float[4] s, float[4] e) => (float[4] t, float[4] o) { t = Add(s, e) o = Mul(t, e) }"
TRIPS = ("Loop<body = b (int64 i, bool go, float[2,4] s) => (bool more, float[2,4] t)"
         "{ more = Identity(go) t = Sub(s, x) }>")
SIZED = {
    "resize to the size of another": "g (float[1,3,h,w] x, float[1,3,a,b] z) => (float[1,3,a,b] y) { s = Shape(z)"
                                     'y = Resize<mode="linear">(x, , , s) }',
    "resize to a size of values":
        "g (float[1,3,4,5] x) => (float[a,b,c,d] y) <int64[3] k = {1, 3, 6}, int64 one = {1}, int64[1] axis = {0}>"
        "{ m = ReduceMax<keepdims=0>(x) c = Ceil(m) i = Cast<to=7>(c) j = Max(i, one) u = Unsqueeze(j, axis)"
        's = Concat<axis=0>(k, u) y = Resize<mode="linear">(x, , , s) }',
    "resize by any factor":
        "g (float[n,2,h,w] x) => (float[n,2,i,j] a, float[n,2,i,j] b, float[n,2,i,j] c) <float[4] s = {1,1,2.25,1.7}>"
        '{ a = Resize<mode="cubic", coordinate_transformation_mode="align_corners", cubic_coeff_a=-0.5>(x, , s)'
        'b = Resize<nearest_mode="ceil">(x, , s) c = Resize<mode="linear">(x, , s) }',
    "scan of any length": "g (float[4] s0, float[n,4] x) => (float[4] f, float[n,4] y)"
                          f"{{ f, y = {SCAN}, num_scan_inputs=1>(s0, x) }}",
    "scan backwards along the last axis":
        f"g (float[4] s0, float[4,n] x) => (float[4] f, float[4,n] y) {{ f, y = {SCAN}, num_scan_inputs=1, "
        "scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[1], scan_output_directions=[1]>(s0, x) }",
    "a long scan": "g (float[4] s0, float[1500,4] x) => (float[4] f, float[1500,4] y)"
                   f"{{ f, y = {SCAN}, num_scan_inputs=1>(s0, x) }}",
    "a long loop": f"{X24} <int64 n = {{1500}}, bool c = {{1}}> {{ y = {TRIPS}(n, c, x) }}",
    "a loop that never runs": f"{X24} <int64 n = {{0}}, bool c = {{1}}> {{ y = {TRIPS}(n, c, x) }}",
    "loops in a loop":
        f"{X24} <int64 n = {{50}}, bool c = {{1}}> {{ y = Loop<body = a (int64 j, bool on, float[2,4] r) => (bool on1, "
        f"float[2,4] r1) {{ on1 = Identity(on) r1 = {TRIPS}(n, c, r) }}>(n, c, x) }}",
    "as many trips as there are rows":
        "g (float[n,4] x) => (float[n,4] y) <int64 axis = {0}, bool c = {1}> { s = Shape(x) n0 = Gather(s, axis)"
        "y = Loop<body = b (int64 i, bool go, float[k,4] r) => (bool more, float[k,4] t)"
        "{ more = Identity(go) t = Add(r, x) }>(n0, c, x) }",
    "parts until a condition fails":
        "g (float[2,4] x) => (float[2,4] y, float[n,2,4] q) <bool c = {1}, float most = {3}> { y, q = Loop<body = b"
        "(int64 i, bool go, float[2,4] s) => (bool more, float[2,4] t, float[2,4] u) { a = Abs(s) t = Add(s, s)"
        "u = Identity(t) m = ReduceMax<keepdims=0>(a) more = Less(m, most) }>(, c, x) }",
    "branches of several ranks":
        "g (float[2,4] x, bool c) => (float y) <int64[1] axis = {0}> { h = If<then_branch = t () => (float[2,4] a)"
        "{ a = Relu(x) }, else_branch = e () => (float[1,2,4] b) { b = Unsqueeze(x, axis) }>(c)"
        "y = ReduceSum<keepdims=0>(h) }",
    "elements put along the last axis":
        "g (float[n,6] x) => (float[n,6] y) <int64[1] k = {3}> { v, i = TopK(x, k) u = Neg(v)"
        "y = ScatterElements<axis=-1>(x, i, u) }",
    "elements added along the first axis":
        "g (float[n,6] x) => (float[m,6] y) <int64[1] k = {1}> { v, i = TopK<axis=0>(x, k)"
        'y = ScatterElements<axis=0, reduction="add">(x, i, v) }',
    "slices put where values say":
        "g (float[n,4] x) => (float[n,4] y, float[m] z) <float zero = {0}, float[1] one = {1}> { c = Greater(x, zero)"
        "i = NonZero(c) t = Transpose(i) g = GatherND(x, t) u = Neg(g) y = ScatterND(x, t, u)"
        "r = ReduceMax<axes=[1], keepdims=0>(x) b = Less(r, one) z = Compress(r, b) }",
    "branches of any sizes":
        "g (float[n,4] x, bool c) => (float[m,4] y) { y = If<then_branch = t () => (float[a,4] a0) { a0 = Relu(x) },"
        "else_branch = e () => (float[b,4] b0) { b0 = Concat<axis=0>(x, x) }>(c) }",
}


RESIZED_AND_CONVOLVED = SIZED["resize to a size of values"].replace(
    "y = Resize", "r = Resize").replace("<int64[3] k", "<float[2,3,1,1] w, int64[3] k").replace(
    "s) }", "s) y = Conv(r, w) }")


def fed(proto, seed):
    """Random inputs, whose unknown sizes are random, too."""
    rng = np.random.default_rng(seed)
    sizes = defaultdict(lambda: int(rng.integers(1, 7)))
    shapes = {value.name: [sizes[dim.dim_param] if dim.dim_param else dim.dim_value
                           for dim in value.type.tensor_type.shape.dim] for value in proto.graph.input}
    return {name: np.array(seed % 2 == 0) if name == "c" else rng.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()}


@pytest.mark.parametrize("name", SIZED)
def test_control_flow_and_images_of_sizes_that_only_the_run_tells(name):
    proto = model(SIZED[name])
    artifact = sparsec.compile(proto, tune="off")
    for seed in range(3):
        agrees(proto, artifact, fed(proto, seed))


@pytest.mark.parametrize("norm", ["InstanceNormalization", "GroupNormalization<num_groups=2>"])
def test_norms_of_images_of_any_size(norm):
    proto = model(f"g (float[n,4,h,w] x) => (float[n,4,h,w] y) <float[4] s, float[4] t> {{ y = {norm}(x, s, t) }}", 21)
    artifact = sparsec.compile(proto, tune="off")
    for seed in range(3):
        agrees(proto, artifact, fed(proto, seed))


def test_loops_without_end_are_refused():
    endless = model(SIZED["a long loop"].replace("1500", str(1 << 62)))
    with pytest.raises(UnsupportedOperatorError, match=r"'y' \(Loop\) run over 500000 nodes"):
        sparsec.compile(endless, tune="off")


def test_sizes_that_do_not_fit_at_run_time_are_wrong_inputs():
    session = sparsec.InferenceSession(sparsec.compile(model(
        "g (float[2,6] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }"), tune="off"))
    assert session.run(None, {"x": np.ones((2, 6), np.float32), "s": np.array([3, 4])})[0].shape == (3, 4)
    with pytest.raises(InputError, match="'y' cannot be computed for these inputs"):
        session.run(None, {"x": np.ones((2, 6), np.float32), "s": np.array([5, 4])})


def test_interpreted_layers_are_reported_and_refused_when_strict():
    proto = model(RESIZED_AND_CONVOLVED, 18)
    row, *_ = sparsec.compile(proto, tune="off").report["outside"]
    assert "run time" in row["reason"]
    with pytest.raises(UnsupportedOperatorError, match="known at run time only"):
        sparsec.compile(proto, tune="off", strict=True)


EXPERTS = (
    "g (float[9,6] x, bool[9] c) => (float[9,6] y) <float[6,8] w, float[6,8] v, float[8,6] u, int64[1] axis, "
    "float[9,6] zeros> { n = NonZero(c) i = Squeeze(n, axis) g = Gather(x, i) a = MatMul(g, w) s = Sigmoid(a)"
    "h = Mul(a, s) b = MatMul(g, v) p = Mul(h, b) o = MatMul(p, u) q = Shape(o) j = Unsqueeze(i, last)"
    'k = Expand(j, q) y = ScatterElements<axis=0, reduction="add">(zeros, k, o) }')


def test_rows_that_values_choose_have_kernels():
    proto = model(EXPERTS.replace("int64[1] axis", "int64[1] axis, int64[1] last"), 18, axis=[0], last=[1],
                  zeros=np.zeros((9, 6)))
    artifact = Artifact.load(sparsec.compile(proto, tune="off", strict=True).to_bytes())
    assert {row["operator"] for row in artifact.report["layers"]} == {"MatMul"}
    for chosen in ([], [3], range(9), [0, 8, 4]):
        c = np.isin(np.arange(9), list(chosen))
        agrees(proto, artifact, {"x": np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32), "c": c})


def test_accelerators_need_static_sizes():
    with pytest.raises(UnsupportedOperatorError, match="compile for a cpu"):
        sparsec.compile(text("non-zero"), "eie", tune="off")


def test_rows_that_values_choose_behind_a_batch_of_one_have_kernels():
    proto = model("g (float[50,16] x, bool[50] c) => (float[1,n,8] y) <int64[1] axis, float[16,32] w, float[32,8] v> {"
                  "a = Compress<axis=0>(x, c) b = Unsqueeze(a, axis) h = MatMul(b, w) r = Relu(h) y = MatMul(r, v) }",
                  18, axis=[0])
    artifact = sparsec.compile(proto, tune="off", strict=True)
    assert {row["operator"] for row in artifact.report["layers"]} == {"MatMul"}
    for chosen in ([], [3], range(50)):
        x = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
        agrees(proto, artifact, {"x": x, "c": np.isin(np.arange(50), list(chosen))})


def test_stages_are_valid_models():
    artifact = sparsec.compile(text("boolean indexing"), tune="off")
    interpreted = [part.tobytes() for part in artifact.constants()[1:] if not part.tobytes().startswith(b"PK")]
    for part in interpreted:
        onnx.checker.check_model(onnx.ModelProto.FromString(part))


def test_strict_refuses_a_layer_that_is_interpreted():
    proto = model("g (float[2,8,4] x) => (float[2,1,8,6] y) <float[1,24,4] w, float[1,24,6] r, float[1,48] b> {"
                  'y = LSTM<hidden_size=6, activations=["Sigmoid", "Tanh", "ScaledTanh"]>(x, w, r, b) }', 18)
    with pytest.raises(UnsupportedOperatorError):
        sparsec.compile(proto, tune="off", strict=True)


def test_a_fork_waits_for_stages_of_calls_in_flight(monkeypatch):
    proto = text("static again")
    session = sparsec.InferenceSession(sparsec.compile(proto, tune="off", verify=False))
    x, begun, go_on, answers = np.ones((6, 8), np.float32), threading.Semaphore(0), threading.Event(), []
    evaluate = Evaluator.run

    def slowly(evaluator, feeds):
        begun.release()
        assert go_on.wait(60)
        return evaluate(evaluator, feeds)

    monkeypatch.setattr(Evaluator, "run", slowly)
    callers = [threading.Thread(target=lambda: answers.append(session.run(None, {"x": x})[0])) for _ in range(3)]
    for each in callers:
        each.start()
    for _ in callers:
        assert begun.acquire(timeout=60)
    threading.Timer(0.2, go_on.set).start()
    engines._before_fork()
    engines._after_fork()
    for each in callers:
        each.join(60)
    assert len(answers) == len(callers)
    assert all(np.array_equal(answers[0], each) for each in answers)
