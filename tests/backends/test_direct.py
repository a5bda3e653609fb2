"""Programs as one function without a virtual machine: what it computes, which programs have it, and what it refuses."""

import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

import sparsec
from sparsec.errors import ArtifactError, InputError
from tests.support.programs import parallel_artifact, signature_artifact
from tests.support.texts import model

MODELS = {
    "two outputs of one value": """<ir_version: 8, opset_import: ["": 17]>
        f (float[3, 8] x, float[8, 4] w) => (float[3, 4] y, bool[3, 4] p)
        { a = MatMul(x, w) y = Relu(a) z = Constant<value_float = 0.0>() p = Greater(a, z) }""",
    "views and a scalar": """<ir_version: 8, opset_import: ["": 17]>
        f (float[2, 6] x, float s) => (float[3, 4] y, float t)
        { shape = Constant<value_ints = [3, 4]>() a = Mul(x, s) b = Exp(a) y = Reshape(b, shape)
          t = ReduceSum<keepdims = 0>(b) }""",
    "constants of few elements": """<ir_version: 8, opset_import: ["": 17]>
        f (float[2, 6] x) => (float[2, 6] y, int64[2, 2] i)
        <float[6] a = {1, 2, 3, 4, 5, 6}, int64[2] j = {3, 1}, int64[1] k = {2}>
        { b = Mul(x, a) c = Add(b, a) y = Tanh(c) s, t = TopK<axis = 1>(x, k) i = Add(t, j) }""",
    "indices": """<ir_version: 8, opset_import: ["": 17]>
        f (float[5, 2] x, int64[3] i) => (float[3, 2] y) { a = Gather(x, i) y = Softmax(a) }""",
}
SHAPES = {"x": {"two outputs of one value": (3, 8), "views and a scalar": (2, 6), "constants of few elements": (2, 6),
                "indices": (5, 2)}, "w": (8, 4),
          "s": ()}


def feeds_of(session, name, seed=0):
    rng = np.random.default_rng(seed)
    return {each.name: rng.integers(0, 5, 3) if each.name == "i" else
            np.asarray(rng.standard_normal(SHAPES["x"][name] if each.name == "x" else SHAPES[each.name]), np.float32)
            for each in session.get_inputs()}


def directs(session):
    return [engine.direct for engine in session._engines.idle]


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_onnxruntime_does_and_leaves_earlier_results_alone(name):
    model = onnx.parser.parse_model(MODELS[name])
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert None not in directs(session)
    feeds = [feeds_of(session, name, seed) for seed in range(3)]
    found = [session.run(None, each) for each in feeds]
    for mine, each in zip(found, feeds, strict=True):
        for one, other in zip(mine, peer.run(None, each), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-5)
    last = session.get_outputs()[-1].name
    np.testing.assert_array_equal(session.run([last], feeds[0])[0], found[0][-1])


def test_an_index_outside_is_refused_and_the_session_goes_on():
    session = sparsec.InferenceSession(sparsec.compile(onnx.parser.parse_model(MODELS["indices"]), tune="off"))
    feeds = feeds_of(session, "indices")
    expected = session.run(None, feeds)[0]
    with pytest.raises(InputError):
        session.run(None, {**feeds, "i": np.array([0, 9, 0])})
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected)


def test_only_what_asserts_something_looks_at_its_arguments():
    steps = " ".join(f"x{n + 1} = MatMul(x{n}, w{n})" for n in range(10))
    weights = ", ".join(f"float[{n + 2},{n + 3}] w{n}" for n in range(10))
    proto = model(f"g (float[5,2] x0, int64[3] i) => (float[3,12] y) <{weights}> {{ {steps} y = Gather(x10, i) }}")
    artifact = sparsec.compile(proto, tune="off")
    session = sparsec.InferenceSession(artifact)
    with pytest.raises(InputError):
        session.run(None, {"x0": np.zeros((5, 2), np.float32), "i": np.array([0, 99, 0])})
    signatures = set(re.findall(rb"(\w+)\([^)]*: Tensor\(", artifact.library))
    assert {b"sparsec_bind"} < signatures
    assert len(signatures) < 5


def test_a_program_whose_outputs_are_inputs_or_constants_has_none():
    assert directs(sparsec.InferenceSession(signature_artifact())) == [None]


@pytest.mark.parametrize("change", ["workspace", "outputs", "inputs"])
def test_a_manifest_that_tells_other_memory_than_the_library_takes_is_refused(change):
    artifact = parallel_artifact(1)
    told = getattr(artifact.manifest, change)
    other = told + 1000 if change == "workspace" else tuple(replace(spec, shape=(63,)) for spec in told)
    manifest = replace(artifact.manifest, **{change: other})
    with pytest.raises(ArtifactError, match="not what its manifest says"):
        sparsec.InferenceSession(replace(artifact, manifest=manifest))
