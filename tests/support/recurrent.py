"""Recurrent layers of any number of steps and members, as networks and calls of them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, HIDDEN, OUT = 12, 10, 6  # states of 40 bytes, of which none but the first is aligned to a vector


def network(kind, direction="forward", *, lengths=False, states=False, peepholes=False, seed=0, hidden=HIDDEN,
            **attributes):
    """A layer of symbolic steps and batch behind and in front of linear ones; outputs all states, and the last ones."""
    rng, both = np.random.default_rng(seed), 2 if direction == "bidirectional" else 1
    width = GATES[kind] * hidden
    shapes = {"in": (INPUTS, INPUTS), "w": (both, width, INPUTS), "r": (both, width, hidden), "b": (both, 2 * width),
              "p": (both, 3 * hidden), "out": (hidden, OUT)}
    tables = [numpy_helper.from_array((rng.standard_normal(shape) * (rng.random(shape) < 0.4)).astype(np.float32), name)
              for name, shape in shapes.items() if name != "p" or peepholes]
    batch_first = attributes.get("layout", 0)
    sizes = ["batch", "steps"] if batch_first else ["steps", "batch"]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*sizes, INPUTS])]
    names = ["s", "w", "r", "b", "", "", ""][:5 + (2 if kind == "LSTM" else 1)]
    if lengths:
        names[4] = "lengths"
        given.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    if states:
        for place, name in list(enumerate(("h", "c"), 5))[:len(names) - 5]:
            names[place] = name
            shape = ["batch", both, hidden] if batch_first else [both, "batch", hidden]
            given.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    results = ["y", "last", "cell"][:3 if kind == "LSTM" else 2]
    nodes = [helper.make_node("MatMul", ["x", "in"], ["s"]),
             helper.make_node(kind, [*names, "p"] if peepholes else names, results, name="layer", hidden_size=hidden,
                              direction=direction, **attributes),
             helper.make_node("MatMul", ["y", "out"], ["z"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("z", *results[1:])]
    graph = helper.make_graph(nodes, kind, given, outputs, tables)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def feeds_of(model, steps, batch, seed=0):
    rng = np.random.default_rng(seed)
    both = {value.name: value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input}
    hidden = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in model.graph.input}
    made = {"x": (steps, batch, INPUTS), **{name: (both.get(name), batch, hidden.get(name)) for name in ("h", "c")}}
    feeds = {name: rng.standard_normal(made[name], np.float32) for name in both if name in made}
    if "lengths" in both:
        feeds["lengths"] = rng.integers(min(1, steps), steps + 1, batch).astype(np.int32)
    return feeds


NETWORKS = {
    "gru": network("GRU", linear_before_reset=1),
    "gru of papers": network("GRU", "reverse", states=True),
    "gru of papers whose gates are taken apart": network("GRU", states=True, hidden=70),
    "rnn": network("RNN", "bidirectional", activations=["Relu", "Tanh"]),
    "gru that clips, of other activations": network("GRU", "bidirectional", clip=0.5, activations=[
        "HardSigmoid", "Tanh", "Sigmoid", "LeakyRelu"], activation_alpha=[0.3, 0.1]),
    "lstm of coupled gates": network("LSTM", "reverse", input_forget=1, peepholes=True, clip=0.5),
    "lstm with everything": network("LSTM", "bidirectional", lengths=True, states=True, peepholes=True),
}
