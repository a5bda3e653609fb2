"""Recurrent layers as products over all steps and steps around a sparse kernel equal onnxruntime's."""

import numpy as np
import pytest

from sparsec import InferenceSession
from sparsec import compile as compiled
from sparsec.graph import verify
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.passes import recurrent
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model, random

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
T, I, H = 4, 6, 20
LAYERS = [
    # cell, batch, directions, optional inputs, attributes
    ("LSTM", 1, 1, "", ""),
    ("LSTM", 3, 2, "lengths state peepholes", ""),
    ("LSTM", 2, 1, "state", 'direction="reverse"'),
    ("LSTM", 1, 1, "", 'activations=["Sigmoid", "Relu", "Tanh"]'),
    ("GRU", 1, 2, "bias", "linear_before_reset=1"),
    ("GRU", 9, 1, "bias lengths state", "linear_before_reset=1"),
    ("GRU", 1, 2, "bias", "linear_before_reset=0"),
    ("GRU", 6, 1, "bias lengths state", ""),
    ("RNN", 13, 2, "state bias", 'activations=["Relu", "Tanh"]'),
    ("RNN", 2, 1, "lengths", ""),
]


def layer(cell, batch, directions, given, attributes):
    """A layer of 90 % zeros and its inputs."""
    gates, rng = GATES[cell] * H, np.random.default_rng(0)
    weights = {name: random((directions, gates, width), name) * (rng.random((directions, gates, width)) > 0.9)
               for name, width in (("w", I), ("r", H))}
    cells = cell == "LSTM"
    names = ["x", "w", "r", "b" if "bias" in given else "", "lengths" if "lengths" in given else "",
             "h" if "state" in given else "", *(["c" if "state" in given else ""] if cells else []),
             *(["p"] if "peepholes" in given else [])]
    state = f"float[{directions},{batch},{H}]"
    inputs = [f"float[{T},{batch},{I}] x"]
    inputs += [f"int32[{batch}] lengths"] * ("lengths" in given) + [f"{state} h"] * ("state" in given)
    inputs += [f"{state} c"] * ("c" in names)
    outputs = ["y", "yh", *(["yc"] if cells else [])]
    direction = f', direction="{"bidirectional" if directions == 2 else "forward"}"' * ("direction" not in attributes)
    proto = model(
        f"g ({', '.join(inputs)}) => (float[{T},{directions},{batch},{H}] y, "
        f"{', '.join(f'{state} {name}' for name in outputs[1:])}) <float[{directions},{gates},{I}] w, "
        f"float[{directions},{gates},{H}] r, float[{directions},{2 * gates}] b, float[{directions},{3 * H}] p>"
        f"{{ {', '.join(outputs)} = {cell}<hidden_size={H}{direction}{', ' * bool(attributes)}{attributes}>"
        f"({', '.join(names).rstrip(', ')}) }}", **weights)
    feeds = {"x": random((T, batch, I), "x"), "lengths": np.int32([max(1, T - i % T) for i in range(batch)]),
             **{name: random((directions, batch, H), name) for name in ("h", "c")}}
    return proto, {value.name: feeds[value.name] for value in proto.graph.input}


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: " ".join(map(str, case)))
def test_a_layer_becomes_products_and_keeps_its_answers(case):
    proto, feeds = layer(*case)
    graph = load(proto)
    report = recurrent.run(graph, Context(resolve("cpu-generic")))
    assert report.counts == {case[0]: 1}, report.notes
    verify.infer(graph, "the graph")
    verify.check(graph, "the graph")
    expected = run_onnxruntime(proto, feeds)
    for found, wanted in zip(evaluate(graph, feeds), expected, strict=True):
        assert relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize("case", LAYERS[1::2], ids=lambda case: " ".join(map(str, case)))
def test_a_compiled_layer_equals_onnxruntime(case):
    proto, feeds = layer(*case)
    artifact = compiled(proto, tune="off", inputs=feeds, strict=True)
    for found, wanted in zip(InferenceSession(artifact).run(None, feeds), run_onnxruntime(proto, feeds), strict=True):
        assert relative_error(found, wanted) < 1e-5
    assert [each["operator"] for each in artifact.report["layers"]] == ["MatMul", "Recurrence"] * case[2]


@pytest.mark.parametrize(("change", "reason"), [("clip=1.0, linear_before_reset=1", "clips its gates")])
def test_a_layer_without_kernels_is_left_and_says_why(change, reason):
    proto, _ = layer("GRU", 1, 1, "", change)
    (note,) = recurrent.run(load(proto), Context(resolve("cpu-generic"))).notes
    assert reason in note.text
