"""ONNX operators in plain layout agree with onnxruntime where kernels of ours take them: tails, borders, sizes."""

import numpy as np
import pytest

from tests.support.vm import compile_and_run, model_of, onnxruntime_run

GRAPHS = {
    "top_k_selects": "(float[3,1000] x) => (float[3,10] y, int64[3,10] i) <int64[1] k = {10}> { y, i = TopK(x, k) }",
    "top_k_sorts": "(float[3,1000] x) => (float[3,70] y, int64[3,70] i) <int64[1] k = {70}> "
                   "{ y, i = TopK<largest=0>(x, k) }",
    "top_k_of_an_inner_axis": "(float[4,50,3] x) => (float[4,50,3] y, int64[4,50,3] i) <int64[1] k = {50}> "
                              "{ y, i = TopK<axis=1>(x, k) }",
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", GRAPHS)
def test_operator(name, threads):
    model = model_of('<ir_version: 8, opset_import: ["": 20]> g ' + GRAPHS[name])
    rng = np.random.default_rng(0)
    feeds = {value.name: np.round(rng.standard_normal(tuple(value.shape), "f4"), 2) for value in model.graph.inputs
             if value.const_value is None}  # rounded, so that ties occur
    results = compile_and_run(model, feeds, threads=threads)
    for got, expected in zip(results, onnxruntime_run(model, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
