"""Small models of sizes that the run tells: recurrent layers, images and dynamic quantisation."""

import numpy as np
import onnx
from onnxruntime.quantization import quantize_dynamic

from tests.support.cuda import networks

FLOAT = onnx.TensorProto.FLOAT


def recurrent(kind, hidden, given, **attributes):
    """A layer whose states, or those of the last steps, a linear layer reads."""
    g, gates = networks.Graph(), {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    directions = 1 + (attributes.get("direction") == "bidirectional")
    x = g("Transpose", "x", perm=[1, 0, 2])
    constants = [g.constant(g.random(directions, *shape) / 4) for shape in (
        (gates * hidden, 8), (gates * hidden, hidden), (2 * gates * hidden,))]
    peepholes = [g.constant(g.random(directions, 3 * hidden))] if "peepholes" in given else []
    y = g(kind, x, *constants, "lengths" if "lengths" in given else "", "h" if "h" in given else "", *["", *peepholes][
        :2 * bool(peepholes)], hidden_size=hidden, **attributes)
    y = g("Reshape", g("Transpose", y, perm=[2, 0, 1, 3]), g.constant(np.array([0, 0, -1])))
    g.linear(y, 4, directions * hidden, name="y")
    inputs = {"x": (FLOAT, ["batch", "steps", 8])}
    inputs |= {"h": (FLOAT, [directions, "batch", hidden])} if "h" in given else {}
    inputs |= {"lengths": (onnx.TensorProto.INT32, ["batch"])} if "lengths" in given else {}
    return g.model(inputs, {"y": ["batch", "steps", 4]})


def image():
    g = networks.Graph()
    x = g("MaxPool", g("Relu", g.conv("x", 8, 4, 3)), kernel_shape=[2, 2], strides=[2, 2])
    x = g("Relu", g.conv(x, 16, 8, 3, stride=2))
    x = g("Conv", x, g.constant(g.random(16, 1, 3, 3)), g.constant(g.random(16)), group=16, pads=[1] * 4)
    x = g("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
    x = g("Resize", x, "", g.constant(np.float32([1, 1, 2, 2])), mode="linear")
    x = g("ConvTranspose", x, g.constant(g.random(16, 8, 2, 2) / 8), strides=[2, 2])
    g("Relu", g.conv(x, 8, 8, 1), name="y")
    return g.model({"x": (FLOAT, ["batch", 4, "height", "width"])}, {"y": ["batch", 8, "tall", "wide"]})


def dynamic(folder):
    """Linear layers whose inputs are quantised by scales that are found when they run; written to a folder."""
    g = networks.Graph()
    g.linear(g("Relu", g.linear("x", 64, 32)), 16, 64, name="y")
    onnx.save(g.model({"x": (FLOAT, ["batch", "tokens", 32])}, {"y": ["batch", "tokens", 16]}), folder / "x.onnx")
    quantize_dynamic(folder / "x.onnx", folder / "codes.onnx")
    return onnx.load(folder / "codes.onnx")
