"""Blocks of random networks, of every kind of operator that stripping follows.

A block extends a network and returns the name of its output; its input is an image (batch, channels, positions),
features (batch, features) or a sequence (batch, steps, features).
"""

import numpy as np


def activation(net, x):
    if net.constants:
        kind = net.pick("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Elu", "Gelu", "Exp")
        return net.op("Clip", x, *net.floats(-3, 2)) if kind == "Exp" else net.op(kind, x)
    return net.op(net.pick("LeakyRelu", "Softsign", "Identity"), x)


def maximum(net, *kinds):
    """Operators that take a maximum, where any operand can be the largest."""
    return kinds if net.constants or not net.shared_factors else ()


def spatial(net, x):
    return len(net.shape(x)) - 2


def bias(net, length):
    return [net.const(net.random(length))] if net.constants and net.rng.random() < 0.7 else []


# Images


def conv(net, x, *, out=None, same=False):
    """`same` keeps the positions."""
    channels, rank, size = net.shape(x)[1], spatial(net, x), min(net.shape(x)[2:])
    groups = net.pick(*[g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    out = out or groups * net.pick(1, 2, 3)
    groups = groups if out % groups == 0 else 1
    kernel = min(size, 3 if same else net.pick(1, 2, 3))
    before = kernel // 2 if same else net.pick(0, 1) * (kernel > 1)
    after = kernel - 1 - before if same else before
    weight = net.weight(out, channels // groups, *[kernel] * rank)
    return net.op("Conv", x, weight, *bias(net, out), group=groups, strides=[1 if same else net.pick(1, 1, 2)] * rank,
                  pads=[before] * rank + [after] * rank)


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
    return net.op("BatchNormalization", x, *net.floats(scale, shift, mean, variance))


def pool(net, x):
    rank, size = spatial(net, x), min(net.shape(x)[2:])
    kernel, kind = min(net.pick(1, 2, 3), size), net.pick(*maximum(net, "MaxPool"), "AveragePool", "LpPool")
    net.shared_factors |= kind == "LpPool"
    extra = {"count_include_pad": net.pick(0, 1)} if kind == "AveragePool" else {}
    pad = 1 if kernel == 3 and kind != "LpPool" else 0
    return net.op(kind, x, kernel_shape=[kernel] * rank, strides=[net.pick(1, kernel)] * rank, pads=[pad] * rank * 2,
                  **extra)


def residual(net, x):
    branch = conv(net, activation(net, x), out=net.shape(x)[1], same=True)
    return net.op(net.pick("Add", "Add", "Sum", "Sub"), branch, x)


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
    shape = (net.shape(x)[1], *[1] * spatial(net, x))
    kind = net.pick("Mul", "PRelu", *["Add", "Max", "Div"] * net.constants)
    positive = kind == "Div" or (kind == "PRelu" and not net.constants)
    data = net.random(*shape) * (net.rng.random(shape) < 0.7)
    return net.op(kind, x, *net.floats(np.abs(data) + 1 if positive else data))


def pad(net, x):
    rank = spatial(net, x)
    value = net.floats(0.5) if net.constants else []
    mode = net.pick("constant", "edge", "reflect") if min(net.shape(x)[2:]) > 1 else "constant"
    return conv(net, net.op("Pad", x, net.ints(*[0, 0, *[1] * rank] * 2), *value, mode=mode))


def resize(net, x):
    rank = spatial(net, x)
    return net.op("Resize", x, "", *net.floats([1, 1, *[2] * rank]), mode="nearest")


def lrn(net, x):
    return net.op("LRN", x, size=3, alpha=0.1, bias=1.0) if spatial(net, x) == 2 else x


def instance_norm(net, x):
    channels = net.shape(x)[1]
    scale, shift = net.random(channels), net.random(channels) * net.constants
    y = net.op("InstanceNormalization", x, *net.floats(scale, shift), epsilon=0.1)
    return activation(net, y)


def blocks(net, x):
    _, channels, *positions = net.shape(x)
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
    return net.op("LayerNormalization", x, *net.floats(scale, shift), axis=-1)


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


IMAGE = {block.__name__: block for block in (
    conv, conv_transpose, batch_norm, pool, residual, dense_connection, branches, channel_slice, shuffle, gate,
    per_channel, pad, resize, lrn, instance_norm, blocks, choose, activation)}
FEATURES = {block.__name__: block for block in (
    gemm, linear, gated, skip, reorder, tile, activation, batch_norm, expand)}
SEQUENCE = {block.__name__: block for block in (
    linear, gated, skip, layer_norm, attention, reduce, reorder, expand, activation)}
CANCELLING = ("instance_norm", "attention")  # ignore what is the same at all positions, or steps, of their input
