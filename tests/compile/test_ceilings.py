"""Pools with `ceil_mode` have as many windows as onnxruntime's, at fixed sizes and those that only the run tells."""

import numpy as np
import onnx
import pytest

import sparsec
from sparsec.graph.compare import run_onnxruntime

POOLS = ("MaxPool", "AveragePool")


def model(pool, height, width):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 19]> g (float[n, 2, {height}, {width}] x) => (float[n, c, i, j] y) {{'
        f"p = {pool}<kernel_shape=[2, 3], strides=[2, 3], pads=[1, 1, 1, 1], ceil_mode=1>(x) y = Relu(p) }}")


def agrees(session, height, width, of):
    x = np.random.default_rng(0).standard_normal((1, 2, height, width)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], run_onnxruntime(of, {"x": x})[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("height", [8, 9])
@pytest.mark.parametrize("width", [9, 10, 11])
def test_windows_behind_the_image_are_dropped(pool, height, width):
    fixed = model(pool, height, width)
    agrees(sparsec.InferenceSession(sparsec.compile(fixed, tune="off", dims={"n": 1})), height, width, fixed)


@pytest.mark.parametrize("pool", POOLS)
def test_sizes_that_the_run_tells_drop_them_too(pool):
    any_size = model(pool, "h", "w")
    session = sparsec.InferenceSession(sparsec.compile(any_size, tune="off"))
    for height, width in ((8, 9), (9, 10), (9, 11)):
        agrees(session, height, width, any_size)
