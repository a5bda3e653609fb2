"""Random quantised networks, as the same tensors in QDQ or as onnxruntime's and ONNX's operators on codes."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CONTRIBUTED = "com.microsoft"
FORMS = ("qdq", "qoperator")


@dataclass(frozen=True)
class Tensor:
    """Codes by name, with what they stand for."""

    name: str
    shape: tuple
    scale: float
    zero: int
    dtype: str

    @property
    def parameters(self):
        return f"{self.name}_s", f"{self.name}_z"


class Network:
    """A network that grows operator by operator; every one quantises its result."""

    def __init__(self, seed, form):
        self.r, self.form = np.random.default_rng(seed), form
        self.rare = np.random.default_rng([seed, 1])
        self.nodes, self.constants = [], []
        self.dtype = self.pick("uint8", "int8")

    def pick(self, *options):
        return options[self.r.integers(len(options))]

    def add(self, op, inputs, domain="", **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"n{len(self.nodes)}", domain=domain, **attributes))
        return name

    def constant(self, array, name=None):
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def tensor(self, name, shape, scale):
        """Names codes, and makes constants of their scale and a zero point, at times at the end of the range."""
        info = np.iinfo(self.dtype)
        zero = int(self.pick(info.min, 0, info.max, *self.r.integers(info.min, info.max, 4)))
        tensor = Tensor(name, shape, float(np.float32(scale)), zero, self.dtype)
        self.constant(np.float32(tensor.scale), tensor.parameters[0])
        self.constant(np.asarray(zero, self.dtype), tensor.parameters[1])
        return tensor

    def dequantize(self, tensor):
        return self.add("DequantizeLinear", [tensor.name, *tensor.parameters])

    def quantize(self, value, shape, scale):
        """Codes of a float value."""
        tensor = self.tensor(f"v{len(self.nodes)}", shape, scale)
        assert self.add("QuantizeLinear", [value, *tensor.parameters]) == tensor.name
        return tensor

    def through(self, op, tensors, shape, scale, **attributes):
        """An operator on floats between codes."""
        return self.quantize(self.add(op, [self.dequantize(each) for each in tensors], **attributes), shape, scale)

    def on_codes(self, op, inputs, shape, scale, domain="", **attributes):
        """An operator on codes; `inputs` makes the list of its inputs from the parameters of the result."""
        tensor = self.tensor(f"v{len(self.nodes)}", shape, scale)
        assert self.add(op, inputs(list(tensor.parameters)), domain, **attributes) == tensor.name
        return tensor

    def weight(self, shape, outputs):
        """The names of a sparse weight's constants, of any type, zero points and granularity, and its scales."""
        dtype = self.pick("int8", "uint8") if self.dtype == "uint8" else "int8"  # onnxruntime has no int8 by uint8
        info, count = np.iinfo(dtype), self.pick(1, shape[outputs])
        symmetric = self.form == "qdq" and dtype == "int8" and self.pick(True, False)
        zero = np.zeros(count, dtype) if symmetric else self.r.integers(info.min, info.max + 1, count).astype(dtype)
        scale = self.r.uniform(0.002, 0.01, count).astype(np.float32)
        if count > 1 and self.rare.random() < 0.2:
            scale[self.rare.integers(count)] = 0
        along = [-1 if axis == outputs else 1 for axis in range(len(shape))]
        codes = np.where(self.r.random(shape) < 0.3, self.r.integers(info.min, info.max + 1, shape),
                         zero.reshape(along)).astype(dtype)
        if count == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        return [self.constant(codes), self.constant(scale), self.constant(zero)], scale

    def bias(self, scale, count):
        codes = self.r.integers(-2000, 2000, count).astype(np.int32)
        return self.constant(codes), self.constant(np.broadcast_to(np.float32(scale), (count,)).astype(np.float32))

    def conv(self, x):
        channels = x.shape[1]
        group = self.pick(1, channels, 2 if channels % 2 == 0 else 1)
        outputs, kernel = self.pick(1, 2) * channels, self.pick(1, 3)
        strides, pads = self.pick([1, 1], [2, 1]), [kernel // 2] * 4
        parameters, scale = self.weight((outputs, channels // group, kernel, kernel), 0)
        units = np.float32(x.scale) * scale
        out = [(x.shape[2 + i] + 2 * pads[0] - kernel) // strides[i] + 1 for i in range(2)]
        shape, y_scale = (x.shape[0], outputs, *out), float(units.mean()) * 300 * np.sqrt(channels // group) * kernel
        attributes = {"group": group, "strides": strides, "pads": pads}
        bias, bias_scale = self.bias(units, outputs)
        if self.form == "qoperator":
            return self.on_codes("QLinearConv", lambda y: [x.name, *x.parameters, *parameters, *y, bias], shape,
                                 y_scale, **attributes)
        floats = [self.dequantize(x), self.add("DequantizeLinear", parameters, axis=0),
                  self.add("DequantizeLinear", [bias, bias_scale], axis=0)]
        y = self.add("Conv", floats, **attributes)
        y = self.pick(lambda: y, lambda: self.add("Relu", [y]))()
        return self.quantize(y, shape, y_scale)

    def gemm(self, x):
        flat = int(np.prod(x.shape[1:]))
        codes = self.add("Reshape", [x.name, self.constant(np.array([0, flat]))])
        x = Tensor(codes, (x.shape[0], flat), x.scale, x.zero, x.dtype)
        for name, value in zip(x.parameters, (np.float32(x.scale), np.asarray(x.zero, x.dtype)), strict=True):
            self.constant(value, name)
        parameters, scale = self.weight((flat, 6), 1)
        y_scale = float((np.float32(x.scale) * scale).mean()) * 300 * np.sqrt(flat)
        if self.form == "qoperator":
            return self.on_codes("QLinearMatMul", lambda y: [x.name, *x.parameters, *parameters, *y],
                                 (x.shape[0], 6), y_scale)
        w = self.add("DequantizeLinear", parameters, axis=1)
        return self.quantize(self.add("MatMul", [self.dequantize(x), w]), (x.shape[0], 6), y_scale)

    def binary(self, a, b):
        op = self.pick("Add", "Mul")
        scale = 1.5 * (a.scale + b.scale) if op == "Add" else 60 * a.scale * b.scale
        if self.form == "qoperator":
            return self.on_codes(f"QLinear{op}", lambda y: [a.name, *a.parameters, b.name, *b.parameters, *y], a.shape,
                                 scale, CONTRIBUTED)
        return self.through(op, [a, b], a.shape, scale)

    def unary(self, x):
        op, attributes, scale = self.pick(("Sigmoid", {}, 1 / 256), ("LeakyRelu", {"alpha": 0.25}, x.scale),
                                          ("GlobalAveragePool", {}, x.scale / 4))
        shape = (*x.shape[:2], 1, 1) if op == "GlobalAveragePool" else x.shape
        if self.form == "qoperator":
            return self.on_codes(f"QLinear{op}", lambda y: [x.name, *x.parameters, *y], shape, scale, CONTRIBUTED,
                                 **attributes)
        return self.through(op, [x], shape, scale, **attributes)

    def concat(self, a, b):
        shape = (a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
        if self.form == "qoperator":
            return self.on_codes("QLinearConcat", lambda y: [*y, a.name, *a.parameters, b.name, *b.parameters], shape,
                                 max(a.scale, b.scale), CONTRIBUTED, axis=1)
        return self.through("Concat", [a, b], shape, max(a.scale, b.scale), axis=1)

    def step(self, tensors):
        """One more operator on the tensors so far."""
        x = self.pick(*(each for each in tensors if len(each.shape) == 4))
        alike = [each for each in tensors if each.shape == x.shape]
        beside = [each for each in tensors if len(each.shape) == 4 and each.shape[2:] == x.shape[2:]]
        make = self.pick(lambda: self.conv(x), lambda: self.conv(x), lambda: self.binary(x, self.pick(*alike)),
                         lambda: self.unary(x), lambda: self.concat(x, self.pick(*beside)))
        tensors.append(make())


def network(seed, form, steps=6):
    """A random quantised model and its input."""
    net = Network(seed, form)
    shape = (1, int(net.pick(2, 3, 4)), 7, 6)
    tensors = [net.quantize("x", shape, 0.03)]
    for _ in range(steps):
        net.step(tensors)
    last = net.gemm(tensors[-1])
    outputs = [net.dequantize(last), last.name]
    kind = TensorProto.UINT8 if net.dtype == "uint8" else TensorProto.INT8
    graph = helper.make_graph(
        net.nodes, "quantised", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, each, last.shape) for name, each in
         zip(outputs, (TensorProto.FLOAT, kind), strict=True)], net.constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIBUTED, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), {
        "x": (net.rare.choice([1, 1, 8]) * net.r.normal(size=shape)).astype("f")}
