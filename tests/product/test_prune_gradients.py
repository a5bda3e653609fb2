"""Gradients without PyTorch are those of the network, and what Fisher's matrix says of a change comes true."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparsec.errors import PruningError
from sparsec.graph import ort
from sparsec.oneshot import dense, file, samples
from sparsec.oneshot.criteria.moments import Moments
from sparsec.oneshot.criteria.woodfisher import woodfisher
from sparsec.oneshot.file import Method
from sparsec.oneshot.gradients.backward import Backward
from sparsec.oneshot.gradients.derivatives import ELEMENTWISE, Node, back
from sparsec.oneshot.gradients.slopes import slopes
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.weights import constants, write
from tests.support.texts import model

RNG = np.random.default_rng(0)
IMAGES, TOKENS, ROWS = (RNG.standard_normal(shape).astype(np.float32) for shape in (
    (1, 8, 9, 8), (1, 6, 8), (1, 8)))
GRAPHS = {
    "convolutions": (IMAGES, """g (float[N,8,9,8] x) => (float[N,5] y) <float[16,8,3,2] a, float[16] b,
        float[8,4,2,2] c, float[8] s, float[8] t, float[8] mean, float[8] variance, float[8,5] f, float[5] h> {
        p = Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, a, b) q = Relu(p)
        r = Conv<group=4, auto_pad="SAME_LOWER">(q, c) u = BatchNormalization(r, s, t, mean, variance)
        v = GlobalAveragePool(u) w = Flatten(v) y = Gemm(w, f, h) }"""),
    "pools": (IMAGES, """g (float[N,8,9,8] x) => (float[N,5] y) <float[8,8,3,3] a, float[8,8,3,3] b,
        float[8,16,1,1] c, float[8,5] f> { p = Conv<pads=[1,1,1,1]>(x, a)
        q = MaxPool<kernel_shape=[3,2], strides=[2,2]>(p) r = Conv<pads=[1,1,1,1]>(q, b)
        s = AveragePool<kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1], count_include_pad=1>(r)
        t = Concat<axis=1>(q, s) u = HardSwish(t) v = Conv<strides=[2,2]>(u, c)
        w = ReduceMean<keepdims=0, axes=[2,3]>(v) y = Gemm(w, f) }"""),
    "attention": (TOKENS, """g (float[N,6,8] x) => (float[N,6,8] y) <float[8] s, float[8] t, float[8,8] a, float[8,8] b,
        float[8,8] c, float[8,16] d, float[16,8] e, float k> {
        n = LayerNormalization<axis=-1>(x, s, t) p = MatMul(n, a) q = MatMul(n, b) v = MatMul(n, c)
        u = Transpose<perm=[0,2,1]>(q) w = MatMul(p, u) z = Mul(w, k) o = Softmax<axis=-1>(z) r = MatMul(o, v)
        i = Add(x, r) j = MatMul(i, d) l = Erf(j) m = Tanh(l) h = MatMul(m, e) y = Sub(i, h) }"""),
    "transposed": (ROWS, """g (float[N,8] x) => (float[N,6] y) <float[12,8] a, float[12] b, float[6,12] c> {
        p = Gemm<transB=1, alpha=0.5>(x, a, b) q = Sigmoid(p) t = Transpose<perm=[1,0]>(q) r = MatMul(c, t)
        y = Transpose<perm=[1,0]>(r) }""")}
CLASSES = """g (float[N,8] x) => (float[N,6] y) <float[8,32] a, float[32,6] b> { p = MatMul(x, a) q = Relu(p)
    r = MatMul(q, b) y = Softmax<axis=-1>(r) }"""


def graph(name):
    x, text = GRAPHS[name]
    return model(text, **({"variance": np.abs(RNG.standard_normal(8)) + 1} if "variance" in text else {})), {"x": x}


def moved(proto, layer, change):
    """The model with a change of a weight's matrix."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    tensor = constants(result.graph)[layer.weight]
    stored = numpy_helper.to_array(tensor)
    write(tensor, layer.stored(layer.matrix(stored) + change, stored.dtype))
    return result


def output(proto, feeds):
    return ort.session(proto).run(None, feeds)[0].astype(np.float64)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_gradient_is_what_a_small_change_of_a_weight_makes_of_the_outputs(name):
    proto, feeds = graph(name)
    weights, _ = dense.weights(proto, pattern("unstructured"), ())
    expected = output(proto, feeds)
    direction = np.random.default_rng(0).standard_normal(expected.shape) / np.sqrt(np.square(expected).sum())
    for weight, found in zip(weights, slopes(proto, [feeds], [w.layers for w in weights]), strict=True):
        layer = weight.layers[0]
        shape = layer.matrix(numpy_helper.to_array(constants(proto.graph)[layer.weight])).shape
        change = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * np.float32(2e-3)
        ahead, behind = (output(moved(proto, layer, way * change), feeds) for way in (1, -1))
        gradient = np.stack([found.of(group).gradients(0, shape[1])[0] for group in range(shape[0])])
        assert np.vdot(gradient, change) == pytest.approx(float(np.vdot(direction, ahead - behind) / 2), rel=0.02,
                                                          abs=2e-6), layer.name


