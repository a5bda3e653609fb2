"""Networks under construction, with weights zeroed at random."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20


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

    def floats(self, *arrays):
        return [self.const(np.asarray(array, np.float32)) for array in arrays]

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
