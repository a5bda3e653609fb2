"""A transformer layer and a residual network with sparse weights, small enough for the emulator."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsec.kernels.cuda.arrange import project

RNG = np.random.default_rng(0)


def unstructured(matrix):
    """The matrix with 70 % of its elements set to zero."""
    return matrix * (RNG.random(matrix.shape) < 0.3)


def transformer(tokens=16, width=64, heads=2, hidden=128, prune=project, *, fused=False):
    """Embedding, one layer of attention and GELU with masks and residuals, and a head; `fused` projects once."""
    g = Graph(prune)
    x = g("Gather", g.constant(g.random(50, width)), "ids")
    mask = g("Cast", g("Unsqueeze", "mask", g.constant(np.array([1, 2]))), to=TensorProto.FLOAT)
    mask = g("Mul", g("Sub", g.constant(np.float32(1)), mask), g.constant(np.float32(-3e38)))
    projections = slices(g, g.linear(x, 3 * width, width), width) if fused else [
        g.linear(x, width, width) for _ in range(3)]
    q, k, v = (split(g, projection, heads) for projection in projections)
    scores = g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2]))
    scores = g("Add", g("Div", scores, g.constant(np.float32(np.sqrt(width // heads)))), mask)
    joined = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    joined = g("Reshape", joined, g.constant(np.array([0, -1, width])))
    x = g.norm(g("Add", g.linear(joined, width, width), x), width)
    x = g.norm(g("Add", g.linear(g("Gelu", g.linear(x, hidden, width)), width, hidden), x), width)
    g.linear(x, 8, width, name="y")
    return g.model({"ids": (TensorProto.INT64, [1, tokens]), "mask": (TensorProto.INT64, [1, tokens])},
                   {"y": [1, tokens, 8]})


def symbolic(model, *names):
    """The model whose inputs and outputs have the first dimensions by these names."""
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dim.dim_param = name
    return model


def network(prune=project):
    """A dense stem, pooling, a residual block of stride 2 with a 3x3 kernel, a depthwise convolution, a classifier."""
    g = Graph(prune)
    x = g("Relu", g.conv("x", 16, 3, 3, stride=2, sparse=False))
    x = g("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    y = g("Relu", g.conv(g("Relu", g.conv(x, 16, 16, 1)), 16, 16, 3, stride=2))
    x = g("Relu", g("Add", g.conv(y, 32, 16, 1), g.conv(x, 32, 16, 1, stride=2)))
    x = g("GlobalAveragePool", g("Conv", x, g.constant(g.random(32, 1, 3, 3)), group=32, pads=[1] * 4))
    g("Gemm", g("Flatten", x), g.constant(prune(g.random(10, 32))), g.constant(g.random(10)), transB=1, name="y")
    return g.model({"x": (TensorProto.FLOAT, [2, 3, 32, 32])}, {"y": [2, 10]})


def slices(g, x, width):
    """Three projections from one."""
    return [g("Slice", x, *(g.constant(np.array([n])) for n in (i * width, (i + 1) * width, 2))) for i in range(3)]


def split(g, x, heads):
    """A projection by heads."""
    return g("Transpose", g("Reshape", x, g.constant(np.array([0, 0, heads, -1]))), perm=[0, 2, 1, 3])


class Graph:
    """ONNX nodes in the making: calls add one and return its output's name; `prune` makes weights sparse."""

    def __init__(self, prune=project):
        self.nodes, self.constants, self.prune = [], [], prune

    def __call__(self, operator, *inputs, name=None, **attributes):
        name = name or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"constant{len(self.constants)}"))
        return self.constants[-1].name

    def random(self, *shape):
        return RNG.standard_normal(shape).astype(np.float32)

    def linear(self, x, outputs, inputs, name=None):
        weight = self.prune(self.random(outputs, inputs)) * np.float32((2 / inputs) ** 0.5)
        return self("Add", self("MatMul", x, self.constant(weight.T)), self.constant(self.random(outputs)), name=name)

    def norm(self, x, width):
        return self("LayerNormalization", x, self.constant(self.random(width)), self.constant(self.random(width)))

    def conv(self, x, outputs, inputs, kernel, stride=1, *, sparse=True):
        weight = self.random(outputs, kernel * kernel * inputs) * np.float32((2 / inputs) ** 0.5 / kernel)
        weight = (self.prune(weight) if sparse else weight).reshape(outputs, kernel, kernel, inputs)
        return self("Conv", x, self.constant(np.moveaxis(weight, -1, 1)), self.constant(self.random(outputs)),
                    strides=[stride] * 2, pads=[kernel // 2] * 4)

    def model(self, inputs, outputs):
        graph = helper.make_graph(
            self.nodes, "network", [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model)
        return model
