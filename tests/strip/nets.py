"""Random small networks of every operator that stripping follows, with weights zeroed at random.

`BLOCKS` maps a name to a function that extends a network; a block takes an image (batch, channels, positions), features
(batch, features) or a sequence (batch, steps, features), by its group.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
VOCABULARY = 4


class Net:
    """A graph under construction: every method returns the name of a tensor."""

    def __init__(self, seed, *, constants, density=0.5, dead=0.3):
        self.rng = np.random.default_rng(seed)
        self.constants = constants  # biases, shifts and activations with f(0) != 0
        self.density, self.dead = density, dead  # of single weights, and how often a whole unit is zero
        self.nodes, self.initializers, self.inputs, self.weights = [], [], [], []
        self.known_shapes = {}
        self.shared_factors = False  # some outputs are multiples of the same input: a maximum may ignore one of them

    def input(self, shape, name="x"):
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.known_shapes[name] = tuple(shape)
        return name

    def const(self, data):
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(data), name))
        self.known_shapes[name] = np.shape(data)
        return name

    def ints(self, *values):
        return self.const(np.array(values, np.int64))

    def random(self, *shape):
        return (self.rng.choice([-1, 1], shape) * self.rng.uniform(0.5, 1.5, shape)).astype(np.float32)

    def weight(self, *shape, units=0):
        """A weight with random zeros; whole units are dead, along axis `units` or along the other one."""
        data = self.random(*shape) * (self.rng.random(shape) < self.density)
        for axis in (units, 1 - units):
            gone = self.rng.random(shape[axis]) < self.dead / 2
            data *= ~np.expand_dims(gone, tuple(i for i in range(len(shape)) if i != axis))
        name = self.const(data.astype(np.float32))
        self.weights.append(name)
        return name

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def shape(self, name):
        if name not in self.known_shapes:
            inferred = onnx.shape_inference.infer_shapes(self.model([]), strict_mode=True, data_prop=True)
            for value in inferred.graph.value_info:
                self.known_shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        return self.known_shapes[name]

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def model(self, outputs):
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shape(name)) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def activation(net, x):
    if net.constants:
        kind = net.pick("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Elu", "Gelu", "Exp")
        return net.op("Clip", x, net.const(np.float32(-3)), net.const(np.float32(2))) if kind == "Exp" else net.op(kind, x)
    return net.op(net.pick("LeakyRelu", "Softsign", "Elu", "Identity"), x)


def maximum(net, *kinds):
    """Operators that take a maximum, where any operand can be the largest."""
    return kinds if net.constants or not net.shared_factors else ()


def spatial(net, x):
    return len(net.shape(x)) - 2


def bias(net, length):
    return [net.const(net.random(length))] if net.constants and net.rng.random() < 0.7 else []


# Images


def conv(net, x, out=None, same=False):
    channels, rank = net.shape(x)[1], spatial(net, x)
    groups = net.pick(*[g for g in (1, 1, 2, 3, channels) if channels % g == 0 and (not same or channels % g == 0)])
    out = out or groups * net.pick(1, 2, 3)
    groups = groups if out % groups == 0 else 1
    kernel = 3 if same and min(net.shape(x)[2:]) > 1 else net.pick(1, 2, 3)
    kernel = min(kernel, *net.shape(x)[2:])
    pad = kernel // 2 if same else net.pick(0, 1) if kernel > 1 else 0
    stride = 1 if same else net.pick(1, 1, 2)
    weight = net.weight(out, channels // groups, *[kernel] * rank)
    return net.op("Conv", x, weight, *bias(net, out), group=groups, kernel_shape=[kernel] * rank, strides=[stride] * rank,
                  pads=[pad] * rank + [pad if kernel != 2 or not same else 0] * rank)


def conv_transpose(net, x):
    channels, rank = net.shape(x)[1], spatial(net, x)
    groups = net.pick(*[g for g in (1, 2, channels) if channels % g == 0])
    out = groups * net.pick(1, 2)
    weight = net.weight(channels, out // groups, *[net.pick(1, 2, 3)] * rank)
    kernel = net.shape(weight)[2]
    net.shared_factors = True
    return net.op("ConvTranspose", x, weight, *bias(net, out), group=groups, strides=[net.pick(1, 2)] * rank,
                  pads=[min(1, kernel - 1)] * rank * 2 if min(net.shape(x)[2:]) > 2 else [0] * rank * 2)


def batch_norm(net, x):
    channels = net.shape(x)[1]
    scale = net.random(channels) * (net.rng.random(channels) < 0.8)
    shift, mean = (net.random(channels) * net.constants for _ in range(2))
    variance = net.rng.uniform(0.5, 1.5, channels)
    return net.op("BatchNormalization", x, *(net.const(a.astype(np.float32)) for a in (scale, shift, mean, variance)))


def pool(net, x):
    rank, size = spatial(net, x), min(net.shape(x)[2:])
    kernel, kind = min(net.pick(1, 2, 3), size), net.pick(*maximum(net, "MaxPool"), "AveragePool", "LpPool")
    net.shared_factors |= kind == "LpPool"
    extra = {"count_include_pad": net.pick(0, 1)} if kind == "AveragePool" else {}
    pad = 1 if kernel == 3 and kind != "LpPool" else 0
    return net.op(kind, x, kernel_shape=[kernel] * rank, strides=[net.pick(1, kernel)] * rank, pads=[pad] * rank * 2, **extra)


def residual(net, x):
    return net.op(net.pick("Add", "Add", "Sum", "Sub"), conv(net, activation(net, x), out=net.shape(x)[1], same=True), x)


def dense_connection(net, x):
    return net.op("Concat", x, activation(net, conv(net, x, same=True)), axis=1)


def branches(net, x):
    half = net.shape(x)[1] // 2
    if not half:
        return x
    left, right = net.op("Split", x, net.ints(half, net.shape(x)[1] - half), outputs=2, axis=1)
    return net.op("Concat", conv(net, left, same=True), right, axis=1)


def channel_slice(net, x):
    channels = net.shape(x)[1]
    start = int(net.rng.integers(channels))
    if net.rng.random() < 0.5:
        return net.op("Gather", x, net.ints(*net.rng.integers(0, channels, 3)), axis=1)
    return net.op("Slice", x, net.ints(start), net.ints(channels + 1), net.ints(1))


def shuffle(net, x):
    batch, channels, *positions = net.shape(x)
    groups = net.pick(*[g for g in (1, 2, 3) if channels % g == 0])
    split = net.op("Reshape", x, net.ints(batch, groups, channels // groups, *positions))
    turned = net.op("Transpose", split, perm=[0, 2, 1, *range(3, 3 + len(positions))])
    return net.op("Reshape", turned, net.ints(0, -1, *positions))


def gate(net, x):
    """Squeeze and excitation."""
    squeezed = conv(net, net.op(net.pick("GlobalAveragePool", *maximum(net, "GlobalMaxPool")), x), same=True)
    excited = activation(net, conv(net, squeezed, out=net.shape(x)[1], same=True))
    return net.op(net.pick("Mul", *["Add"] * net.constants), x, excited)


def per_channel(net, x):
    data = net.random(net.shape(x)[1], *[1] * spatial(net, x)) * (net.rng.random((net.shape(x)[1], *[1] * spatial(net, x))) < 0.7)
    kind = net.pick("Mul", "Add", "Max", "Div", "PRelu") if net.constants else net.pick("Mul", "PRelu")
    data = np.abs(data) + 1 if kind == "Div" or not net.constants and kind == "PRelu" else data
    return net.op(kind, x, net.const(data.astype(np.float32)))


def pad(net, x):
    rank = spatial(net, x)
    value = [net.const(np.float32(0.5))] if net.constants else []
    mode = net.pick("constant", "edge", "reflect") if min(net.shape(x)[2:]) > 1 else "constant"
    return conv(net, net.op("Pad", x, net.ints(*[0, 0, *[1] * rank] * 2), *value, mode=mode))


def resize(net, x):
    rank = spatial(net, x)
    return net.op("Resize", x, "", net.const(np.array([1, 1, *[2] * rank], np.float32)), mode="nearest")


def lrn(net, x):
    return net.op("LRN", x, size=3, alpha=0.1, bias=1.0) if spatial(net, x) == 2 else x


def instance_norm(net, x):
    channels = net.shape(x)[1]
    scale, shift = net.random(channels), net.random(channels) * net.constants
    y = net.op("InstanceNormalization", x, *(net.const(a.astype(np.float32)) for a in (scale, shift)), epsilon=0.1)
    return activation(net, y)


def blocks(net, x):
    batch, channels, *positions = net.shape(x)
    if len(positions) != 2 or channels % 4:
        return x
    up = net.op("DepthToSpace", x, blocksize=2, mode=net.pick("DCR", "CRD"))
    return net.op("SpaceToDepth", activation(net, up), blocksize=2)


def choose(net, x):
    condition = net.rng.random((net.shape(x)[1], *[1] * spatial(net, x))) < 0.5
    return net.op("Where", net.const(condition), x, conv(net, x, out=net.shape(x)[1], same=True))


# Features


def gemm(net, x):
    features, out = net.shape(x)[1], net.pick(2, 3, 5)
    turned = net.pick(0, 1)
    weight = net.weight(*((out, features) if turned else (features, out)), units=1 - turned)
    return net.op("Gemm", x, weight, *bias(net, out), transB=turned, alpha=0.5, beta=2.0)


def linear(net, x):
    """MatMul with a bias, on features or sequences."""
    out = net.pick(2, 3, 5)
    y = net.op("MatMul", x, net.weight(net.shape(x)[-1], out, units=1))
    shift = bias(net, out)
    return net.op("Add", *shift, y) if shift else y


def gated(net, x):
    out = net.shape(x)[-1]
    left, right = (net.op("MatMul", x, net.weight(out, out, units=1)) for _ in range(2))
    return net.op("Mul", activation(net, left), right)


def skip(net, x):
    out = net.shape(x)[-1]
    return net.op("Add", x, net.op("MatMul", activation(net, x), net.weight(out, out, units=1)))


def reduce(net, x):
    rank = len(net.shape(x))
    kind = net.pick("ReduceSum", "ReduceMean", "ReduceL2", *["ReduceMax"] * net.constants)
    return net.op(kind, x, net.ints(rank - 1), keepdims=1) if rank == 3 else x


def reorder(net, x):
    rank = len(net.shape(x))
    if rank == 2:
        return net.op("Squeeze", net.op("Unsqueeze", x, net.ints(1)), net.ints(1))
    turned = net.op("Transpose", x, perm=[0, 2, 1])
    mixed = net.op("MatMul", turned, net.weight(net.shape(x)[1], 3, units=1))
    return net.op("Transpose", mixed, perm=[0, 2, 1])


def tile(net, x):
    return net.op("Tile", x, net.ints(*[1] * (len(net.shape(x)) - 1), 2))


def expand(net, x):
    batch, *rest = net.shape(x)
    return net.op("Expand", x, net.ints(batch, *rest))


# Sequences


def layer_norm(net, x):
    features = net.shape(x)[-1]
    if features < 3:
        return x
    scale, shift = net.random(features) * (net.rng.random(features) < 0.8), net.random(features) * net.constants
    return net.op("LayerNormalization", x, *(net.const(a.astype(np.float32)) for a in (scale, shift)), axis=-1)


def attention(net, x):
    batch, steps, features = net.shape(x)
    heads, depth = net.pick(1, 2, 3), net.pick(1, 2, 3)

    def projected(order):
        y = net.op("MatMul", x, net.weight(features, heads * depth, units=1))
        if net.constants and net.rng.random() < 0.5:
            y = net.op("Add", y, net.const(net.random(heads * depth)))
        y = net.op("Reshape", y, net.ints(0, 0, heads, depth))
        return net.op("Transpose", y, perm=order)

    scores = net.op("MatMul", projected([0, 2, 1, 3]), projected([0, 2, 3, 1]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), projected([0, 2, 1, 3]))
    joined = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(batch, steps, heads * depth))
    return net.op("MatMul", joined, net.weight(heads * depth, features, units=1))


IMAGE = {f.__name__: f for f in (conv, conv_transpose, batch_norm, pool, residual, dense_connection, branches, channel_slice,
                                 shuffle, gate, per_channel, pad, resize, lrn, instance_norm, blocks, choose, activation)}
FEATURES = {f.__name__: f for f in (gemm, linear, gated, skip, reorder, tile, activation, batch_norm, expand)}
SEQUENCE = {f.__name__: f for f in (linear, gated, skip, layer_norm, attention, reduce, reorder, expand, activation)}


CANCELLING = ("instance_norm", "attention")  # ignore what is the same at all positions, or steps, of their input


def chosen(net, blocks, depth, last):
    """The blocks of a network; without constants, every value must matter to what follows."""
    if net.constants:
        return [net.pick(*blocks) for _ in range(depth - 1)] + [last]
    simple = [name for name in blocks if name not in CANCELLING]
    return [net.pick(*simple) for _ in range(0 if last == "instance_norm" else depth - 1)] + [last]


def image_net(seed, first, *, constants, depth=4):
    """A network of image blocks, `first` among them, that ends in a linear layer."""
    net = Net([seed, *map(ord, first)], constants=constants)
    rank = net.pick(1, 2, 2)
    x = conv(net, net.input((2, net.pick(2, 3), *[net.pick(4, 5)] * rank)), out=net.pick(3, 4, 6))
    for name in chosen(net, IMAGE, depth, first):
        x = IMAGE[name](net, x)
        if np.prod(net.shape(x)) > 600:
            x = net.op("AveragePool", x, kernel_shape=[2] * rank, strides=[2] * rank) if min(net.shape(x)[2:]) > 1 else x
    x = conv(net, x, out=net.pick(2, 4))
    return net.model([gemm(net, net.op("Flatten", x))])


def feature_net(seed, first, *, constants, depth=4):
    net = Net([seed, *map(ord, first)], constants=constants)
    x = gemm(net, net.input((3, net.pick(3, 5))))
    for name in chosen(net, FEATURES, depth, first):
        x = FEATURES[name](net, x)
    return net.model([gemm(net, x)])


def sequence_net(seed, first, *, constants, depth=3):
    net = Net([seed, *map(ord, first)], constants=constants)
    steps = net.pick(3, 4)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, (2, steps))
    net.inputs.append(ids)
    net.known_shapes["ids"] = (2, steps)
    x = net.op("Gather", net.weight(VOCABULARY, net.pick(3, 4, 6), units=1), "ids")
    x = net.op("Add", x, net.input((2, *net.shape(x)[1:]), "noise"))
    for name in chosen(net, SEQUENCE, depth, first):
        x = SEQUENCE[name](net, x)
    return net.model([net.op("MatMul", x, net.weight(net.shape(x)[-1], 3, units=1))])


def net(make, last):
    return lambda seed, constants: make(seed, last, constants=constants)


NETS = {f"{kind}-{name}": net(make, name) for kind, make, blocks_of_kind in
        (("image", image_net, IMAGE), ("features", feature_net, FEATURES), ("sequence", sequence_net, SEQUENCE))
        for name in blocks_of_kind}
"""By name of the last block: (seed, constants) -> model; without constants, a value is zero unless an input reaches it."""
