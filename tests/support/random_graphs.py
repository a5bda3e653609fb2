"""Random networks: up to 12 operators over images, signals and tokens, with the patterns that pruning leaves."""

import math
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

CHANNELS = st.sampled_from([4, 1, 3, 7, 8, 16, 33])
SIZES = st.integers(1, 18)
SPARSITIES = st.sampled_from([0.9, 0.5, 0.98])


def unstructured(rng, w, zeros):
    w[rng.random(w.shape) < zeros] = 0


def blocks(rng, w, zeros, rows=8):
    for first in range(0, len(w), rows):
        w[first:first + rows, rng.random(w.shape[1]) < zeros] = 0


def empty_rows(rng, w, zeros):
    w[rng.random(len(w)) < zeros] = 0
    unstructured(rng, w, 0.5)


def empty_columns(rng, w, zeros):
    w[:, rng.random(w.shape[1]) < zeros] = 0


def two_of_four(rng, w, zeros):
    w[:, np.arange(w.shape[1]) % 4 // 2 == rng.integers(2)] = 0


def all_zero(rng, w, zeros):
    w[...] = 0


PATTERNS = {"dense": lambda *_: None, "unstructured": unstructured, "blocks": blocks, "empty rows": empty_rows,
            "empty columns": empty_columns, "2:4": two_of_four, "all zero": all_zero}


@dataclass
class Network:
    """A graph under construction; `values` are (name, shape)."""

    draw: object
    values: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, shape, scale=1.0):
        rng = np.random.default_rng(self.draw(st.integers(0, 2**16)))
        return self.constant((rng.standard_normal(shape) * scale).astype(np.float32))

    def weight(self, shape, rows=0):
        """A pruned weight; `rows` is the axis of outputs. An older one of that shape may be shared."""
        same = [c.name for c in self.constants if tuple(c.dims) == shape]
        if same and self.draw(st.booleans()):
            return self.draw(st.sampled_from(same))
        pattern = PATTERNS[self.draw(st.sampled_from(list(PATTERNS)))]
        rng = np.random.default_rng(self.draw(st.integers(0, 2**16)))
        w = rng.standard_normal(shape).astype(np.float32)
        matrix = np.moveaxis(w, rows, 0).reshape(shape[rows], -1)
        pattern(rng, matrix, self.draw(SPARSITIES))
        fan_in = max(1, int(np.count_nonzero(matrix, axis=1).max(initial=1)))
        pruned = np.moveaxis(matrix.reshape(shape[rows], *np.delete(shape, rows)), 0, rows)
        return self.constant(np.ascontiguousarray(pruned / np.float32(math.sqrt(fan_in))))

    def biased(self, inputs, width):
        return [*inputs, self.floats(width)] if self.draw(st.booleans()) else inputs

    def add(self, op, inputs, shape, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.values.append((name, tuple(shape)))
        return name


def windows(draw, sizes, kernels, largest_dilation):
    """(kernel, strides, dilations, pads, output sizes) that fit the image, or None."""
    kernel = [draw(st.sampled_from(kernels)) for _ in sizes]
    strides, dilations = ([draw(st.integers(1, most)) for _ in sizes] for most in (3, largest_dilation))
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    room = [size + before + after - d * (k - 1) - 1 for size, before, after, d, k in
            zip(sizes, pads[:len(sizes)], pads[len(sizes):], dilations, kernel, strict=True)]
    return None if min(room) < 0 else (kernel, strides, dilations, pads,
                                       [free // stride + 1 for free, stride in zip(room, strides, strict=True)])


def conv(net, name, shape, kind="full"):
    window = windows(net.draw, shape[2:], [3, 1, 2, 5], 2)
    if window is None:
        return
    kernel, strides, dilations, pads, sizes = window
    channels = shape[1]
    group = {"full": 1, "depthwise": channels, "grouped": math.gcd(channels, 4)}[kind]
    width = channels * net.draw(st.integers(1, 2)) if kind == "depthwise" else group * net.draw(CHANNELS)
    weight = net.weight((width, channels // group, *kernel))
    net.add("Conv", net.biased([name, weight], width), (shape[0], width, *sizes), kernel_shape=kernel, strides=strides,
            dilations=dilations, pads=pads, group=group)


def pool(net, name, shape):
    op = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    window = windows(net.draw, shape[2:], [2, 3], 1)
    if window is not None:
        kernel, strides, _, pads, sizes = window
        padding = {"count_include_pad": net.draw(st.integers(0, 1))} if op == "AveragePool" else {}
        net.add(op, [name], (*shape[:2], *sizes), kernel_shape=kernel, strides=strides, pads=pads, **padding)


def global_pool(net, name, shape):
    op = net.draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
    net.add(op, [name], (*shape[:2], *[1] * len(shape[2:])))


def activation(net, name, shape):
    op = net.draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "HardSigmoid", "Elu", "Abs"]))
    net.add(op, [name], shape)


def residual(net, name, shape):
    other = net.draw(st.sampled_from([v for v, s in net.values if s == shape]))
    op = net.draw(st.sampled_from(["Add", "Sub", "Mul"]))
    if op == "Mul":  # bounded, so that no chain of products overflows
        other = net.add("Tanh", [other], shape)
    net.add(op, net.draw(st.permutations([name, other])), shape)


def scale(net, name, shape):
    """By a constant for each channel, each column, each element or everywhere."""
    like = net.draw(st.sampled_from([(1, shape[1], *[1] * len(shape[2:])), shape[-1:], shape, ()]))
    op = net.draw(st.sampled_from(["Mul", "Add", "Sub"]))
    net.add(op, net.draw(st.permutations([name, net.floats(like)])), shape)


def concat(net, name, shape):
    fits = [(v, s) for v, s in net.values if len(s) == len(shape) and (s[0], *s[2:]) == (shape[0], *shape[2:])]
    other, other_shape = net.draw(st.sampled_from(fits))
    net.add("Concat", [name, other], (shape[0], shape[1] + other_shape[1], *shape[2:]), axis=1)


def matmul(net, name, shape):
    width = net.draw(CHANNELS)
    if net.draw(st.booleans()):
        net.add("MatMul", [name, net.weight((shape[-1], width), rows=1)], (*shape[:-1], width))
    elif len(shape) == 3:  # the weight on the left
        net.add("MatMul", [net.weight((width, shape[1])), name], (shape[0], width, shape[2]))


def gemm(net, name, shape):
    width, transposed = net.draw(CHANNELS), net.draw(st.integers(0, 1))
    weight = net.weight((width, shape[1]) if transposed else (shape[1], width), rows=1 - transposed)
    net.add("Gemm", net.biased([name, weight], width), (shape[0], width), transB=transposed)


def layer_norm(net, name, shape):
    inputs = [name, net.floats(shape[-1:]), *([net.floats(shape[-1:])] if net.draw(st.booleans()) else [])]
    net.add("LayerNormalization", inputs, shape, axis=-1, epsilon=1e-2)


def softmax(net, name, shape):
    net.add("Softmax", [name], shape, axis=net.draw(st.integers(1, len(shape) - 1)))


def transpose(net, name, shape):
    order = [0, *net.draw(st.permutations(range(1, len(shape))))]
    net.add("Transpose", [name], [shape[axis] for axis in order], perm=order)


def reshape(net, name, shape):
    """To a matrix, to tokens, or with a further axis."""
    rest = math.prod(shape[1:])
    factor = math.gcd(rest, 4)
    to = net.draw(st.sampled_from([(shape[0], rest), (shape[0], shape[1], rest // shape[1]),
                                   (shape[0], factor, rest // factor, 1)]))
    net.add("Reshape", [name, net.constant(np.array(to, np.int64))], to)


ANY = [activation, residual, scale, concat, transpose, reshape, softmax, layer_norm, matmul]
IMAGE = [conv, lambda *a: conv(*a, "depthwise"), lambda *a: conv(*a, "grouped"), pool, global_pool]
LARGEST = 1 << 15  # elements of a value, so that examples stay quick


@st.composite
def networks(draw, operators=12):
    """A valid ONNX model of float32 with one input; everything that nothing consumes is an output."""
    net = Network(draw)
    batch, channels = draw(st.sampled_from([1, 1, 2, 3])), draw(CHANNELS)
    net.values.append(("x", (batch, channels, *[draw(SIZES) for _ in range(draw(st.sampled_from([2, 1, 0])))])))
    for _ in range(draw(st.integers(1, operators))):
        name, shape = draw(st.sampled_from(net.values[-3:]))
        if len(net.nodes) < operators and math.prod(shape) <= LARGEST:
            rules = IMAGE + ANY if len(shape) > 2 else [gemm, *ANY]
            draw(st.sampled_from(rules))(net, name, shape)
    if not net.nodes:
        activation(net, *net.values[0])
    used = {name for node in net.nodes for name in node.input}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in net.values}
    outputs = [infos[name] for name, _ in net.values[1:] if name not in used]
    graph = helper.make_graph(net.nodes, "random", [infos["x"]], outputs,
                              [c for c in net.constants if c.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
