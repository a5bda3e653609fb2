"""Normalisations of rows far from zero keep the digits that float32 has, and sums of halves have room."""

import numpy as np
import pytest
from onnx import helper

from tests.numbers.references import run_ours
from tests.support.texts import model

EPSILON = 1e-12
TINY = "epsilon=0.000000000001"
NORMS = {
    "layer": f"g (float[5,256] x) => (float[5,256] y) <float[256] g, float[256] b> "
             f"{{ y = LayerNormalization<{TINY}>(x, g, b) }}",
    "instance": f"g (float[1,5,256] x) => (float[1,5,256] y) <float[5] g, float[5] b> "
             f"{{ y = InstanceNormalization<{TINY}>(x, g, b) }}",
    "group": f"g (float[5,1,256] x) => (float[5,1,256] y) <float[1] g, float[1] b> "
             f"{{ y = GroupNormalization<{TINY}, num_groups=1>(x, g, b) }}",
    "batch": f"g (float[1,5,256] x, float[5] m, float[5] v) => (float[1,5,256] y, float[5] p, float[5] q) "
             f"<float[5] g, float[5] b> "
             f"{{ y, p, q = BatchNormalization<{TINY}, training_mode=1>(x, g, b, m, v) }}",
}


def rows():
    rng = np.random.default_rng(0)
    x = np.stack([np.full(256, 1234.0), np.full(256, 1234.0), 1e4 + rng.normal(0, 0.01, 256), rng.normal(size=256),
                  np.zeros(256)])
    x[1, 17] = 1234.01
    return x.astype(np.float32)


@pytest.mark.parametrize("name", NORMS)
def test_large_constant_rows_lose_no_precision(name):
    opset = 21 if name == "group" else 20
    text, count = NORMS[name], {"layer": 256, "group": 1}.get(name, 5)
    shape = (5, 1, 256) if name == "group" else (5, 256) if name == "layer" else (1, 5, 256)
    proto = model(text, opset, g=np.ones(count), b=np.zeros(count))
    x = rows()
    d = x.astype(np.float64) - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    expected = (d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + EPSILON)).reshape(shape)
    feeds = {"x": x.reshape(shape)}
    if name == "batch":
        feeds |= {"m": np.zeros(5, np.float32), "v": np.ones(5, np.float32)}
    np.testing.assert_allclose(run_ours(proto, feeds)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceL2", "ReduceLogSumExp", "GlobalAveragePool", "Softmax"])
def test_sums_of_halves_do_not_overflow(operator):
    x = (20 + np.random.default_rng(0).normal(size=(1, 2, 96, 96))).astype(np.float16)
    inputs = ["x", "axes"] if operator.startswith("Reduce") else ["x"]
    shape = (1, 2, 96, 96) if operator == "Softmax" else (1, 2, 1, 1)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"])], "g", [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [helper.make_tensor("axes", 7, [2], [2, 3])][:len(inputs) - 1])
    result = run_ours(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), {"x": x})[0]
    wide = x.astype(np.float64)
    expected = {"ReduceMean": wide.mean, "GlobalAveragePool": wide.mean,
                "ReduceL2": lambda axes, keepdims: np.sqrt((wide**2).sum(axes, keepdims=keepdims)),
                "ReduceLogSumExp": lambda axes, keepdims: np.log(np.exp(wide).sum(axes, keepdims=keepdims)),
                "Softmax": lambda *_, **__: np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)}[operator]
    np.testing.assert_allclose(result, expected((2, 3), keepdims=True), rtol=1e-3, atol=1e-6)
