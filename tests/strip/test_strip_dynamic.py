"""Dynamic quantisation reads all of its input to find a scale: units that are zero go, others stay, no code changes."""

import numpy as np
import onnx_ir as ir
import pytest

from sparsec.graph.compare import random_feeds, run_onnxruntime
from sparsec.graph.reader import load
from sparsec.passes.strip import strip
from tests.support.strip.net import Net

SIZES = (8, 16, 12, 5)


def network(seed, sign):
    """Products of dynamically quantised tensors, and how many hidden units are constant: below 0 or above."""
    net, gone = Net(seed, constants=False), 0
    x = net.input((3, SIZES[0]))
    for depth, size in enumerate(SIZES[1:]):
        codes, scale, zero = net.op("DynamicQuantizeLinear", x, outputs=3)
        dead = net.rng.random(size) < (0 if size == SIZES[-1] else 0.3)
        gone += int(dead.sum())
        weight, bias = net.random(SIZES[depth], size) * ~dead, net.random(size)
        weight, bias = net.floats(weight, np.where(dead, sign * np.abs(bias), bias))
        y = net.op("MatMul", net.op("DequantizeLinear", codes, scale, zero), weight)
        x = net.op("Relu", net.op("Add", y, bias))
    return net.model([x]), gone


@pytest.mark.parametrize("sign", [-1, 1], ids=["zero", "constant"])
@pytest.mark.parametrize("seed", range(5))
def test_units_that_are_zero_go_and_constant_ones_stay(seed, sign):
    proto, gone = network(seed, sign)
    graph = load(proto)
    feeds = random_feeds(graph)
    report = strip(graph)
    assert report.counts["units removed"] == (gone if sign < 0 else 0)
    (expected,), (actual,) = run_onnxruntime(proto, feeds), run_onnxruntime(ir.to_proto(graph), feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
