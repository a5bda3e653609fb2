"""Rows computed one by one are those of the whole batch, and graphs that mix rows are refused with a reason."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings

from sparsec.analysis.batch import Rows, rows_of, with_rows
from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime, split_samples
from sparsec.graph.reader import load
from sparsec.graph.shapes import static_shape
from tests.support.graphs import GRAPHS
from tests.support.random_graphs import networks
from tests.support.texts import model

PROFILE = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def batch(nodes, weights="", x="float[4,6,2]", more="", **arrays):
    return load(model(f"g ({x} x{more}) => (float[k] y) <{weights}> {{ {nodes} }}", **arrays))


def run(graph, feeds):
    return run_onnxruntime(ir.to_proto(graph), feeds)


def check_parts(whole):
    """The outputs part by part, for every share of the rows."""
    feeds, count = random_feeds(whole), rows_of(whole.graph).count
    expected = run(whole, feeds)
    for share in (share for share in range(1, count) if count % share == 0):
        part = with_rows(whole, share)
        assert {static_shape(value)[0] for value in (*part.graph.inputs, *part.graph.outputs)} == {share}
        results = [run(part, each) for each in split_samples(part, feeds)]
        for found, wanted in zip(zip(*results, strict=True), expected, strict=True):
            assert relative_error(np.concatenate(found), wanted) < 1e-5


@PROFILE
@given(networks())
def test_random_networks_row_by_row(proto):
    whole = load(proto)
    rows = rows_of(whole.graph)
    assume(isinstance(rows, Rows) and rows.count > 1)
    check_parts(whole)


@pytest.mark.parametrize("name", GRAPHS)
def test_small_graphs_row_by_row(name):
    whole = load(GRAPHS[name])
    rows = rows_of(whole.graph)
    if isinstance(rows, str):
        assert ": " in rows or "inputs" in rows
        return
    check_parts(whole)


EQUAL = np.broadcast_to(np.arange(6, dtype=np.float32), (4, 6))
APART = {
    "matmul": batch("y = MatMul(x, w)", "float[2,3] w"),
    "weight on the left": batch("y = MatMul(w, x)", "float[3,6] w"),
    "product of two with rows": batch("t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)"),
    "a reshape with the batch written in": batch("y = Reshape(x, s)", "int64[2] s", s=[4, 12]),
    "a reshape with zero": batch("y = Reshape(x, s)", "int64[2] s", s=[0, -1]),
    "flatten": batch("y = Flatten(x)"),
    "the batch of an expansion": batch("u = Unsqueeze(x, a) y = Expand(u, s)", "int64[1] a, int64[4] s", a=[3],
                                       s=[4, 6, 2, 5]),
    "a constant of equal rows": batch("y = Add(x, c)", "float[4,6,1] c", c=EQUAL),
    "equal rows joined": batch("y = Concat<axis=2>(x, c)", "float[4,6,1] c", c=EQUAL),
    "softmax over tokens": batch("y = Softmax<axis=1>(x)"),
    "layer norm": batch("y = LayerNormalization(x, w)", "float[2] w"),
    "mean of tokens": batch("y = ReduceMean<axes=[1], keepdims=0>(x)"),
    "halves of tokens": batch("a, b = Split<axis=1>(x) y = Sub(a, b)"),
    "one token": batch("y = Gather<axis=1>(x, i)", "int64 i", i=0),
    "embedding": batch("y = Gather(w, x)", "float[2,5] w", x="int64[4,6]"),
    "two inputs": batch("y = Add(x, z)", more=", float[4,1,2] z"),
    "a square": batch("y = Mul(x, x)"),
}
MIXED = {
    "softmax over rows": (batch("y = Softmax<axis=0>(x)"), "Softmax .*: it mixes rows"),
    "a folded batch": (batch("y = Reshape(x, s)", "int64[2] s", s=[24, 2]), "Reshape .*: .* first axis is not"),
    "a batch folded and back": (batch("r = Reshape(x, s) y = Reshape(r, t)", "int64[2] s, int64[3] t", s=[24, 2],
                                      t=[4, 6, 2]), "Reshape"),
    "product across the batch": (batch("t = Transpose(x) y = MatMul(x, t)", x="float[4,6]"), "Transpose"),
    "a square of rows": (batch("y = MatMul(x, x)", x="float[4,4]"), "it reads a value twice"),
    "contraction over rows": (batch("y = MatMul(w, x)", "float[3,4] w", x="float[4,6]"), "MatMul"),
    "turned": (batch("y = Transpose<perm=[1,0]>(x)", x="float[4,4]"), "Transpose .*: it mixes rows"),
    "a constant for each row": (batch("y = Add(x, c)", "float[4,1,1] c"), "input 1 differs from row to row"),
    "rows joined": (batch("y = Concat<axis=0>(x, x)"), "Concat"),
    "rows in another order": (batch("y = Gather(x, i)", "int64[4] i", i=[3, 2, 1, 0]), "Gather .*: it mixes rows"),
    "some rows": (batch("y = Slice(x, a, b)", "int64[1] a, int64[1] b", a=[0], b=[2]), "Slice"),
    "mean of rows": (batch("m = ReduceMean<axes=[0]>(x) y = Sub(x, m)"), "ReduceMean"),
    "running sum": (batch("y = CumSum(x, a)", "int64 a", a=0), "CumSum .* is unknown"),
    "a constant output": (load(model("g (float[4] x) => (float[4] y, float[4] z) <float[4] w>"
                                     "{ y = Relu(x) z = Relu(w) }")), "does not depend"),
    "inputs of other rows": (batch("s = ReduceSum<keepdims=0>(z) y = Add(x, s)", more=", float[3] z"),
                             "differ in their number of rows"),
    "a scalar input": (batch("y = Mul(x, z)", more=", float z"), "differ in their number of rows"),
}


@pytest.mark.parametrize("name", APART)
def test_rows_are_apart(name):
    check_parts(APART[name])


@pytest.mark.parametrize("name", MIXED)
def test_mixed_rows_are_refused(name):
    graph, reason = MIXED[name]
    found = rows_of(graph.graph)
    assert isinstance(found, str)
    assert re.search(reason, found)
