"""Random nodes of sparsec's operators on quantised tensors, one for every operator and seed."""

import numpy as np
from onnx import helper, numpy_helper

from sparsec.graph.operators import SCHEMAS
from sparsec.graph.reader import load

OPERATORS = [name for name in SCHEMAS if name.startswith("Q") or name == "Lookup"]


def codes(r, shape, dtype):
    """Codes, with the ends of the range among them."""
    info = np.iinfo(dtype)
    return r.integers(info.min, info.max + 1, shape).astype(dtype)


class Maker:
    """What a random node needs: element types, scales and zero points, and a spread of sums."""

    def __init__(self, seed):
        self.r = np.random.default_rng(seed)
        self.inputs, self.feeds, self.constants, self.attributes = [], {}, {}, {}

    def pick(self, *options):
        """One of these."""
        return options[self.r.integers(len(options))]

    def activation(self, letter, shape, dtype=None):
        """An input of codes, with scale and zero point as attributes."""
        dtype = dtype or self.pick("uint8", "int8")
        self.feeds[letter] = codes(self.r, shape, dtype)
        self.inputs.append(letter)
        self.quantized(letter, dtype)

    def quantized(self, letter, dtype, factor=1.0):
        """Scale and zero point of a tensor, the latter at an end of the range at times."""
        info = np.iinfo(dtype)
        self.attributes[f"{letter}_scale"] = float(np.float32(factor * self.r.uniform(0.01, 0.05)))
        zero = self.pick(info.min, info.max, self.r.integers(info.min, info.max))
        self.attributes[f"{letter}_zero_point"] = int(zero)

    def constant(self, name, array):
        """A constant input, absent where the array is None."""
        if array is not None:
            self.constants[name] = array
        self.inputs.append("" if array is None else name)

    def result(self, factor, *, y_type=None):
        """What Y is; codes may be clamped."""
        y_type = y_type or self.pick("uint8", "int8")
        self.attributes["y_type"] = y_type
        if y_type != "float32":
            self.quantized("y", y_type, factor)
            self.attributes["low"] = self.pick(-128, self.attributes["y_zero_point"])
        return y_type

    def weight(self, shape):
        """A sparse weight with the inputs behind it, up to the residual."""
        outputs, fan = shape[0], int(np.prod(shape[1:]))
        zero = self.pick(None, codes(self.r, outputs, np.int8))
        column = (0 if zero is None else zero).reshape(-1, *[1] * (len(shape) - 1)) if zero is not None else np.int8(0)
        self.constant("w", np.where(self.r.random(shape) < 0.5, column, codes(self.r, shape, np.int8)))
        self.constant("w_scale", self.r.uniform(0.001, 0.01, outputs).astype(np.float32))
        self.constant("w_zero_point", zero)
        self.constant("b", self.pick(None, self.r.integers(-20000, 20000, outputs).astype(np.int32)))
        return np.sqrt(fan)

    def epilogue(self, shape, spread, y_type):
        """The float bias of a float32 result, and a residual of either."""
        is_float = y_type == "float32"
        self.constant("c", self.pick(None, self.r.normal(size=shape[1]).astype(np.float32)) if is_float else None)
        if self.pick(True, False):
            if is_float:
                self.feeds["r"] = self.r.normal(size=shape).astype(np.float32)
                self.inputs.append("r")
            else:
                self.residual(shape)
                p_type = self.pick("uint8", "int8")
                self.quantized("p", p_type, spread)
                self.attributes["p_type"] = p_type
        if is_float:
            self.attributes["activation"] = self.pick("none", "relu", "gelu_erf", "silu")
            if self.pick(True, False):
                self.inputs += [""] * (7 - len(self.inputs)) + ["x_scale", "x_zero_point"]
                self.feeds["x_scale"] = np.float32(0.02)
                self.feeds["x_zero_point"] = codes(self.r, (), self.feeds["x"].dtype)


    def residual(self, shape):
        """Codes like the result, or a constant for each of its outputs."""
        if self.pick(True, False):
            self.activation("r", shape)
            return
        dtype = self.pick("uint8", "int8")
        self.constant("r", codes(self.r, (shape[1], *[1] * (len(shape) - 2)), dtype))
        self.quantized("r", dtype)


def _conv(m):
    group = m.pick(1, 2, 4)
    m.activation("x", (2, 4, 9, 7))
    spread = m.weight((8, 4 // group, 3, 2))
    y_type = m.result(spread, y_type=m.pick("uint8", "int8", "float32"))
    m.epilogue((2, 8, 5, 6), spread, y_type)
    m.attributes |= {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 3], "group": group}


def _matmul(m):
    m.activation("x", (5, 12))
    spread = m.weight((8, 12))
    y_type = m.result(spread, y_type=m.pick("uint8", "int8", "float32"))
    m.epilogue((5, 8), spread, y_type)


def _batch_matmul(m):
    m.activation("a", (2, 3, 5, 6))
    m.activation("b", (3, 6, 4))
    m.result(3, y_type=m.pick("uint8", "int8", "float32"))


def _attention(m):
    batch, heads, depth, keys = 2, 2, m.pick(4, 12), m.pick(7, 70)
    tokens = m.pick(keys, 5)
    for letter, length in (("q", tokens), ("k", keys), ("v", keys)):
        m.activation(letter, (batch, length, heads * depth))
    for letter in "stp":
        m.attributes[f"{letter}_type"] = m.pick("uint8", "int8")
        m.quantized(letter, m.attributes[f"{letter}_type"], 3.0 if letter in "st" else 0.2)
    if m.pick(True, False):
        m.activation("m", m.pick((batch, 1, 1, keys), (1, 1, keys), (tokens, keys)))
    else:
        m.attributes |= {f"t_{name}": m.attributes[f"s_{name}"] for name in ("type", "scale", "zero_point")}
    m.attributes["heads"] = heads
    m.result(1)


def _binary(m):
    m.activation("a", (2, 3, 4))
    m.activation("b", m.pick((2, 3, 4), (3, 1), (4,)))
    m.attributes["function"] = m.pick("add", "sub", "mul")
    m.result(1)


def _average_pool(m):
    m.activation("x", (2, 3, 7, 6))
    m.attributes |= {"kernel_shape": [3, 2], "strides": [1, 2], "pads": m.pick([0] * 4, [1, 0, 2, 1]),
                     "count_include_pad": m.pick(0, 1)}
    m.result(1, y_type=m.pick("uint8", "int8", "float32"))


def _lookup(m):
    dtype = m.pick("uint8", "int8")
    m.feeds["x"] = codes(m.r, (3, 100), dtype)
    m.inputs.append("x")
    m.constant("t", m.pick(codes(m.r, 256, np.uint8), m.r.normal(size=256).astype(np.float32)))


MAKERS = {"QAttention": _attention, "QConv": _conv, "QMatMul": _matmul, "QBatchMatMul": _batch_matmul,
          "QBinary": _binary, "QAveragePool": _average_pool, "Lookup": _lookup}


def example(operator, seed):
    """A model of one such node, as the reader returns it, and its inputs."""
    maker = Maker(seed)
    MAKERS[operator](maker)
    node = helper.make_node(operator, maker.inputs, ["y"], operator, domain="sparsec", **maker.attributes)
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
              for name, array in maker.feeds.items()]
    constants = [numpy_helper.from_array(array, name) for name, array in maker.constants.items()]
    output = helper.make_empty_tensor_value_info("y")
    proto = helper.make_model(helper.make_graph([node], "g", inputs, [output], constants), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("sparsec", 1)])
    return load(proto), maker.feeds
