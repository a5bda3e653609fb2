"""Lifted convolutions and products equal onnxruntime's for any kernel, stride, padding, group and operand order."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsec.graph import verify
from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.passes import lift
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model

MANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def dims(shape):
    return ",".join(map(str, shape))


def check(proto, *, nodes=1):
    """The model is lifted into so many nodes, the first of sparsec's or a Transpose, and keeps its answers."""
    graph = load(proto)
    report = lift.run(graph, Context(resolve("cpu-generic")))
    assert report.modified, report.notes
    assert sum(node.domain == "sparsec" for node in graph.graph) == 1
    assert len(graph.graph) <= nodes
    verify.check(graph, "the lifted model")
    feeds = random_feeds(graph)
    assert relative_error(evaluate(graph, feeds)[0], run_onnxruntime(proto, feeds)[0]) < 1e-5


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 2))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    group = draw(st.sampled_from([1, 2, 3]))
    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    size = [extent + draw(st.integers(0, 5)) for extent in reach]
    channels, outputs = group * draw(st.integers(1, 2)), group * draw(st.integers(1, 2))
    auto = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    attributes = [f"group={group}", f"strides=[{dims(strides)}]", f'auto_pad="{auto}"']
    if auto == "NOTSET":
        attributes.append(f"pads=[{dims(each(0, 2) + each(0, 2))}]")
    if auto in ("NOTSET", "VALID"):  # onnxruntime refuses dilations when it pads by itself
        attributes.append(f"dilations=[{dims(dilations)}]")
    if draw(st.booleans()):
        attributes.append(f"kernel_shape=[{dims(kernel)}]")
    return model(
        f"g (float[2,{channels},{dims(size)}] x) => (float[{dims('abcd'[:rank + 2])}] y)"
        f"<float[{outputs},{channels // group},{dims(kernel)}] w, float[{outputs}] b>"
        f"{{ y = Conv<{', '.join(attributes)}>(x, w{draw(st.sampled_from(['', ', b']))}) }}")


@MANY
@given(convolutions())
def test_convolutions(proto):
    check(proto)


@st.composite
def products(draw):
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    left = draw(st.booleans())
    vector = draw(st.booleans())
    if left:
        weight, x = [k] if vector else [m, k], draw(st.sampled_from([[*batch, k, n], [k]]))
        y = np.matmul(np.zeros(weight), np.zeros(x)).shape
        operands = "w, x"
    else:
        weight, x = [k] if vector else [k, n], draw(st.sampled_from([[*batch, m, k], [k]]))
        y = np.matmul(np.zeros(x), np.zeros(weight)).shape
        operands = "x, w"
    return model(f"g (float[{dims(x)}] x) => (float[{dims(y)}] y) <float[{dims(weight)}] w>"
                 f"{{ y = MatMul({operands}) }}")


@MANY
@given(products())
def test_products(proto):
    check(proto, nodes=2)


@st.composite
def gemms(draw):
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    trans_a, trans_b, left = (draw(st.booleans()) for _ in range(3))
    a, b = [k, m] if trans_a else [m, k], [n, k] if trans_b else [k, n]
    addend = draw(st.sampled_from([None, [], [n], [1, n], [m, 1], [m, n], "input"]))
    beta = 1.0 if addend == "input" else draw(st.sampled_from([0.0, 0.5, 1.0]))
    inputs, weights = (f"float[{dims(b)}] b", f"float[{dims(a)}] a") if left else (
        f"float[{dims(a)}] a", f"float[{dims(b)}] b")
    if addend == "input":
        inputs += f", float[{m},{n}] c"
    elif addend is not None:
        weights += f", float[{dims(addend)}] c"
    attributes = f"transA={int(trans_a)}, transB={int(trans_b)}, alpha={draw(st.sampled_from([0.5, 1.0]))}, beta={beta}"
    return model(f"g ({inputs}) => (float[{m},{n}] y) <{weights}>"
                 f"{{ y = Gemm<{attributes}>(a, b{'' if addend is None else ', c'}) }}")


@MANY
@given(gemms())
def test_gemms(proto):
    check(proto, nodes=2)
