"""Wrong arguments, hostile expansions and valid oddities: one line of a SparsecError, or the right answer."""

import json

import numpy as np
import pytest

import sparsec
from sparsec import Artifact, InferenceSession
from sparsec.errors import SparsecError
from sparsec.graph import reader
from sparsec.passes import optimize
from sparsec.report.describe import describe_artifact
from tests.hostile.corpus.artifacts import with_report
from tests.hostile.corpus.models import EXPANDING, expanding
from tests.hostile.growth import wide
from tests.support.texts import model

X = np.arange(8, dtype=np.float32).reshape(2, 4)
RELU = model("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")


@pytest.fixture(scope="module")
def session():
    with InferenceSession(sparsec.compile(RELU, tune="off")) as opened:
        yield opened


@pytest.mark.parametrize(("changes", "message"), [
    ({"model": None}, "model is of type NoneType"), ({"model": 7}, "model is of type int"),
    ({"target": 7}, "target is of type int"), ({"threads": "2"}, "threads is of type str"),
    ({"threads": True}, "threads is of type bool"), ({"threads": 10**6}, "from 1 to 1024"),
    ({"shapes": [1]}, "shapes is of type list"), ({"inputs": [X]}, "inputs is of type list"),
    ({"precision": 8}, "precision is of type int"), ({"tune": None}, "tune is of type NoneType"),
    ({"tune_seconds": "1"}, "tune_seconds is of type str"), ({"max_error": "1"}, "max_error is of type str"),
    ({"dump_ir": 7}, "dump_ir is of type int"), ({"strict": "no"}, "strict is of type str"),
    ({"shapes": {"x": (np.nan, 4)}}, r"shapes has \(nan, 4\) for input 'x'"), ({"shapes": {"x": 7}}, "shapes has 7"),
    ({"shapes": {"x": "24"}}, "shapes has '24'"), ({"dims": {"n": None}}, "dims has None for 'n'"),
    ({"model": "a\0b"}, "its name holds a zero byte"),
])
def test_arguments_of_wrong_types_are_named(changes, message):
    with pytest.raises(SparsecError, match=message) as raised:
        sparsec.compile(**{"model": RELU, **changes})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("names", "feeds", "message"), [
    (None, None, "feeds is None"), (None, [X], "feeds is list"), (None, 7, "feeds is int"), (None, "x", "feeds is str"),
    (None, {"x": [[1], [1, 2]]}, "input 'x' is (no|not an) array"), (None, {None: X}, "given: 'None'"),
    ("y", {"x": X}, "output_names is str"), (7, {"x": X}, "output_names is int"), ([7], {"x": X}, "no output 7"),
])
def test_wrong_feeds_are_named(names, feeds, message, session):
    with pytest.raises(SparsecError, match=message):
        session.run(names, feeds)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], X)


def test_sizes_and_threads_may_be_numpys_numbers():
    artifact = sparsec.compile(RELU, tune="off", shapes={"x": tuple(np.array([2, 4]))})
    with InferenceSession(artifact, threads=np.int64(1)) as opened:
        np.testing.assert_array_equal(opened.run(None, {"x": X})[0], X)


@pytest.mark.parametrize(("call", "message"), [
    (lambda artifact: artifact.save(None), "path is of type NoneType"),
    (lambda artifact: artifact.save("a\0b"), "cannot write .*its name holds a zero byte"),
    (lambda _: InferenceSession("a\0b"), "cannot read .*its name holds a zero byte"),
    (lambda artifact: InferenceSession(artifact, threads=np.nan), "threads or sess_options is float"),
    (lambda artifact: InferenceSession(artifact).run(None, {"x": X}, out={"y": np.zeros((2, 4), ">f4")}),
     "float32 of foreign byte order")])
def test_wrong_arguments_of_artifacts_and_sessions_are_named(call, message):
    with pytest.raises(SparsecError, match=message):
        call(sparsec.compile(RELU, tune="off"))


@pytest.mark.parametrize("call", [InferenceSession, Artifact.load])
def test_artifacts_of_wrong_types_are_named(call):
    for value in (None, 7, [b""]):
        with pytest.raises(SparsecError, match="artifact is of type"):
            call(value)


@pytest.mark.parametrize("report", [{}, {"layers": None}, {"layers": [None]}, {"layers": [{"layer": 1}]}, {
    "layers": [], "verification": {"relative_error": 7}}, {"layers": [], "batch": []}])
def test_reports_that_are_none_are_not_printed(report):
    with pytest.raises(SparsecError, match="report contradicts itself"):
        describe_artifact(Artifact.load(with_report(json.dumps(report).encode())), 1)


def test_a_report_cannot_stand_for_the_manifest():
    artifact = Artifact.load(with_report(b'{"layers": [], "target": "signed", "platform": "by everybody"}'))
    assert describe_artifact(artifact, 1)["target"] == artifact.manifest.target


def test_strings_are_refused_by_name():
    with pytest.raises(SparsecError, match="'x'"):
        sparsec.compile(model("g (string[2] x) => (string[2] y) { y = Identity(x) }"), tune="off")


def test_a_part_of_no_size_is_empty():
    split = model("g (float[2,4] x) => (float[2,0] a, float[2,4] b) <int64[2] s = {0, 4}>"
                  "{ a, b = Split<axis=1>(x, s) }")
    a, b = InferenceSession(sparsec.compile(split, tune="off")).run(None, {"x": X})
    assert a.shape == (2, 0)
    np.testing.assert_array_equal(b, X)


def test_axes_of_no_elements_are_known_where_the_file_declares_another_rank():
    summed = model("g (float[2,4] x, int64[0] axes) => (float[1,1] y) { y = ReduceSum<keepdims=0>(x, axes) }")
    artifact = sparsec.compile(summed, tune="off")
    assert artifact.report["verification"]["reference"] == "onnxruntime"
    assert InferenceSession(artifact).run(None, {"x": X, "axes": np.zeros(0, np.int64)})[0].shape == ()


@pytest.mark.parametrize("kind", EXPANDING)
def test_constants_that_grow_are_left_to_run_time(kind):
    graph = reader.load(expanding(kind))
    optimize.run(graph, None)
    assert all(value.const_value.nbytes < 1 << 20 for value in graph.graph.initializers.values())


@pytest.mark.parametrize("kind", ["Mean", "Concat"])
def test_wide_operators_become_trees(kind):
    artifact = sparsec.compile(wide(kind, 80, "n"), tune="off")
    assert artifact.report["verification"]["reference"] == "onnxruntime"
