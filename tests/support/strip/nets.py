"""Random small networks of every kind of operator that stripping follows."""

import numpy as np
from onnx import TensorProto, helper

from tests.support.strip.blocks import CANCELLING, FEATURES, IMAGE, SEQUENCE, conv, gemm
from tests.support.strip.net import Net

VOCABULARY = 4


def chosen(net, blocks, depth, last):
    """The blocks of a network; without constants, every value must matter to what follows."""
    if net.constants:
        return [net.pick(*blocks) for _ in range(depth - 1)] + [last]
    simple = [name for name in blocks if name not in CANCELLING]
    return [net.pick(*simple) for _ in range(0 if last == "instance_norm" else depth - 1)] + [last]


def image_net(net, last):
    rank = net.pick(1, 2, 2)
    x = conv(net, net.input((2, net.pick(2, 3), *[net.pick(4, 5)] * rank)), out=net.pick(3, 4, 6))
    for name in chosen(net, IMAGE, 4, last):
        x = IMAGE[name](net, x)
        if np.prod(net.shape(x)) > 600 and min(net.shape(x)[2:]) > 1:
            x = net.op("AveragePool", x, kernel_shape=[2] * rank, strides=[2] * rank)
    return gemm(net, net.op("Flatten", conv(net, x, out=net.pick(2, 4))))


def feature_net(net, last):
    x = gemm(net, net.input((3, net.pick(3, 5))))
    for name in chosen(net, FEATURES, 4, last):
        x = FEATURES[name](net, x)
    return gemm(net, x)


def sequence_net(net, last):
    steps = net.pick(3, 4)
    net.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, (2, steps)))
    net.known_shapes["ids"] = (2, steps)
    x = net.op("Gather", net.weight(VOCABULARY, net.pick(3, 4, 6), units=1), "ids")
    x = net.op("Add", x, net.input((2, *net.shape(x)[1:]), "noise"))
    for name in chosen(net, SEQUENCE, 3, last):
        x = SEQUENCE[name](net, x)
    return net.op("MatMul", x, net.weight(net.shape(x)[-1], 3, units=1))


def _network(make, last):
    def build(seed, *, constants):
        net = Net([seed, *map(ord, last)], constants=constants)
        return net.model([make(net, last)])

    return build


KINDS = {"image": (image_net, IMAGE), "features": (feature_net, FEATURES), "sequence": (sequence_net, SEQUENCE)}
NETS = {f"{kind}-{name}": _network(make, name) for kind, (make, blocks) in KINDS.items() for name in blocks}
"""By the last block: (seed, constants) -> model. Without constants, a value is zero unless an input reaches it."""
