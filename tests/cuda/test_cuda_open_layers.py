"""Recurrent layers, images, branches and dynamic quantisation of sizes that the run tells, on GPUs, in the emulator."""

from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest

from sparsec.backends.relax.importer import OPERATORS
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.errors import InputError, UnsupportedOperatorError
from sparsec.report.explain import explain
from tests.support import decoders
from tests.support.cuda import networks
from tests.support.cuda.emulator import emulate
from tests.support.cuda.open_layers import dynamic, image, recurrent
from tests.support.cuda.sized import Compiled

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")
FLOAT = onnx.TensorProto.FLOAT


def floats(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def compiled(model):
    return Compiled(model, "cuda-sm80"), onnxruntime.InferenceSession(model.SerializeToString())


def check(found, feeds, error=HALF_PRECISIONS["fp16"]):
    mine, session = found
    for _ in range(2):  # the second call replays what the first has recorded
        for own, reference in zip(mine(feeds), session.run(None, feeds), strict=True):
            assert (own.dtype, own.shape) == (reference.dtype, reference.shape)
            assert np.abs(own - reference).max(initial=0) <= error * np.abs(reference).max(initial=0)
    return mine


def operators(found):
    return {row["operator"] for row in found[0].artifact.report["outside"]}


@pytest.mark.parametrize(("kind", "hidden", "given", "attributes"), [
    ("RNN", 12, "h", {"activations": ["Relu"]}), ("GRU", 40, "lengths", {}),
    ("GRU", 12, "h", {"linear_before_reset": 1, "direction": "reverse"}),
    ("LSTM", 12, "h", {"direction": "bidirectional", "clip": 0.7}), ("LSTM", 20, "lengths peepholes", {})])
def test_recurrent_layers_take_any_steps_and_members(kind, hidden, given, attributes):
    found = compiled(recurrent(kind, hidden, given, **attributes))
    assert not operators(found)
    directions = 1 + (attributes.get("direction") == "bidirectional")
    for batch, steps in ((1, 1), (3, 6)):
        feeds = {"x": floats(batch, steps, 8)}
        feeds |= {"h": floats(directions, batch, hidden)} if "h" in given else {}
        feeds |= {"lengths": np.arange(batch, dtype=np.int32) % steps + 1} if "lengths" in given else {}
        check(found, feeds)


def test_images_take_any_height_and_width():
    found = compiled(image())
    assert not operators(found)
    for shape in ((1, 4, 16, 16), (2, 4, 21, 10)):
        check(found, {"x": floats(*shape)})


def test_images_that_do_not_fit_beside_each_other_are_refused():
    g = networks.Graph()
    x = g("Relu", g.conv("x", 8, 4, 3))
    small = g("Resize", g.conv(x, 8, 8, 3, stride=2), "", g.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    g("Relu", g.conv(g("Concat", small, x, axis=1), 4, 16, 1), name="y")
    model = g.model({"x": (FLOAT, ["batch", 4, "height", "width"])}, {"y": ["batch", 4, "tall", "wide"]})
    found = compiled(model)
    check(found, {"x": floats(2, 4, 6, 8)})
    with pytest.raises(InputError, match=r"shapes \(1, 8, 6, \d\), \(1, 7, 6, \d\), which differ beside axis"):
        found[0]({"x": floats(1, 4, 7, 6)})


def test_scales_of_dynamic_quantisation_are_kernels(tmp_path):
    found = compiled(dynamic(tmp_path))
    assert not operators(found)
    for batch, tokens in ((2, 7), (1, 1), (0, 3), (5, 40)):
        check(found, {"x": floats(batch, tokens, 32)}, error=0.02)  # codes of numbers half-way between two


def test_a_merged_decoder_keeps_its_caches_on_the_gpu():
    found = compiled(decoders.merged_decoder())
    empty = [np.zeros((1, decoders.GROUPS, 0, decoders.DEPTH), np.float32)] * 2
    for start in range(2):
        past, reference = [*empty], [*empty]
        for use, tokens in ((False, 5), (True, 1), (True, 1), (True, 1)):
            feeds = {"ids": np.arange(start, start + tokens)[None] % 9, "use_cache_branch": np.array([use])}
            mine = found[0]({**feeds, **dict(zip(("keys", "values"), past, strict=True))})
            theirs = found[1].run(None, {**feeds, **dict(zip(("keys", "values"), reference, strict=True))})
            for own, other in zip(mine, theirs, strict=True):
                assert np.abs(own - other).max() <= HALF_PRECISIONS["fp16"] * np.abs(other).max()
            past, reference = mine[1:], theirs[1:]
    assert len(found[0].runner.tapes) == 2  # whatever the past


def test_branches_follow_what_is_computed():
    g = networks.Graph()
    total = g("ReduceSum", "x", keepdims=0)
    ways = []
    for kind, operator in (("then_branch", "Relu"), ("else_branch", "Neg")):
        own, weight = networks.Graph(), g.constant(g.random(16, 8))
        y = own(operator, own("MatMul", "x", weight, name=f"{kind}.product"), name=f"{kind}.y")
        value = onnx.helper.make_tensor_value_info(y, FLOAT, ["batch", 8])
        ways.append((kind, onnx.helper.make_graph(own.nodes, kind, [], [value])))
    g.linear(g("If", g("Greater", total, g.constant(np.float32(0))), **dict(ways)), 4, 8, name="y")
    found = compiled(g.model({"x": (FLOAT, ["batch", 16])}, {"y": ["batch", 4]}))
    x = np.abs(floats(3, 16))
    for sign in (1, -1, 1):
        check(found, {"x": sign * x})


def test_what_a_target_lacks_is_computed_by_the_processor():
    g = networks.Graph()
    g.linear(g("Erf", g.linear("x", 16, 8)), 4, 16, name="y")
    model = g.model({"x": (FLOAT, ["batch", 8])}, {"y": ["batch", 4]})

    def refuse(*_):
        raise UnsupportedOperatorError("no function of errors")

    with mock.patch.dict(OPERATORS, Erf=refuse):
        found = compiled(model)
        (told,) = explain(model, "cuda-sm80").any_size.outside
        with pytest.raises(UnsupportedOperatorError, match="no function of errors"):
            Compiled(model, "cuda-sm80", strict=True)
    (row,) = found[0].artifact.report["outside"]
    assert row["operator"] == "Erf"
    assert row["reason"].endswith("no function of errors")
    assert (told.node, told.text) == (row["layer"], row["reason"])
    check(found, {"x": floats(3, 8)})


@pytest.mark.parametrize("depth", [12, 20])
def test_attention_of_other_heads_is_several_kernels(depth):
    g, width = networks.Graph(), 2 * depth
    q, k, v = (networks.split(g, g.linear("x", width, 16), 2) for _ in range(3))
    scores = g("Mul", g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2])), g.constant(np.float32(0.3)))
    joined = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    g.linear(g("Reshape", joined, g.constant(np.array([0, 0, width]))), 8, width, name="y")
    found = compiled(g.model({"x": (FLOAT, ["batch", "tokens", 16])}, {"y": ["batch", "tokens", 8]}))
    assert not operators(found)
    check(found, {"x": floats(2, 5, 16)})
