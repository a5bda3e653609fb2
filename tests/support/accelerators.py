"""Small networks for the simulated accelerators."""

import numpy as np
from onnx import helper

from tests.support.eie import planned, sparse_weight

RNG = np.random.default_rng(0)


def convolutions():
    nodes = [helper.make_node("Conv", ["x", "v", "b"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
             helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("Conv", ["r", "d"], ["e"], "depthwise", group=8, pads=[1, 1, 1, 1]),
             helper.make_node("Flatten", ["e"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"], "linear")]
    return planned(nodes, (1, 3, 9, 9), v=sparse_weight(RNG, (8, 3, 3, 3), 0.9), b=sparse_weight(RNG, (8,)),
                   d=sparse_weight(RNG, (8, 1, 3, 3), 0.9), w=sparse_weight(RNG, (200, 11)))
