"""The references of sparsec's operators: activations equal ONNX's, schemas infer what the references return."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsec.errors import ModelError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.operators.epilogue import ACTIVATIONS
from sparsec.graph.reader import load
from sparsec.graph.shapes import static_shape
from tests.support.texts import model

ONNX_ACTIVATIONS = {
    "none": "y = Identity(x)",
    "relu": "y = Relu(x)",
    "clip": "y = Clip(x, low, high)",
    "leaky_relu": "y = LeakyRelu<alpha=-0.5>(x)",
    "hard_sigmoid": "y = HardSigmoid<alpha=-0.5, beta=0.75>(x)",
    "hard_swish": "y = HardSwish(x)",
    "sigmoid": "y = Sigmoid(x)",
    "silu": "s = Sigmoid(x) y = Mul(x, s)",
    "tanh": "y = Tanh(x)",
    "gelu_erf": "y = Gelu(x)",
    "gelu_tanh": 'y = Gelu<approximate="tanh">(x)',
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_onnx(name):
    proto = model(f"g (float[9] x) => (float[9] y) <float low, float high> {{ {ONNX_ACTIVATIONS[name]} }}", 20,
                  low=-0.5, high=0.75)
    x = np.float32([-100, -3.5, -1, -0.25, 0, 0.25, 1, 3.5, 100])
    expected = run_onnxruntime(proto, {"x": x})[0]
    assert relative_error(ACTIVATIONS[name](x, -0.5, 0.75), expected) < 1e-6


CONV = """g (float[2,4,9,7] x, float[2,6,5,7] r) => (float[n,m,h,w] y) <float[6,2,3,3] weight, float[6] b>
    {{ y = sparsec.Conv<strides=[2,1], pads=[1,0,2,2], group={group}, activation="relu">(x, weight, {rest}) }}"""
LINEAR = """g (float[2,5,4] x, float[2,5,3] r) => (float[n,m,h] y) <float[3,{k}] weight, float[3] b>
    {{ y = sparsec.MatMul(x, weight, {rest}) }}"""
LEFT = """g (float[2,5,4] x) => (float[n,m,h] y) <float[3,5] weight, float[3] b>
    { y = sparsec.MatMul<side="left", activation="tanh">(x, weight, b) }"""
ATTENTION = """g (float[2,5,{q}] q, float[2,7,8] k, float[2,7,8] v) => (float[n,m,h] y) <float[{mask}] mask>
    {{ y = sparsec.Attention<heads=2, scale=0.5>(q, k, v, mask) }}"""
REFORMAT = "g (float[2,5] x) => (float[n,m] y) { y = sparsec.Reformat(x) }"
QCONV = """g (uint8[2,4,9,7] x, int8[2,6,5,7] r) => (int8[n,m,h,w] y)
    <int8[6,2,3,3] w, float[6] s, int8[6] z, int32[6] b>
    {{ y = sparsec.QConv<strides=[2,1], pads=[1,0,2,2], group={group}, y_type="int8">(x, w, s, z, b, , r) }}"""
QMATMUL = """g (uint8[2,5,4] x, float v, uint8 zero) => (float[n,m,h] y) <int8[3,{k}] w, float[3] s, float[3] c>
    {{ y = sparsec.QMatMul<y_type="{kind}">(x, w, s, , , c, , v, zero) }}"""
QBATCH = """g (uint8[2,5,{k}] x, int8[2,4,3] r) => (uint8[n,m,h] y)
    {{ y = sparsec.QBatchMatMul<a_scale=0.5, b_zero_point=3>(x, r) }}"""
QBINARY = """g (uint8[2,5,4] x, int8[5,1] r) => (int8[n,m,h] y)
    {{ y = sparsec.QBinary<function="{function}", y_type="int8">(x, r) }}"""
QPOOL = """g (uint8[1,2,9,7] x) => (uint8[n,m,h,w] y)
    {{ y = sparsec.QAveragePool<kernel_shape={kernel}, pads=[1,0,1,1], strides=[2,1]>(x) }}"""
LOOKUP = "g (int8[2,5] x) => (float[n,m] y) <float[{entries}] t> {{ y = sparsec.Lookup(x, t) }}"
SCALED = """g (float[2,3,4,5] x, float[2,1,4,{width}] z) => (float[n,m,h,w] y) <float[4] s, float[4] b>
    {{ y = sparsec.ScaledConcat<activation="relu">(s, b, x, z) }}"""
RECURRENCE = """g (float[5,2,{gates}] x, float[2,3] h, int32[2] l) => (float[n,m,k] y) <float[12,3] w, float[9] p>
    {{ y = sparsec.Recurrence<cell="{cell}", activations="sigmoid tanh tanh", reverse=1>(x, w, , h, , l, p) }}"""
VALID = {
    "Recurrence": RECURRENCE.format(gates=12, cell="LSTM"),
    "QConv": QCONV.format(group=2),
    "QMatMul": QMATMUL.format(k=4, kind="float32"),
    "QBatchMatMul": QBATCH.format(k=4),
    "QBinary": QBINARY.format(function="sub"),
    "QAveragePool": QPOOL.format(kernel="[3,2]"),
    "Lookup": LOOKUP.format(entries=256),
    "Conv": CONV.format(group=2, rest="b, r"),
    "Conv without bias": CONV.format(group=2, rest=", r"),
    "MatMul right": LINEAR.format(k=4, rest="b, r"),
    "MatMul left": LEFT,
    "Attention": ATTENTION.format(q=8, mask="2,1,1,7"),
    "Reformat": REFORMAT,
    "ScaledConcat": SCALED.format(width=5),
}
INVALID = {
    "images of other sizes": SCALED.format(width=4),
    "gates of another cell": RECURRENCE.format(gates=12, cell="GRU"),
    "gates of another width": RECURRENCE.format(gates=9, cell="LSTM"),
    "quantised groups do not divide": QCONV.format(group=4),
    "quantised scales of another size": QCONV.format(group=2).replace("float[6] s", "float[5] s"),
    "quantised inner dimensions differ": QMATMUL.format(k=5, kind="float32"),
    "codes with a scale of run time": QMATMUL.format(k=4, kind="uint8"),
    "inner dimensions of codes differ": QBATCH.format(k=3),
    "no such function": QBINARY.format(function="div"),
    "window of another rank": QPOOL.format(kernel="[3]"),
    "table of another size": LOOKUP.format(entries=255),
    "groups do not divide": CONV.format(group=4, rest="b, r"),
    "bias of another size": CONV.format(group=2, rest="b, r").replace("float[6] b", "float[5] b"),
    "residual of another shape": LINEAR.format(k=4, rest="b, r").replace("float[2,5,3] r", "float[1,5,3] r"),
    "inner dimensions differ": LINEAR.format(k=5, rest="b, r"),
    "heads of different widths": ATTENTION.format(q=10, mask="2,1,1,7"),
    "mask does not broadcast": ATTENTION.format(q=8, mask="3,1,1,7"),
    "unknown attribute": LEFT.replace("activation", "actuation"),
}


@pytest.mark.parametrize("name", VALID)
def test_schemas_infer_the_shape_that_references_return(name):
    graph = load(model(VALID[name])).graph
    feeds = {value.name: np.ones(static_shape(value), value.dtype.numpy()) for value in graph.inputs}
    result = evaluate(load(model(VALID[name])), feeds)[0]
    assert (graph.outputs[0].dtype.numpy(), static_shape(graph.outputs[0])) == (result.dtype, result.shape)


@pytest.mark.parametrize("name", INVALID)
def test_nodes_that_do_not_fit_together_are_refused(name):
    with pytest.raises(ModelError, match="the model: "):
        load(model(INVALID[name]))


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_attention_equals_its_definition_head_by_head(batch, tokens, keys, heads, depth, masked):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((batch, n, heads * depth), np.float32) for n in (tokens, keys, keys))
    mask = rng.standard_normal((batch, 1, 1, keys), np.float32) if masked else np.zeros((1,), np.float32)
    declared = ",".join(map(str, mask.shape))
    graph = load(model(
        f"g (float[{batch},{tokens},{heads * depth}] q, float[{batch},{keys},{heads * depth}] k,"
        f"float[{batch},{keys},{heads * depth}] v, float[{declared}] mask) => (float[a,b,c] y)"
        f"{{ y = sparsec.Attention<heads={heads}, scale=0.25>(q, k, v, mask) }}"))
    actual = evaluate(graph, {"q": q, "k": k, "v": v, "mask": mask})[0]
    for b in range(batch):
        for h in range(heads):
            part = slice(h * depth, (h + 1) * depth)
            scores = 0.25 * q[b, :, part] @ k[b, :, part].T + mask.reshape(-1, mask.shape[-1])[min(b, len(mask) - 1)]
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            np.testing.assert_allclose(actual[b, :, part], weights @ v[b, :, part], rtol=1e-4, atol=1e-5)


def test_a_fully_masked_row_is_nan_as_in_softmax():
    proto = model(ATTENTION.format(q=8, mask="2,1,1,7"), mask=np.full((2, 1, 1, 7), -np.inf))
    ones = {"q": np.ones((2, 5, 8), np.float32), "k": np.ones((2, 7, 8), np.float32),
            "v": np.ones((2, 7, 8), np.float32)}
    assert np.isnan(evaluate(load(proto), ones)[0]).all()
