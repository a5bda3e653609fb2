"""The networks that come with the onnx package, whose weights are all alike, with random weights instead."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

PATHS = {path.stem.removeprefix("light_"): path
         for path in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))}


def randomised(name, seed=0, *, hidden=4096):
    """The network with every ConstantOfShape as random weights, scaled so that activations keep their size.

    Three of the networks have layers of 4096 neurons, with most of their weights; `hidden` is what these have instead.
    """
    proto = onnx.load(PATHS[name])
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    positive = {node.input[4] for node in proto.graph.node if node.op_type == "BatchNormalization"}
    for node in [node for node in proto.graph.node if node.op_type == "ConstantOfShape"]:
        shape = tuple(hidden if length == 4096 else length for length in shapes[node.input[0]])
        scale = np.sqrt(2 / max(1, np.prod(shape[1:]))) if len(shape) > 1 else 0.5
        array = scale * rng.standard_normal(shape, np.float32)
        array = np.abs(array) + 0.5 if node.output[0] in positive else array
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(array), node.output[0]))
        proto.graph.node.remove(node)
    return proto
