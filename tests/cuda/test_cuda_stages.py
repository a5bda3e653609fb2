"""What a GPU has no kernel for runs on the processor between compiled parts, whose kernels the emulator runs."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

import sparsec
from sparsec.artifact.file import Artifact
from sparsec.backends.cuda import build
from sparsec.backends.program import Program
from sparsec.cost.precisions import HALF_PRECISIONS
from sparsec.errors import UnsupportedOperatorError
from sparsec.report.explain import explain
from sparsec.runtime.stages import Stages
from tests.support.cuda import networks, walk
from tests.support.cuda.emulator import emulate
from tests.support.cuda.sized import emulated, opened

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="emulating kernels needs g++")


def spectrogram(graph):
    """The power of a short-time Fourier transform."""
    window = graph.constant(np.hanning(32).astype(np.float32))
    signal = graph("Reshape", graph.linear("x", 16, 16), graph.constant(np.array([1, -1, 1])))
    parts = graph("STFT", signal, graph.constant(np.array(16)), window, name="lost", onesided=0)
    power = graph("ReduceSum", graph("Mul", parts, parts), graph.constant(np.array([3])), keepdims=0)
    return graph("Reshape", power, graph.constant(np.array([1, -1, 16])))


def deformed(graph):
    """A convolution whose taps the image moves."""
    image = graph("Reshape", graph.linear("x", 32, 16), graph.constant(np.array([1, 8, 4, 24])))
    weights = [graph.constant(graph.random(channels, 8, 3, 3) / 8) for channels in (18, 16)]
    offsets = graph("Conv", image, weights[0], pads=[1] * 4)
    moved = graph("DeformConv", image, weights[1], offsets, kernel_shape=[3, 3], pads=[1] * 4, name="lost")
    return graph("Reshape", moved, graph.constant(np.array([1, -1, 16])))


def best(graph):
    """The boxes of the highest scores, which overlap little."""
    found = graph("Reshape", graph.linear("x", 16, 16), graph.constant(np.array([1, -1, 8])))
    boxes, scores = (graph("Slice", found, *(graph.constant(np.array([each])) for each in (begin, begin + 4, 2)))
                     for begin in (0, 4))
    limits = [graph.constant(np.array(each)) for each in ([5], np.float32([0.5]), np.float32([-9]))]
    chosen = graph("NonMaxSuppression", graph("Abs", boxes), graph("Transpose", scores, perm=[0, 2, 1]), *limits,
                   name="lost")
    places = graph("Gather", chosen, graph.constant(np.array(2)), axis=1)
    return graph("Concat", *[graph("Gather", found, places, axis=1)] * 2, axis=2)


def positive(graph):
    """Rows chosen by their first element."""
    x = graph.linear("x", 16, 16)
    first = graph("Gather", x, graph.constant(np.array(0)), axis=2)
    chosen = graph("Compress", graph("Squeeze", x, graph.constant(np.array([0]))), graph("Greater", graph(
        "Squeeze", first, graph.constant(np.array([0]))), graph.constant(np.float32(0.2))), axis=0, name="lost")
    return graph("Unsqueeze", chosen, graph.constant(np.array([0])))


def built(middle):
    """The operators between two linear layers."""
    graph = networks.Graph()
    graph.linear(middle(graph), 8, 16, name="y")
    return graph.model({"x": (TensorProto.FLOAT, [1, 24, 16])}, {"y": [1, None, 8]})


def run(artifact, lowered, feeds):
    """The outputs of an artifact whose parts have been lowered to these, in the emulator."""
    def open_part(data):
        part = Artifact.load(data)
        if part.library:
            call = partial(walk.run, lowered[int(part.library)])
        else:
            program = opened(part)
            call = partial(program.runner(), wanted=range(len(program.outputs)))
        return SimpleNamespace(run=lambda _, given: call(given), provide=lambda _: None)

    return Stages(artifact, open_part).run(feeds)


def noted(monkeypatch):
    """The parts of fixed sizes that are lowered from here on, whose programs say which of them they are."""
    lowered = []

    def note(part, **_):
        lowered.append(part)
        return Program(str(len(lowered) - 1).encode(), "main", part.constants, part.inputs, part.outputs,
                       needs=build.needs_of(("sm_80",)))

    monkeypatch.setattr(build, "build", note)
    return lowered


@pytest.mark.parametrize("middle", [spectrogram, deformed, best, positive])
def test_the_processor_takes_what_the_gpu_lacks(middle, monkeypatch):
    model, lowered = built(middle), noted(monkeypatch)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 24, 16)).astype(np.float32)}
    with emulated():
        artifact = sparsec.compile(model, "cuda-sm80", tune="off", verify=False)
        (y,) = run(artifact, lowered, feeds)
    assert "lost" in {row["layer"] for row in artifact.report["outside"]}
    assert artifact.report["layers"]
    assert {each.node for each in explain(model, "cuda-sm80").outside} == {
        row["layer"] for row in artifact.report["outside"]}
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= HALF_PRECISIONS["fp16"] * np.abs(expected).max()


def test_samples_do_not_calibrate_parts_and_compile_and_explain_say_so():
    model = built(positive)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 24, 16)).astype(np.float32)}
    with emulated():
        artifact = sparsec.compile(model, "cuda-sm80", tune="off", verify=False, precision="int8", inputs=feeds)
    reason = "parts between interpreted operators are not calibrated"
    assert artifact.report["layers"][0]["widened"] == reason
    told = explain(model, "cuda-sm80", precision="int8", inputs=feeds).layers
    assert {layer.refused["mma int8"] for layer in told} == {reason}


@pytest.mark.parametrize("middle", [deformed, best])
def test_strict_refuses_what_the_processor_would_take(middle):
    with pytest.raises(UnsupportedOperatorError, match="'lost': "):
        sparsec.compile(built(middle), "cuda-sm80", tune="off", verify=False, strict=True)


def sliced(graph, x):
    """Rows of which an input tells how many."""
    begin, axis = graph.constant(np.array([0])), graph.constant(np.array([0]))
    return graph("Slice", x, begin, "count", axis)


def test_strict_refuses_what_the_processor_takes_within_a_compiled_part():
    graph = networks.Graph()
    x = graph.linear(sliced(graph, "x"), 16, 16)
    sums = graph("CumSum", x, graph.constant(np.array(0)), name="sums")
    graph.linear(graph("Sub", x, sums), 8, 16, name="y")
    model = graph.model({"x": (TensorProto.FLOAT, [24, 16]), "count": (TensorProto.INT64, [1])}, {"y": [None, 8]})
    with emulated(), pytest.raises(UnsupportedOperatorError, match="'sums': "):
        sparsec.compile(model, "cuda-sm80", tune="off", verify=False, strict=True)


def test_images_of_computed_height_have_kernels(monkeypatch):
    graph = networks.Graph()
    begin, height = (graph.constant(np.array([each])) for each in (0, 2))
    graph("Relu", graph.conv(graph("Slice", "x", begin, "count", height), 8, 4, 3), name="y")
    model = graph.model({"x": (TensorProto.FLOAT, [1, 4, 8, 8]), "count": (TensorProto.INT64, [1])},
                        {"y": [1, 8, None, 8]})
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    feeds = {"x": x, "count": np.array([5])}
    lowered = noted(monkeypatch)
    with emulated():
        artifact = sparsec.compile(model, "cuda-sm80", tune="off", verify=False)
        (y,) = run(artifact, lowered, feeds)
    assert not artifact.report["outside"]
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= HALF_PRECISIONS["fp16"] * np.abs(expected).max()
