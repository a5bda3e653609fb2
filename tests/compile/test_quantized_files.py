"""Quantised files as other tools write them, and onnxruntime's own operators: compiled results are onnxruntime's."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsec
from sparsec.graph import ort
from sparsec.passes.quantized import WRITERS
from tests.support.quantized import network

FLOAT = TensorProto.FLOAT
R = np.random.default_rng(0)
LIMITS = {"dynamic": 1e-2, "MatMulNBits": 2e-2, "int4": 2e-2, "DynamicQuantizeLSTM": 2e-2, "Keras": 2e-2, "int16": 1e-3,
          "uint16": 1e-3}
"""Where onnxruntime quantises activations although the operator does not say so, or a step of rounding shows."""


def model(nodes, feeds, constants, *, opset=21):
    """A model with every feed as an input, and the last node's first output as onnxruntime gives it."""
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
              for name, array in feeds.items()]
    initializers = [value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
                    for name, value in constants.items()]
    output = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    graph = helper.make_graph(nodes, "g", inputs, [output], initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    result, = ort.session(proto).run(None, feeds)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(
        output.name, helper.np_dtype_to_tensor_dtype(result.dtype), result.shape))
    return proto


def node(op_type, inputs, outputs="y", domain="", **attributes):
    """A node of space-separated names."""
    return helper.make_node(op_type, inputs.split(" "), outputs.split(" "), domain=domain, **attributes)


def own(op_type, inputs, outputs="y", **attributes):
    """A node of onnxruntime's domain."""
    return node(op_type, inputs, outputs, domain="com.microsoft", **attributes)


def floats(*shape, scale=1.0):
    """Normal float32 numbers."""
    return (scale * R.standard_normal(shape)).astype(np.float32)


def small(*shape):
    """Scales."""
    return R.uniform(0.01, 0.02, shape).astype(np.float32)


def codes(dtype, *shape):
    """Codes of the whole range."""
    info = np.iinfo(dtype)
    return R.integers(info.min, info.max + 1, shape).astype(dtype)


def four_bits(name, array, kind=TensorProto.INT4):
    """A tensor of 4-bit codes."""
    return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())


def scalar(value, dtype=np.float32):
    """A scalar constant."""
    return np.array(value, dtype)


