"""Recurrent layers: the recorded products are the gates' own, and ESE and EIE run them."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from sparsec.backends.accelerators.designs import ACCELERATORS
from sparsec.backends.accelerators.network import record
from sparsec.backends.accelerators.simulate import simulate
from sparsec.cli import app
from sparsec.graph.evaluate import evaluate
from tests.support.eie import planned

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def network(kind, directions, output, *, hidden=8, inputs=6, steps=5, batch=2):
    """(the recorded layers, the graph's weights, input and hidden states)."""
    rng = np.random.default_rng(3)
    shape = directions, GATES[kind] * hidden
    w, r = (np.where(rng.random((*shape, width)) < 0.4, rng.normal(size=(*shape, width)), 0).astype(np.float32)
            for width in (inputs, hidden))
    b = rng.normal(size=(directions, 2 * GATES[kind] * hidden)).astype(np.float32)
    names = ["y", ""] if output == 0 else ["", "y"]
    node = helper.make_node(kind, ["x", "w", "r", "b"], names, "recurrent", hidden_size=hidden,
                            direction="bidirectional" if directions == 2 else "forward")
    model, whole = (planned([each], (steps, batch, inputs), w=w, r=r, b=b) for each in (
        node, helper.make_node(kind, ["x", "w", "r", "b"], ["y"], "recurrent", hidden_size=hidden,
                               direction="bidirectional" if directions == 2 else "forward")))
    feeds = {"x": rng.normal(size=(steps, batch, inputs)).astype(np.float32)}
    return record(model, feeds).layers, (w, r, b), feeds["x"], evaluate(whole, feeds)[0]


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", GATES)
def test_steps_see_their_input_and_the_state_before(kind, directions, output):
    layers, (w, r, b), x, states = network(kind, directions, output)
    assert [layer.name for layer in layers] == ["recurrent", "recurrent/reverse"][:directions]
    for direction, layer in enumerate(layers):
        order = slice(None, None, -1 if direction else 1)
        before = np.concatenate((np.zeros_like(states[:1, direction]), states[order, direction][:-1]))
        gates = x[order] @ w[direction].T + before @ r[direction].T
        assert np.allclose(layer.vectors() @ layer.matrix().T, gates.reshape(-1, gates.shape[2]), atol=1e-5)
        assert np.allclose(layer.bias, np.add(*np.split(b[direction], 2)))


def test_a_plain_rnns_states_follow_from_the_recorded_product():
    (layer,), _, _, states = network("RNN", 1, 0)
    assert np.allclose(np.tanh(layer.vectors() @ layer.matrix().T + layer.bias), states.reshape(-1, 8), atol=1e-5)


@pytest.mark.parametrize("name", ["ese", "eie"])
def test_recurrent_layers_run_where_papers_run_them(name):
    layers, *_ = network("LSTM", 2, 0)
    result = simulate(layers, ACCELERATORS[name])
    assert not any(layer.refused for layer in result.layers)
    assert result.total.activity.spent["useful"] > 0
    assert simulate(layers, ACCELERATORS["scnn"]).refused_share == 1


def test_a_file_with_recurrent_layers_alone_is_for_those_that_run_them(tmp_path):
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], "recurrent", hidden_size=4)
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (
        ("w", (1, 16, 3)), ("r", (1, 16, 4)))]
    values = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (2, 1, 3)), ("y", (2, 1, 1, 4)))]
    graph = helper.make_graph([node], "recurrent", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "model.onnx")])
    assert "--target eie,ese" in str(result.exception)
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "model.onnx"), "--target", "eie,ese,masr"])
    assert result.exit_code == 0, result.output
    assert "masr" in result.output


def test_balanced_rows_take_ese_less_time():
    """Load-balance-aware pruning (Han et al., FPGA 2017, section 3.2): as many weights, equally many a PE."""
    rng = np.random.default_rng(0)
    (layer, *_), *_ = network("LSTM", 1, 0, hidden=64, inputs=64, steps=3, batch=1)
    times = {}
    for name in ("balanced", "skewed"):
        mask = np.zeros((256, 128), np.float32)
        for pe in range(32):
            kept = 102 if name == "balanced" else 51 + 102 * (pe % 2)
            rows = rng.permutation(8 * 128)[:kept]
            part = np.zeros(8 * 128, np.float32)
            part[rows] = 1
            mask[pe::32] = part.reshape(8, 128)
        each = type(layer)("lstm", layer.operator, mask[:, :, None, None], layer.x)
        times[name] = simulate([each], ACCELERATORS["ese"]).total.activity.cycles
    assert times["balanced"] < times["skewed"]
