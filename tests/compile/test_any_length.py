"""Recurrent layers of any number of steps and members: one artifact is right at every size, with kernels for all."""

import functools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.errors import UsageError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.native.model_file import model_bytes
from tests.support import texts

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, HIDDEN, OUT = 12, 10, 6  # states of 40 bytes, of which none but the first is aligned to a vector
SIZES = [(1, 1), (5, 1), (4, 3), (3, 21), (0, 2), (2, 0), (7, 4)]


def network(kind, direction="forward", *, lengths=False, states=False, peepholes=False, seed=0, **attributes):
    """A layer of symbolic steps and batch behind and in front of linear ones; outputs all states, and the last ones."""
    rng, both = np.random.default_rng(seed), 2 if direction == "bidirectional" else 1
    width = GATES[kind] * HIDDEN
    shapes = {"in": (INPUTS, INPUTS), "w": (both, width, INPUTS), "r": (both, width, HIDDEN), "b": (both, 2 * width),
              "p": (both, 3 * HIDDEN), "out": (HIDDEN, OUT)}
    tables = [numpy_helper.from_array((rng.standard_normal(shape) * (rng.random(shape) < 0.4)).astype(np.float32), name)
              for name, shape in shapes.items() if name != "p" or peepholes]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["steps", "batch", INPUTS])]
    names = ["s", "w", "r", "b", "", "", ""][:5 + (2 if kind == "LSTM" else 1)]
    if lengths:
        names[4] = "lengths"
        given.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    if states:
        for place, name in list(enumerate(("h", "c"), 5))[:len(names) - 5]:
            names[place] = name
            given.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [both, "batch", HIDDEN]))
    results = ["y", "last", "cell"][:3 if kind == "LSTM" else 2]
    nodes = [helper.make_node("MatMul", ["x", "in"], ["s"]),
             helper.make_node(kind, [*names, "p"] if peepholes else names, results, name="layer", hidden_size=HIDDEN,
                              direction=direction, **attributes),
             helper.make_node("MatMul", ["y", "out"], ["z"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("z", *results[1:])]
    graph = helper.make_graph(nodes, kind, given, outputs, tables)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def feeds_of(model, steps, batch, seed=0):
    rng = np.random.default_rng(seed)
    both = {value.name: value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input}
    made = {"x": (steps, batch, INPUTS), "h": (both.get("h"), batch, HIDDEN), "c": (both.get("c"), batch, HIDDEN)}
    feeds = {name: rng.standard_normal(made[name], np.float32) for name in both if name in made}
    if "lengths" in both:
        feeds["lengths"] = rng.integers(min(1, steps), steps + 1, batch).astype(np.int32)
    return feeds


def check(model, session, steps, batch, seed):
    feeds = feeds_of(model, steps, batch, seed)
    for own, expected in zip(session.run(None, feeds), run_onnxruntime(model, feeds), strict=True):
        assert own.shape == expected.shape
        assert relative_error(own, expected) < 1e-5, (steps, batch)


NETWORKS = {
    "gru": network("GRU", linear_before_reset=1),
    "gru of papers": network("GRU", "reverse", states=True),
    "rnn": network("RNN", "bidirectional", activations=["Relu", "Tanh"]),
    "lstm with everything": network("LSTM", "bidirectional", lengths=True, states=True, peepholes=True),
}


@functools.cache
def compiled(name):
    return sparsec.compile(NETWORKS[name], tune="off", verify=False, threads=1 + len(name) % 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_is_right_at_every_size(name):
    model, artifact = NETWORKS[name], compiled(name)
    assert artifact.report["outside"] == []
    assert {row["rows"] for row in artifact.report["layers"] if ".steps" in row["layer"]} == {1, 4, 16, 64}
    session = sparsec.InferenceSession(artifact)
    for seed, sizes in enumerate([*SIZES, *reversed(SIZES)]):
        if sizes[0] and sizes[1]:
            check(model, session, *sizes, seed)
        else:  # which onnxruntime refuses
            shapes = [array.shape for array in session.run(None, feeds_of(model, *sizes))]
            assert shapes[0][0] == sizes[0]
            assert all(shape[1] == sizes[1] for shape in shapes[1:])


def test_results_by_steps_are_the_same():
    model = NETWORKS["lstm with everything"]
    session = sparsec.InferenceSession(compiled("lstm with everything"))
    feeds, runner = feeds_of(model, 6, 5), session._sized.runner()
    by_steps = runner(feeds, range(3), [])
    assert all(np.array_equal(*pair) for pair in zip(by_steps, session.run(None, feeds), strict=True))


def test_what_kernels_cannot_do_is_named_and_bundles_refuse_what_they_lack():
    clipped = sparsec.compile(network("LSTM", clip=1.0), tune="off", verify=False)
    assert [row["operator"] for row in clipped.report["outside"]] == ["LSTM"]
    with pytest.raises(UsageError, match="recurrent layer of any length"):
        model_bytes(compiled("gru"))


FRONT_ENDS = {"of the same length": ("pads = [2, 2]", ["Conv"]), "shorter": ("dilations = [2]", ["Conv"]),
              "of half the length": ("strides = [2], pads = [2, 2]", ["Conv", "GRU"])}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_layer_behind_a_convolution_has_kernels_where_its_length_is_known(name):
    attributes, outside = FRONT_ENDS[name]
    rng = np.random.default_rng(0)
    proto = texts.model(f"""g (float[batch,6,length] x) => (float[s,1,b,10] y)
        <float[12,6,5] k, float[1,30,12] w, float[1,30,10] r> {{
            c = Conv<{attributes}>(x, k) t = Transpose<perm = [2, 0, 1]>(c) y = GRU<hidden_size = 10>(t, w, r) }}""",
                        k=rng.standard_normal((12, 6, 5)), w=rng.standard_normal((1, 30, 12)),
                        r=rng.standard_normal((1, 30, 10)))
    artifact = sparsec.compile(proto, tune="off")
    assert [row["operator"] for row in artifact.report["outside"]] == outside
    session = sparsec.InferenceSession(artifact)
    for batch, length in ((1, 9), (3, 20), (1, 9)):
        x = rng.standard_normal((batch, 6, length), np.float32)
        (own,), (expected,) = session.run(None, {"x": x}), run_onnxruntime(proto, {"x": x})
        assert relative_error(own, expected) < 1e-5
