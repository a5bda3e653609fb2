"""Reshapes around linear layers: what moves, what that lets the layer absorb, and what stays."""

import numpy as np
import pytest

from sparsec.graph.compare import random_feeds
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.graph.verify import check, infer
from sparsec.passes import fuse_epilogue, lift, unflatten
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model

CONTEXT = Context(resolve("cpu-generic"))
W = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def passed(shape, flat, wide):
    """The graph behind the passes, for Reshape, MatMul, Reshape, a residual and Relu; its answers are kept."""
    graph = load(model(f"""g (float[{shape}] x, float[{wide}] r) => (float[{wide}] y)
        <int64[2] flat, int64[3] wide, float[6,4] w>
        {{ a = Reshape(x, flat) b = MatMul(a, w) c = Reshape(b, wide) d = Add(c, r) y = Relu(d) }}""", 17,
                       flat=np.array(flat), wide=np.array(list(map(int, wide.split(",")))), w=W))
    feeds = random_feeds(graph)
    (expected,) = evaluate(graph, feeds)
    for each in (lift, unflatten, fuse_epilogue):
        each.run(graph, CONTEXT)
        infer(graph, "test")
        check(graph, "test")
    np.testing.assert_allclose(evaluate(graph, feeds)[0], expected, rtol=1e-6)
    return [node.op_type for node in graph.graph]


@pytest.mark.parametrize(("shape", "flat", "wide", "left"), [
    ("2,3,6", [6, 6], "2,3,4", ["MatMul"]),
    ("6,1,6", [6, 6], "1,6,4", ["Reshape", "MatMul"]),  # the same rows, otherwise arranged
    ("2,3,6", [6, 6], "2,2,6", ["Reshape", "MatMul", "Reshape", "Add", "Relu"])])  # outputs fall apart
def test_reshapes_move_in_front(shape, flat, wide, left):
    assert passed(shape, flat, wide) == left
