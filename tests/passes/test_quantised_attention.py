"""Attention of a file whose every step is quantised becomes one operator with the file's codes."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsec.compiler.pipeline import run_passes
from sparsec.graph.reader import load
from sparsec.graph.steps import compare_steps
from sparsec.passes.context import Context
from sparsec.target import resolve

TOKENS, HEADS, DEPTH = 9, 2, 8
WIDTH = HEADS * DEPTH


class File:
    """A QDQ file under construction."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def put(self, operator, *inputs, **attributes):
        self.count += 1
        self.nodes.append(helper.make_node(operator, inputs, [f"v{self.count}"], **attributes))
        return f"v{self.count}"

    def constant(self, array):
        self.count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"c{self.count}"))
        return f"c{self.count}"

    def coded(self, value, scale, zero=128):
        means = [self.constant(np.float32(scale)), self.constant(np.uint8(zero))]
        return self.put("DequantizeLinear", self.put("QuantizeLinear", value, *means), *means)

    def heads(self, value, perm):
        shape = self.constant(np.array([1, TOKENS, HEADS, DEPTH]))
        return self.coded(self.put("Transpose", self.coded(self.put("Reshape", value, shape), 0.03), perm=perm), 0.03)


def attention(factor, *, masked, kept):
    """A factor on the scores, whose codes are the product's where that is `kept`; a mask of codes or none."""
    f = File()
    q, k, v = (f.heads(f.coded(name, 0.03), perm) for name, perm in
               (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])))
    scores = f.coded(f.put("MatMul", q, k), 0.1)
    scores = f.coded(f.put("Mul", scores, f.constant(np.float32(factor))), 0.1 * factor * (1 if kept else 0.9))
    if masked:
        mask = f.coded(f.constant(np.where(np.arange(TOKENS) < 6, 0, -4).astype(np.float32)[None, None, None]), 0.04)
        scores = f.coded(f.put("Add", scores, mask), 0.05)
    weights = f.coded(f.put("Softmax", scores, axis=-1), 1 / 255, 0)
    mixed = f.coded(f.put("MatMul", weights, v), 0.02)
    merged = f.coded(f.put("Transpose", mixed, perm=[0, 2, 1, 3]), 0.02)
    f.put("Relu", f.coded(f.put("Reshape", merged, f.constant(np.array([1, TOKENS, WIDTH]))), 0.02))
    f.nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, TOKENS, WIDTH]) for name in "qkvy"]
    graph = helper.make_graph(f.nodes, "g", ends[:3], ends[3:], f.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("factor", "kept"), [(1.0, True), (0.25, True), (0.25, False), (0.3, True), (2.0, True)])
def test_a_factor_on_the_scores_counts(factor, kept, masked):
    proto = attention(factor, masked=masked, kept=kept)
    rng = np.random.default_rng(0)
    feeds = {name: 2 * rng.standard_normal((1, TOKENS, WIDTH)).astype(np.float32) for name in "qkv"}
    graph = load(proto)
    run_passes(graph, Context(resolve("cpu-generic")))
    if kept:
        assert "QAttention" in {node.op_type for node in graph.graph}
    steps = compare_steps(proto, graph, feeds)
    assert steps.tensors
    assert steps.further == {}