@pytest.mark.parametrize("name", [*ELEMENTWISE, "Cast", "Erf", "Gelu", 'Gelu<approximate="tanh">'])
def test_elementwise_operators_are_as_steep_as_their_differences(name):
    x = np.linspace(0.23, 1.93, 40, dtype=np.float32)
    kind, _, attributes = name.partition("<")
    rest = {"Where": "m, x, c", "Cast": "x", "Clip": "x, l, h"}.get(
        kind, "x, c" if kind in ("Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "PRelu", "Sub", "Sum") else "x")
    attributes = "<to=1>" if kind == "Cast" else "<" + attributes if attributes else ""
    given = {"c": np.full(40, 1.27, np.float32), "l": np.float32(0.4), "h": np.float32(1.5), "m": x > 1}
    proto = model(f"""g (float[40] x) => (float[40] y) <float[40] c, float l, float h, bool[40] m> {{
        y = {kind}{attributes}({rest}) }}""", opset=24, **given)
    node = Node(proto.graph.node[0], 24, [x if each == "x" else given[each] for each in proto.graph.node[0].input],
                [None])
    gradient = back(node, [np.ones(40)])[[*node.proto.input].index("x")]
    session, step = ort.session(proto), np.float32(2e-3)
    ahead, behind = (session.run(None, {"x": x + way * step})[0].astype(np.float64) for way in (1, -1))
    np.testing.assert_allclose(gradient, (ahead - behind) / (2 * float(step)), atol=2e-3, rtol=2e-3)


def test_fishers_matrix_of_classes_says_how_far_probabilities_part():
    proto, x = model(CLASSES), RNG.standard_normal((64, 8)).astype(np.float32)
    layer = dense.weights(proto, pattern("unstructured"), ())[0][0].layers[0]
    backward, feeds, rng = Backward.to(proto, {"p"}), {"x": x}, np.random.default_rng(0)
    change = RNG.standard_normal((1, 32, 8)).astype(np.float32) * np.float32(0.02)
    before, after = (output(each, feeds) for each in (proto, moved(proto, layer, change)))
    divergence = (before * np.log(before / after)).sum(axis=1).mean()
    along = [np.einsum("no,oi,ni->n", backward.run(feeds, rng)[1]["p"], change[0], x) for _ in range(60)]
    assert np.square(along).mean() / 2 == pytest.approx(divergence, rel=0.1)


def test_woodfisher_loses_less_by_its_own_measure_than_any_other_choice_of_weights():
    mixed = RNG.standard_normal((128, 8)) @ (RNG.standard_normal((8, 8)) + 1)
    proto, arrays = model(CLASSES), {"x": mixed.astype(np.float32)}
    batches = samples.batches(proto, arrays)
    weight = dense.weights(proto, pattern("unstructured"), ())[0][0]
    slope = slopes(proto, batches, [weight.layers])[0].of(0)
    matrix = weight.layers[0].matrix(numpy_helper.to_array(constants(proto.graph)[weight.layers[0].weight]))[0]
    gradients = slope.gradients(0, len(matrix)).astype(np.float64)  # a block is a row here

    def loss(pruned):
        return np.square(np.einsum("noi,oi->no", gradients, pruned - matrix)).mean(axis=0).sum()

    moments = Moments(np.eye(8), slopes=slope)
    found = woodfisher(matrix, moments, pattern("unstructured"), 0.5)
    assert np.count_nonzero(found) == matrix.size // 2
    for other in ("magnitude", "taylor"):
        assert loss(found) < 0.8 * loss(dense.CRITERIA[other](matrix, moments, pattern("unstructured"), 0.5))
    assert loss(np.where(found != 0, matrix, 0)) > loss(found)


def test_an_operator_without_a_derivative_is_named():
    proto = model("""g (float[N,8] x) => (float[N,8] y) <float[8,8] a> { p = MatMul(x, a) y = CumSum(p, k) }
        """.replace("<float[8,8] a>", "<float[8,8] a, int64 k>"), k=np.array(1))
    with pytest.raises(PruningError, match=r"'y': there is no derivative of CumSum.*--criterion obs"):
        file.to_sparsity(proto, {"x": RNG.standard_normal((16, 8)).astype(np.float32)}, 0.5, Method("taylor"),
                         lambda *_: None)