def _nbits(bits, *, zeros):
    k, n, block = 64, 12, 32
    packed = codes(np.uint8, n, k // block, block * bits // 8)
    constants = {"w": packed, "s": small(n * k // block)}
    if zeros:
        constants["z"] = codes(np.uint8, n, -(-(k // block) * bits // 8)).reshape(-1)
    return (model([own("MatMulNBits", " ".join(["x", *constants]), K=k, N=n, bits=bits, block_size=block)],
                  {"x": floats(5, k)}, constants), {"x": floats(5, k)})


def _softmax():
    x = codes(np.uint8, 3, 20)
    constants = {"xs": scalar(0.05), "xz": scalar(130, np.uint8), "ys": scalar(1 / 256), "yz": scalar(0, np.uint8)}
    return model([own("QLinearSoftmax", "x xs xz ys yz", axis=-1, opset=13)], {"x": x}, constants), {"x": x}


def _average_pool():
    x = codes(np.uint8, 1, 4, 9, 9)
    constants = {"xs": scalar(0.05), "xz": scalar(120, np.uint8), "ys": scalar(0.03), "yz": scalar(100, np.uint8)}
    pool = own("QLinearAveragePool", "x xs xz ys yz", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return model([pool], {"x": x}, constants), {"x": x}


def _channels_last(operator, **attributes):
    x = codes(np.uint8, 1, 9, 9, 4)
    constants = {"xs": scalar(0.05), "xz": scalar(120, np.uint8)}
    if operator == "QLinearConv":
        constants |= {"w": codes(np.int8, 6, 4, 3, 3), "ws": small(6), "wz": np.zeros(6, np.int8)}
    constants |= {"ys": scalar(0.03), "yz": scalar(100, np.uint8)}
    return model([own(operator, " ".join(["x", *constants]), channels_last=1, **attributes)], {"x": x}, constants), {
        "x": x}


def _where():
    x, chosen = codes(np.uint8, 4, 6), R.random((4, 6)) < 0.5
    constants = {"xs": scalar(0.05), "xz": scalar(120, np.uint8), "other": codes(np.uint8, 6), "os": scalar(0.02),
                 "oz": scalar(7, np.uint8), "ys": scalar(0.03), "yz": scalar(100, np.uint8)}
    return (model([own("QLinearWhere", "c x xs xz other os oz ys yz")], {"c": chosen, "x": x}, constants),
            {"c": chosen, "x": x})


def _bitsandbytes(kind):
    constants = {"w": codes(np.uint8, 128), "s": small(8)}
    return (model([own("MatMulBnb4", "x w s", K=32, N=8, block_size=32, quant_type=kind)], {"x": floats(5, 32)},
                  constants), {"x": floats(5, 32)})


def _table(bits, *, zeros):
    rows = R.integers(0, 6, (2, 3))
    constants = {"t": codes(np.uint8, 6, 32 * bits // 8), "s": small(12).reshape(6, 2)}
    if zeros:
        constants["z"] = codes(np.uint8, 6, 2 * bits // 8)
    names = " ".join(["t", "i", *[name for name in constants if name != "t"]])
    gather = own("GatherBlockQuantized", names, gather_axis=0, quantize_axis=1, block_size=16, bits=bits)
    return model([gather], {"i": rows}, constants), {"i": rows}


def _dynamic_matmul():
    x = floats(6, 20)
    constants = {"w": codes(np.int8, 20, 12), "ws": small(12), "wz": np.zeros(12, np.int8), "b": floats(12)}
    return model([own("DynamicQuantizeMatMul", "x w ws wz b")], {"x": x}, constants), {"x": x}


def _matmul_to_float():
    x = codes(np.uint8, 6, 20)
    constants = {"w": codes(np.uint8, 20, 12), "xs": scalar(0.03), "ws": scalar(0.01), "xz": scalar(130, np.uint8),
                 "wz": scalar(117, np.uint8), "b": floats(12)}
    return model([own("MatMulIntegerToFloat", "x w xs ws xz wz b")], {"x": x}, constants), {"x": x}


def _gemm(*, to_codes):
    x = codes(np.uint8, 6, 20)
    constants = {"xs": scalar(0.03), "xz": scalar(130, np.uint8), "w": codes(np.int8, 12, 20), "ws": small(12),
                 "wz": np.zeros(12, np.int8), "b": R.integers(-900, 900, 12).astype(np.int32)}
    more = {"ys": scalar(0.4), "yz": scalar(120, np.uint8)} if to_codes else {}
    names = " ".join(["x", *constants, *more])
    return model([own("QGemm", names, transB=1, alpha=0.5)], {"x": x}, {**constants, **more}), {"x": x}


def _own_codes():
    x, constants = floats(3, 8), {"s": scalar(0.02), "z": scalar(9, np.uint8)}
    return model([own("QuantizeLinear", "x s z", outputs="q"), own("DequantizeLinear", "q s z")], {"x": x},
                 constants), {"x": x}


def _wide(dtype):
    """Activations of 16-bit codes around a layer."""
    x, zero = floats(1, 3, 8, 8), np.iinfo(dtype).max // 3
    constants = {"s": scalar(2e-4), "z": scalar(zero, dtype), "w": codes(np.int8, 4, 3, 3, 3), "ws": small(4)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
             node("DequantizeLinear", "w ws", "wd", axis=0), node("Conv", "d wd", "c", pads=[1, 1, 1, 1]),
             node("QuantizeLinear", "c s z", "q2"), node("DequantizeLinear", "q2 s z", "y")]
    return model(nodes, {"x": x}, constants), {"x": x}


def _int4(*, blocked):
    x, w = floats(5, 64), R.integers(-8, 8, (64, 12))
    scales, zeros = (small(4, 12), R.integers(-8, 8, (4, 12))) if blocked else (small(12), R.integers(-8, 8, 12))
    constants = {"w": four_bits("w", w), "s": scales, "z": four_bits("z", zeros)}
    attributes = {"axis": 0, "block_size": 16} if blocked else {"axis": 1}
    return model([node("DequantizeLinear", "w s z", "d", **attributes), node("MatMul", "x d")], {"x": x},
                 constants), {"x": x}


def _blocked_activations():
    x = floats(3, 64)
    constants = {"s": small(3, 4), "z": R.integers(-10, 10, (3, 4)).astype(np.int8)}
    blocks = {"axis": 1, "block_size": 16}
    return model([node("QuantizeLinear", "x s z", "q", **blocks), node("DequantizeLinear", "q s z", **blocks)],
                 {"x": x}, constants), {"x": x}


def _keras():
    """Unsigned weights with zero points, images with their channels last, bounds of 6, a mean over pixels."""
    x = floats(1, 12, 12, 3)
    constants = {
        "xs": scalar(.02), "xz": scalar(131, np.uint8), "ws": scalar(.004), "wz": scalar(117, np.uint8),
        "vz": scalar(0, np.uint8), "lo": scalar(0), "hi": scalar(6), "as": scalar(.0235), "az": scalar(0, np.uint8),
        "cz": scalar(120, np.uint8), "ls": scalar(.02), "axes": np.array([2, 3]), "w": codes(np.uint8, 8, 3, 3, 3),
        "v": codes(np.uint8, 8, 1, 3, 3), "u": codes(np.uint8, 10, 8)}
    nodes = [node("QuantizeLinear", "x xs xz", "q"), node("DequantizeLinear", "q xs xz", "d"),
             node("Transpose", "d", "t", perm=[0, 3, 1, 2]), node("DequantizeLinear", "w ws wz", "wd"),
             node("Conv", "t wd", "c", pads=[1] * 4, strides=[2, 2]), node("Clip", "c lo hi", "r"),
             *_requantized("r", "1", "as az"), node("DequantizeLinear", "v ws vz", "vd"),
             node("Conv", "1 vd", "c2", pads=[1] * 4, group=8),
             *_requantized("c2", "2", "as cz"), node("Add", "1 2", "a"), *_requantized("a", "3", "as cz"),
             node("ReduceMean", "3 axes", "m", keepdims=0), *_requantized("m", "4", "as cz"),
             node("DequantizeLinear", "u ws wz", "ud"), node("Gemm", "4 ud", "l", transB=1),
             *_requantized("l", "5", "ls cz"), node("Softmax", "5")]
    return model(nodes, {"x": x}, constants), {"x": x}


def _requantized(source, target, parameters):
    """Codes of a tensor, and what they stand for."""
    return (node("QuantizeLinear", f"{source} {parameters}", f"{target}q"),
            node("DequantizeLinear", f"{target}q {parameters}", target))


def _lstm(*, by_output):
    hidden, width, x = 8, 6, floats(5, 2, 6)
    axis = (1, 4 * hidden) if by_output else (1,)
    constants = {"w": codes(np.uint8, 1, width, 4 * hidden), "r": codes(np.uint8, 1, hidden, 4 * hidden),
                 "b": floats(1, 8 * hidden, scale=0.1), "ws": small(*axis) / 4, "wz": np.full(axis, 128, np.uint8),
                 "rs": small(*axis) / 4, "rz": np.full(axis, 128, np.uint8)}
    return model([own("DynamicQuantizeLSTM", "x w r b     ws wz rs rz", hidden_size=hidden)], {"x": x},
                 constants, opset=17), {"x": x}


def _attention():
    """As onnxruntime's dynamic quantisation leaves an optimised BERT, with a key that nothing may look at."""
    x, mask = codes(np.uint8, 2, 5, 16), np.ones((2, 5), np.int32)
    mask[1, 4] = 0
    constants = {"w": codes(np.int8, 16, 48), "b": floats(48), "xs": scalar(0.01), "ws": small(48) / 4, "m": mask,
                 "xz": scalar(120, np.uint8), "wz": np.zeros(48, np.int8)}
    return model([own("QAttention", "x w b xs ws m xz wz", num_heads=4)], {"x": x}, constants), {"x": x}


def _embeddings():
    tables = {"words": (20, 8), "places": (6, 8), "kinds": (2, 8), "gamma": (8,), "beta": (8,)}
    constants = {name: codes(np.uint8, *shape) for name, shape in tables.items()}
    for name in tables:
        constants |= {f"{name}_s": scalar(0.02), f"{name}_z": scalar(128, np.uint8)}
    names = ["ids", "types", *tables, "", *(f"{name}_{end}" for end in "sz" for name in tables)]
    feeds = {"ids": R.integers(0, 20, (2, 5)).astype(np.int32), "types": R.integers(0, 2, (2, 5)).astype(np.int32)}
    return model([helper.make_node("QEmbedLayerNormalization", names, ["y", "mask"], domain="com.microsoft")], feeds,
                 constants), feeds


def _dynamic_convolutions():
    """Padding and a stride, an image of zeros beside one of numbers, and a result that no codes are made of."""
    x = np.concatenate([floats(1, 3, 9, 21), np.zeros((1, 3, 9, 21), np.float32)])
    constants = {"w": codes(np.int8, 8, 3, 3, 3), "v": codes(np.int8, 8, 1, 3, 3), "ws": scalar(.01),
                 "b": floats(8, 1, 1)}
    nodes = [*_dynamic("x", "1", "w", pads=[1] * 4), node("Add", "1 b", "2"), node("Relu", "2", "3"),
             *_dynamic("3", "4", "v", pads=[1] * 4, strides=[2, 2], group=8)]
    return model(nodes, {"x": x}, constants), {"x": x}


def _dynamic(source, target, weight, **attributes):
    """A convolution of integers as onnxruntime quantises it dynamically."""
    return (node("DynamicQuantizeLinear", source, f"{target}q {target}s {target}z"),
            node("ConvInteger", f"{target}q {weight} {target}z", f"{target}i", **attributes),
            node("Cast", f"{target}i", f"{target}f", to=FLOAT), node("Mul", f"{target}s ws", f"{target}m"),
            node("Mul", f"{target}f {target}m", target))


def _four_bit_layer():
    """Weights of 4 bits by output, between tensors of codes."""
    x, weight = floats(1, 6, 9, 9), R.integers(-8, 8, (12, 6, 3, 3)) * (R.random((12, 6, 3, 3)) < 0.3)
    constants = {"xs": scalar(.02), "xz": scalar(125, np.uint8), "w": four_bits("w", weight), "ws": small(12)}
    nodes = [*_requantized("x", "1", "xs xz"), node("DequantizeLinear", "w ws", "wd", axis=0),
             node("Conv", "1 wd", "c", pads=[1] * 4), node("QuantizeLinear", "c xs xz")]
    return model(nodes, {"x": x}, constants), {"x": x}


def _clipped():
    """As Brevitas exports layers: codes of weights and of activations are clipped to a part of their type."""
    x = floats(16, 40)
    constants = {"xs": scalar(.5), "xz": scalar(0, np.int8), "low": scalar(-7, np.int8), "high": scalar(7, np.int8),
                 "w": floats(40, 24, scale=0.1), "ws": scalar(.003), "wz": scalar(0, np.int8),
                 "first": scalar(-127, np.int8), "last": scalar(127, np.int8), "b": floats(24)}
    nodes = [*_clipping("x", "1", "xs xz", "low high"), *_clipping("w", "2", "ws wz", "first last"),
             node("MatMul", "1 2", "3"), node("Add", "3 b", "4"), node("Relu", "4", "5"),
             node("QuantizeLinear", "5 xs xz", "6"), node("Clip", "6 low high")]
    return model(nodes, {"x": x}, constants), {"x": x}


def _clipping(source, target, parameters, bounds):
    return (node("QuantizeLinear", f"{source} {parameters}", f"{target}q"),
            node("Clip", f"{target}q {bounds}", f"{target}c"),
            node("DequantizeLinear", f"{target}c {parameters}", target))


FILES = {
    "Brevitas": _clipped, "four bits": _four_bit_layer,
    "dynamic convolutions": _dynamic_convolutions,
    "QAttention": _attention, "QEmbedLayerNormalization": _embeddings,
    "MatMulNBits": lambda: _nbits(4, zeros=True), "MatMulNBits 8": lambda: _nbits(8, zeros=False),
    "QLinearConv, channels last": lambda: _channels_last("QLinearConv", pads=[1, 1, 1, 1], strides=[2, 2]),
    "QLinearAveragePool, channels last": lambda: _channels_last("QLinearAveragePool", kernel_shape=[3, 3]),
    "QLinearWhere": _where, "MatMulBnb4": lambda: _bitsandbytes(1), "MatMulBnb4 of FP4": lambda: _bitsandbytes(0),
    "GatherBlockQuantized": lambda: _table(4, zeros=True), "GatherBlockQuantized 8": lambda: _table(8, zeros=False),
    "QLinearSoftmax": _softmax, "QLinearAveragePool": _average_pool, "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _matmul_to_float, "uint16": lambda: _wide(np.uint16), "int16": lambda: _wide(np.int16),
    "int4": lambda: _int4(blocked=False), "int4 by block": lambda: _int4(blocked=True),
    "activations by block": _blocked_activations, "Keras": _keras,
    "QGemm": lambda: _gemm(to_codes=True), "QGemm to floats": lambda: _gemm(to_codes=False),
    "onnxruntime's QuantizeLinear": _own_codes, "DynamicQuantizeLSTM": lambda: _lstm(by_output=False),
    "DynamicQuantizeLSTM by output": lambda: _lstm(by_output=True),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_tools_are_compiled_right(name):
    proto, feeds = FILES[name]()
    artifact = sparsec.compile(proto, tune="off")
    actual, = sparsec.InferenceSession(artifact).run(None, feeds)
    expected, = ort.session(proto).run(None, feeds)
    assert actual.dtype == expected.dtype
    if actual.dtype.kind in "iu":
        assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1
        return
    limit = LIMITS.get(name.split(" ")[0], 1e-5)
    assert np.abs(actual - expected).max() <= limit * np.abs(expected).max()


def test_every_quantised_operator_of_onnxruntime_is_met():
    files = {node.op_type for make in FILES.values() for node in make()[0].graph.node}
    graphs = {node.op_type for seed in range(24) for node in network(seed, "qoperator")[0].graph.node}
    assert files | graphs >= {name for domain, name in WRITERS if domain == "com.microsoft"}


@pytest.mark.parametrize(("name", "operator"), [("four bits", "QConv"), ("Brevitas", "QMatMul")])
def test_narrow_codes_multiply_as_integers(name, operator):
    proto, _ = FILES[name]()
    layer, = sparsec.compile(proto, tune="off").report["layers"]
    assert layer["operator"] == operator


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2])
def test_float8_computes_in_float32_with_sparse_weights(kind):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    kept = R.random((40, 24)) < 0.1
    weight, x = (np.where(kept, floats(40, 24), 0).astype(dtype), floats(70, 40))
    constants = {"w": numpy_helper.from_array(weight, "w"), "ws": small(24), "s": np.float32(0.5),
                 "z": numpy_helper.from_array(np.zeros((), dtype), "z")}
    proto = model([node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
                   node("DequantizeLinear", "w ws", "v", axis=1), node("MatMul", "d v")], {"x": x}, constants)
    artifact = sparsec.compile(proto, tune="off")
    y, = sparsec.InferenceSession(artifact).run(None, {"x": x})
    rounded = (x / np.float32(0.5)).astype(dtype).astype(np.float32) * np.float32(0.5)
    np.testing.assert_allclose(y, rounded @ (weight.astype(np.float32) * constants["ws"]), rtol=1e-4, atol=1e-5)
    layer, = artifact.report["layers"]
    assert layer["nonzeros"] == np.count_nonzero(weight.astype(np.float32))
    assert "float32" in artifact.report["outside"][0]["reason"]


@pytest.mark.parametrize("window", [
    {"kernel_shape": [2, 2], "strides": [2, 2]}, {"kernel_shape": [3, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}])
def test_means_of_windows_stay_on_codes(window):
    x, constants = codes(np.uint8, 1, 6, 11, 12), {"s": np.float32(0.02), "z": np.uint8(7), "t": np.float32(0.03)}
    proto = model([own("QLinearAveragePool", "x s z t z", **window)], {"x": x}, constants)
    artifact = sparsec.compile(proto, tune="off")
    y, = sparsec.InferenceSession(artifact).run(None, {"x": x})
    expected, = ort.session(proto).run(None, {"x": x})
    assert np.abs(y.astype(int) - expected.astype(int)).max() <= 1
    assert artifact.report["verification"]["steps"]["further"] == {}
