"""Models of 16-bit floats: their types outside, float32 inside, no sum that overflows."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sparsec
from sparsec.graph import ort
from tests.support.texts import model

TEXT = """g (float[2,64] x) => (float[2,8] y, float[2] mean) <float[64,8] w, float[8] b> {
    p = MatMul(x, w) q = Add(p, b) y = Relu(q) mean = ReduceSum<keepdims=0>(x, axes) }"""
TYPES = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


def halved(dtype):
    """The model with every float in 16 bits."""
    proto = model(TEXT.replace("<float[64,8] w", "<int64[1] axes, float[64,8] w"), axes=[1])
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TYPES[dtype]
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(getattr(ml_dtypes, dtype, dtype))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


@pytest.mark.parametrize("dtype", TYPES)
def test_types_stay_and_sums_are_float32(dtype):
    proto = halved(dtype)
    artifact = sparsec.compile(proto, tune="off")
    assert artifact.report["verification"]["widened"]
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = np.full((2, 64), 1000, kind)
    x[:, ::2] = 2000  # the sum, 96,000, is beyond float16; bfloat16 would lose most addends
    y, total = sparsec.InferenceSession(artifact).run(None, {"x": x})
    assert (y.dtype, total.dtype) == (kind, kind)
    w, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in proto.graph.initializer
            if tensor.name in ("w", "b"))
    exact = np.maximum(x.astype(np.float64) @ w + b, 0)
    np.testing.assert_allclose(y.astype(np.float64), exact, rtol=2.0**-8, atol=1)
    np.testing.assert_array_equal(total, x.astype(np.float64).sum(axis=1).astype(kind))


BODIES = {"there and back": "h = Cast<to={to}>(x) y = Cast<to=1>(h)",
          "moved": "h = Cast<to={to}>(x) t = Transpose(h) f = Cast<to=1>(t) y = Transpose(f)",
          "computed": "m = Mul(x, x) h = Cast<to={to}>(m) f = Cast<to=1>(h) y = Sub(m, f)",
          "of both types": "h = Cast<to=10>(x) b = Cast<to=16>(h) y = Cast<to=1>(b)"}


@pytest.mark.parametrize("rows", [4, "N"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_cast_to_16_bits_and_back_is_rounded(dtype, body, rows):
    text = f"g (float[{rows},32] x) => (float[{rows},32] y) {{ {BODIES[body].format(to=TYPES[dtype])} }}"
    proto = model(text)
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    found, = sparsec.InferenceSession(sparsec.compile(proto, tune="off")).run(None, {"x": x})
    expected, = ort.session(proto).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected)
    assert np.any(found != x)
