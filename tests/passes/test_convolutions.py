"""Transposed convolutions and those of volumes, written as convolutions of images, equal onnxruntime's."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsec import InferenceSession
from sparsec import compile as compiled
from sparsec.graph import verify
from sparsec.graph.compare import random_feeds, relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.passes import convolutions
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.texts import model, random

SOME = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def dims(shape):
    return ",".join(map(str, shape))


def rewritten(proto):
    """The graph after the pass, whose answers are compared with onnxruntime's."""
    graph = load(proto)
    report = convolutions.run(graph, Context(resolve("cpu-generic")))
    assert report.modified, report.notes
    verify.infer(graph, "the graph")
    verify.check(graph, "the graph")
    feeds = random_feeds(graph)
    for found, wanted in zip(evaluate(graph, feeds), run_onnxruntime(proto, feeds), strict=True):
        assert relative_error(found, wanted) < 1e-5
    return graph.graph


@st.composite
def transposed(draw):
    rank = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    group, kernel, strides, dilations = draw(st.integers(1, 2)), each(1, 4), each(1, 3), each(1, 2)
    size, extra = each(1, 4), [draw(st.integers(0, stride - 1)) for stride in strides]
    full = [s * (n - 1) + (k - 1) * d + 1 + e
            for s, n, k, d, e in zip(strides, size, kernel, dilations, extra, strict=True)]
    pads = [draw(st.integers(0, (length - 1) // 2)) for length in (*full, *full)]
    spelled = f"pads=[{dims(pads)}], output_padding=[{dims(extra)}]"
    ends = draw(st.sampled_from([spelled, 'auto_pad="SAME_UPPER"', 'auto_pad="VALID"']))
    channels, outputs = group * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return model(
        f"g (float[2,{channels},{dims(size)}] x) => (float[{dims('abcde'[:rank + 2])}] y)"
        f"<float[{channels},{outputs},{dims(kernel)}] w, float[{outputs * group}] b>"
        f"{{ t = ConvTranspose<group={group}, strides=[{dims(strides)}], dilations=[{dims(dilations)}], {ends}>(x, w"
        f"{draw(st.sampled_from(['', ', b']))}) y = LeakyRelu<alpha=0.3>(t) }}")


@SOME
@given(transposed())
def test_a_transposed_convolution_is_one_with_the_positions_in_its_channels(proto):
    kinds = [node.op_type for node in rewritten(proto)]
    assert "ConvTranspose" not in kinds
    assert kinds.index("LeakyRelu") > kinds.index("Conv")


@SOME
@given(st.integers(1, 2), st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 2)] * 6),
       st.tuples(*[st.integers(0, 1)] * 6))
def test_a_convolution_of_volumes_is_one_of_their_slices(batch, group, kernel, steps, pads):
    strides, dilations = steps[:3], steps[3:]
    graph = rewritten(model(
        f"g (float[{batch},{2 * group},6,5,7] x) => (float[n,c,d,h,w] y)"
        f"<float[{group},2,{dims(kernel)}] w, float[{group}] b>"
        f"{{ y = Conv<strides=[{dims(strides)}], dilations=[{dims(dilations)}], pads=[{dims(pads)}], group={group}>"
        "(x, w, b) }"))
    assert all(len(node.outputs[0].shape) == 4 for node in graph if node.op_type == "Conv")


RESIDUAL = """g (float[2,4,5,6,7] x) => (float[2,4,5,6,7] y) <float[4,4,3,3,3] v, float[4,4,1,3,3] w>
    { a = Conv<pads=[1,1,1,1,1,1]>(x, v) b = Relu(a) c = Conv<pads=[0,1,1,0,1,1]>(b, w) d = Add(a, c) y = Relu(d) }"""


def test_slices_stay_slices_between_convolutions_of_volumes():
    moves = [node for node in rewritten(model(RESIDUAL)) if node.op_type == "Transpose"]
    assert len(moves) == 2


@pytest.mark.parametrize("text", [
    RESIDUAL,
    """g (float[1,8,5,6] x) => (float[1,4,11,14] y) <float[8,4,4,4] w, float[4] b>
    { t = ConvTranspose<strides=[2,2], pads=[1,0,0,0]>(x, w, b) y = Relu(t) }""",
    "g (float[1,8,5] x) => (float[1,4,9] y) <float[8,4,3] w> { y = ConvTranspose<strides=[2], pads=[1,1]>(x, w) }",
])
def test_compiled_ones_run_in_sparse_kernels(text):
    keep = np.random.default_rng(0).random((8, 4, 4, 4)) > 0.9
    proto = model(text, **({"w": random(keep.shape, "w") * keep} if "4,4] w" in text else {}))
    artifact = compiled(proto, tune="off", strict=True)
    feeds = random_feeds(load(proto))
    for found, wanted in zip(InferenceSession(artifact).run(None, feeds), run_onnxruntime(proto, feeds), strict=True):
        assert relative_error(found, wanted) < 1e-5
    assert artifact.report["layers"]


@pytest.mark.parametrize(("window", "rows", "behind"), [((), 1, ""), ((1, 1), 1, "Relu"), ((1, 1), 3, "Add"),
                                                        ((3, 2), 2, "Sigmoid"), ((5,), 1, "Clip")])
