"""Sums of convolutions of one image are one convolution, whose answers are onnxruntime's."""

import pytest

from sparsec.graph import verify
from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.passes import parallel
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model

CONTEXT = Context(resolve("cpu-generic"))
NORMAL = "BatchNormalization(x, s, b, m, s)"


def sums(first, second, *, group=1, channels=4, window=3, also=""):
    weights = f"float[4,{channels // group},{window},{window}] v, float[4,{channels // group},1,1] w"
    numbers = ", ".join(f"float[4] {name} = {{0.5, 2.0, 1.5, 0.25}}" for name in "sb")
    return model(f"g (float[2,{channels},7,9] x) => (float[n,c,h,w] y) <{weights}, {numbers}, float[4] m>"
                 f"{{ p = {first} q = {second} t = Add(p, q) {also or 'y = Relu(t)'} }}")


def left(proto, context=CONTEXT):
    """The operators after the pass, whose answers are compared with onnxruntime's."""
    graph = load(proto)
    report = parallel.run(graph, context)
    verify.infer(graph, "the graph")
    verify.check(graph, "the graph")
    feeds = random_feeds(graph)
    for found, wanted in zip(evaluate(graph, feeds), run_onnxruntime(proto, feeds), strict=True):
        assert relative_error(found, wanted) < 1e-5
    assert report.modified == bool(report.counts)
    return sorted(node.op_type for node in graph.graph)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(("first", "second"), [
    ("Conv<pads=[1,1,1,1], group=G>(x, v, b)", "Conv<group=G>(x, w, m)"),
    ("Conv<group=G>(x, w)", "Conv<pads=[1,1,1,1], group=G>(x, v)"),
    ("Conv<pads=[1,1,1,1], group=G>(x, v, b)", "Conv<pads=[1,1,1,1], group=G>(x, v, m)"),
    ("Conv<pads=[2,2,0,0], group=G, strides=[2,3]>(x, v)", "Conv<group=G, strides=[2,3]>(x, w)"),
    ("Conv<pads=[2,2,2,2], dilations=[2,2], group=G>(x, v)", "Conv<group=G>(x, w, b)"),
    (NORMAL, "Conv<pads=[1,1,1,1], group=G>(x, v)"),
    ("Conv<group=G>(x, w, b)", NORMAL),
])
def test_branches_of_one_image_are_one_convolution(first, second, group):
    proto = sums(first.replace("=G", f"={group}"), second.replace("=G", f"={group}"), group=group)
    assert left(proto) == ["Conv", "Relu"]


def test_a_chain_of_branches_is_one_convolution():
    also = f"r = Conv(x, w, m) u = Add(t, r) n = {NORMAL} y = Add(n, u)"
    assert left(sums("Conv<pads=[1,1,1,1]>(x, v)", "Conv(x, w)", also=also)) == ["Conv"]


@pytest.mark.parametrize(("first", "second", "also"), [
    ("Conv<pads=[1,1,1,1]>(x, v)", "Identity(x)", ""),
    ("Conv<pads=[1,1,1,1], strides=[2,2]>(x, v)", "Conv<strides=[2,2], pads=[1,1,0,0]>(x, w)", ""),
    ("Conv<pads=[1,1,1,1]>(x, v)", "Conv(p, w)", ""),
    ("Conv<pads=[1,1,1,1]>(x, v)", "Conv(x, w)", "r = Sigmoid(q) y = Mul(r, t)"),
    (NORMAL, NORMAL, ""),
    ('Conv<auto_pad="SAME_UPPER">(x, v)', "Conv(x, w)", ""),
    ("Conv<pads=[1,1,1,1], dilations=[1,1]>(x, v)", "Conv<pads=[0,0,0,0], strides=[1,1]>(x, w)", "y = Add(t, p)"),
])
def test_others_stay(first, second, also):
    assert "Add" in left(sums(first, second, also=also))


def test_what_has_to_be_as_ieee_has_it_stays():
    context = Context(resolve("cpu-generic"), strict_ieee=True)
    assert left(sums("Conv<pads=[1,1,1,1]>(x, v)", "Conv(x, w)"), context) == ["Add", "Conv", "Conv", "Relu"]