def test_a_convolution_of_one_position_is_a_product(window, rows, behind):
    window = window or (1, 1)
    inputs = -(-65536 // (256 * int(np.prod(window))))
    image, ones = dims((rows, inputs, *window)), dims((rows, 256, *(1 for _ in window)))
    last = {"Add": "y = Add(q, q)", "Clip": "y = Clip(q, low)", "": "y = Identity(q)"}.get(behind, f"y = {behind}(q)")
    graph = rewritten(model(f"g (float[{image}] x) => (float[{ones}] y) <float[256,{dims((inputs, *window))}] w, "
                            f"float[256] b, float low> {{ q = Conv(x, w, b) {last} }}"))
    assert [node.op_type for node in graph if node.op_type in ("Conv", "Gemm")] == ["Gemm"]


@pytest.mark.parametrize(("size", "dilations", "parts"), [
    ((14, 14), (12, 12), 5), ((14, 20), (7, 5), 3), ((18, 14), (6, 13), 3), ((160,), (100,), 3), ((14, 9), (24, 24), 1),
    ((14, 14), (5, 5), 0)])
def test_a_convolution_of_taps_far_apart_is_a_sum(size, dilations, parts):
    outputs, channels, kernel = (128, 256, (3, 3)) if len(size) == 2 else (128, 512, (3,))
    proto = model(f"g (float[1,{channels},{dims(size)}] x) => (float[{dims('abcde'[:len(size) + 2])}] y)"
                  f"<float[{outputs},{channels},{dims(kernel)}] w, float[{outputs}] b>"
                  f"{{ c = Conv<dilations=[{dims(dilations)}], pads=[{dims(dilations * 2)}]>(x, w, b) y = Relu(c) }}")
    if parts:
        nodes = [node for node in rewritten(proto) if node.op_type == "Conv"]
        assert len(nodes) == parts
        assert all(pad < min(size) for node in nodes for pad in node.attributes.get_ints("pads"))
    else:
        assert not convolutions.run(load(proto), Context(resolve("cpu-generic"))).modified


@pytest.mark.parametrize(("image", "window", "behind", "product"), [
    ((1, 3, 8, 12), (4, 4), "r = Reshape(q, e) y = Transpose<perm=[0, 2, 1]>(r)", True),
    ((2, 3, 9, 15), (4, 3), "y = Transpose<perm=[0, 2, 3, 1]>(q)", True),
    ((2, 1, 37), (9,), "t = Transpose<perm=[0, 2, 1]>(q) y = Relu(t)", True),
    ((1, 2, 4, 6, 5), (2, 3, 2), "y = Transpose<perm=[0, 2, 3, 4, 1]>(q)", True),
    ((1, 3, 8, 12), (4, 4), "y = Transpose<perm=[0, 3, 2, 1]>(q)", False),
    ((1, 3, 8, 12), (4, 4), "t = Relu(q) y = Transpose<perm=[0, 2, 3, 1]>(t)", False),
    ((1, 3, 8, 12), (2, 2), "y = Transpose<perm=[0, 2, 3, 1]>(q)", False),
])
def test_a_convolution_of_patches_is_a_product_where_pixels_become_rows(image, window, behind, product):
    rank = len(window)
    proto = model(f"g (float[{dims(image)}] x) => (float[{dims('abcde'[:3 if 'Reshape' in behind else rank + 2])}] y) "
                  f"<float[5,{image[1]},{dims(window)}] w, float[5] b, int64[3] e = {{1, 5, -1}}>"
                  f"{{ q = Conv<strides=[{dims(window)}]>(x, w, b) {behind} }}")
    if product:
        kinds = [node.op_type for node in rewritten(proto)]
        assert "Gemm" in kinds
        assert "Conv" not in kinds
    else:
        assert not convolutions.run(load(proto), Context(resolve("cpu-generic"))).modified


@pytest.mark.parametrize(("between", "behind", "outputs", "parts"), [
    ("c = Identity(j)", "y = Relu(q)", 8, 3), ("c = Identity(j)", "y = Identity(q)", 8, 3),
    ("c = MaxPool<kernel_shape=[3,3], strides=[2,2]>(j)", "y = Relu(q)", 4, 3),
    ("c = Identity(j)", "y = Relu(q)", 40, 1), ("c = Relu(j)", "y = Relu(q)", 8, 1),
])
def test_a_convolution_of_joined_images_is_a_sum(between, behind, outputs, parts):
    graph = rewritten_or_not(model(
        f"g (float[1,32,31,20] x, float[1,8,31,20] z) => (float[n,c,h,w] y) "
        f"<float[{outputs},72,3,3] w, float[{outputs}] b> {{ r = Relu(x) j = Concat<axis=1>(r, z, x) {between} "
        f"q = Conv<pads=[1,1,1,1]>(c, w, b) {behind} }}".replace("c = Identity(j) q", "q").replace(
            "(c, w" if "Identity(j)" in between else "\0", "(j, w")), parts > 1)
    kinds = [node.op_type for node in graph]
    assert kinds.count("Conv") == parts
    assert kinds.count("Concat") == (parts == 1)


def rewritten_or_not(proto, changes):
    graph = load(proto)
    if changes:
        return rewritten(proto)
    assert not convolutions.run(graph, Context(resolve("cpu-generic"))).modified
    return graph.graph
