"""What becomes of the patterns that exporters write, and what is left alone, with the reason."""

from collections import Counter

import numpy as np
import onnx
import pytest

from sparsec.graph.evaluate import evaluate
from sparsec.graph.reader import load
from sparsec.graph.verify import infer
from sparsec.passes import fuse_activation, fuse_attention, fuse_epilogue, fuse_norm, lift, optimize, products
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.graphs import (
    ACTIVATIONS,
    ATTENTIONS,
    BN,
    GRAPHS,
    MASK,
    NORM,
    NORMS,
    PRODUCTS,
    SPLIT,
    activation,
    attention,
    conv,
    linear,
    norm,
)
from tests.support.texts import model

FUSIONS = [optimize, products, fuse_norm, fuse_activation, fuse_attention, lift, fuse_epilogue]


def fused(proto):
    """The graph after all fusions, and all notes."""
    graph = load(proto)
    reports = []
    for step in FUSIONS:
        reports.append(step.run(graph, Context(resolve("cpu-generic"))))
        infer(graph, reports[-1].name)
    return graph.graph, [f"{note.node}: {note.text}" for report in reports for note in report.notes]


def kinds(graph):
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_goes_into_the_layer_before_it(name):
    expected, proto = ACTIVATIONS[name]
    graph, _ = fused(proto)
    (node,) = graph
    assert node.attributes.get_string("activation") == expected
    assert [value.name for value in node.inputs[2:]] == [graph.initializers[node.inputs[2].name].name]


@pytest.mark.parametrize("name", NORMS)
def test_a_written_out_norm_becomes_one_node(name):
    residual = {"Add": 1} if "residual" in name else {}
    assert kinds(fused(NORMS[name])[0]) == {"LayerNormalization": 1, **residual}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_takes_the_unsplit_projections(name):
    glue = {"Where": 1} if "guard" in name else {"Slice": 3} if "one projection" in name else {}
    layers = {"sparsec::MatMul": 1 if "one projection" in name else 3}
    assert kinds(fused(ATTENTIONS[name])[0]) == {"sparsec::Attention": 1, **layers, **glue}


EPILOGUES = {
    "residual block": (GRAPHS["residual block"], ["relu", "relu", "none"]),
    "batch norms": (GRAPHS["batch norms"], ["relu", "none"]),
    "batch norm behind gemm": (GRAPHS["batch norm behind gemm"], ["none"]),
    "shared weight": (GRAPHS["shared weight"], ["none", "none"]),
    "scale and shift": (GRAPHS["scale and shift"], ["none"]),
    "scale and shift behind relu": (GRAPHS["scale and shift behind relu"], ["clip"]),
    "subtraction of a clip": (GRAPHS["subtraction of a clip"], ["clip"]),
    "product from the left": (GRAPHS["product from the left"], ["relu"]),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_everything_goes_into_the_layers(name):
    proto, activations = EPILOGUES[name]
    nodes = list(fused(proto)[0])
    assert all(node.domain == "sparsec" for node in nodes)
    assert sorted(node.attributes.get_string("activation", "none") for node in nodes) == sorted(activations)


def test_a_residual_comes_before_the_activation():
    graph, _ = fused(GRAPHS["residual block"])
    last = graph[-1]
    assert last.attributes.get_string("activation") == "relu"
    assert last.inputs[3].producer().op_type == "Conv"


@pytest.mark.parametrize("name", [name for name in GRAPHS if "times another" in name])
def test_a_product_of_two_layers_goes_into_one_of_them(name):
    graph, _ = fused(GRAPHS[name])
    assert sum(kinds(graph).values()) == 2
    assert graph[-1].attributes.get_int("multiplies") == 1


LEFT_ALONE = {
    "a value that is an output": (GRAPHS["output in the middle"], {"Relu": 1}),
    "a value read twice": (linear("float o", "y0 = Relu(p) y = Mul(y0, p)"), {"Relu": 1, "Mul": 1}),
    "an addition behind the activation": (activation("r = Relu(h) y = Add(r, h)"), {"Relu": 1, "Add": 1}),
    "a scale by channel behind the activation": (
        activation("r = Relu(h) y = Mul(r, k)", weights="float[6] k"), {"Mul": 1}),
    "a scale behind the residual": (
        model("g (float[5,8] x, float[5,6] r) => (float[5,6] y) <float[8,6] w, float[6] k>"
              "{ p = MatMul(x, w) s = Add(p, r) y = Mul(s, k) }"), {"Mul": 1}),
    "a residual that broadcasts": (
        model("g (float[5,8] x, float[1,6] r) => (float[5,6] y) <float[8,6] w> { p = MatMul(x, w) y = Add(p, r) }"),
        {"Add": 1}),
    "an addition that enlarges": (
        model("g (float[5,8] x) => (float[3,5,6] y) <float[8,6] w, float[3,1,6] r> { p = MatMul(x, w) y = Add(p, r) }"),
        {"Add": 1}),
    "a clip by a computed bound": (
        model("g (float[5,8] x, float low) => (float[5,6] y) <float[8,6] w> { p = MatMul(x, w) y = Clip(p, low) }"),
        {"Clip": 1}),
    "a gelu with other constants": (activation(
        "d = Div(h, s) e = Erf(d) a = Add(e, one) m = Mul(h, a) y = Mul(m, half)", 17, "float s, float half, float one",
        s=1.5, half=0.5, one=1), {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2}),
    "a second activation": (activation("r = Sigmoid(h) y = Tanh(r)"), {"Tanh": 1}),
    "a silu whose gate is read again": (
        activation("g = Sigmoid(h) m = Mul(h, g) y = Add(m, g)"), {"Sigmoid": 1, "Mul": 1, "Add": 1}),
    "a silu of an output": (
        model("g (float[5,8] x) => (float[5,6] p, float[5,6] y) <float[8,6] w>"
              "{ p = MatMul(x, w) g = Sigmoid(p) y = Mul(p, g) }"), {"Sigmoid": 1, "Mul": 1}),
    "a norm with another scale": (norm(
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e)"
        "n = Div(d, s) k = Mul(n, scale) y = Add(k, bias)", weights=NORM.replace("float[8] scale", "float[5,1] scale")),
        {"ReduceMean": 2, "Sqrt": 1}),
    "a norm over another axis": (norm(
        "m = ReduceMean<axes=[1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[1]>(q) e = Add(v, eps)"
        "s = Sqrt(e) n = Div(d, s) k = Mul(n, scale) y = Add(k, bias)", 13), {"ReduceMean": 2, "Sqrt": 1}),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_does_not_fit_is_left_alone(name):
    proto, stays = LEFT_ALONE[name]
    found = kinds(fused(proto)[0])
    assert {kind: found[kind] for kind in stays} == stays


SCORES = "a = MatMul(q, k) b = Mul(a, scale) "
NOT_ATTENTION = {
    "softmax along the queries": attention(SCORES + "c = Softmax<axis=2>(b) o = MatMul(c, v)"),
    "scores that are read again": attention(SCORES + "c = Softmax(b) d = MatMul(c, v) e = ReduceMax(b) o = Add(d, e)"),
    "weights behind another node": attention(SCORES + "c = Softmax(b) d = Relu(c) o = MatMul(d, v)"),
    "a scale behind the mask": attention(
        "a = MatMul(q, k) m = Add(a, mask) b = Mul(m, scale) c = Softmax(b) o = MatMul(c, v)", MASK),
    "a guard against rows of NaN": attention(
        "a = MatMul(q, k) m = Add(a, mask) c = Softmax(m) n = IsNaN(c) g = Where(n, zero, c) o = MatMul(g, v)",
        "float[5,5] mask, float zero", mask=[[-float("inf")] * 5] * 5, zero=0),
    "heads that mix tokens": attention(
        SCORES + "c = Softmax(b) o = MatMul(c, v)", "int64[4] wrong", SPLIT.replace("q0, heads", "q0, wrong").replace(
            "q = Transpose<perm=[0,2,1,3]>(q1)", "q = Identity(q1)"), wrong=[2, 2, 5, 4]),
    "heads that are not merged": attention(
        SCORES + "c = Softmax(b) o = MatMul(c, v)", merge=" y = Reshape(o, merged)"),
    "values that are scaled": attention(SCORES + "c = Softmax(b) w = Mul(v, scale) o = MatMul(c, w)"),
    "computed heads": attention(
        "r = Sin(q) a = MatMul(r, k) b = Mul(a, scale) c = Softmax(b) o = MatMul(c, v)"),
    "standard operator with a soft cap": attention(
        "kk = Transpose<perm=[0,1,3,2]>(k) o = Attention<softcap=2.0>(q, kk, v)", opset=23),
}


@pytest.mark.parametrize("name", NOT_ATTENTION)
def test_other_attention_is_left_alone_with_the_reason(name):
    graph, notes = fused(NOT_ATTENTION[name])
    assert "sparsec::Attention" not in kinds(graph)
    if name != "weights behind another node":
        assert any("not fused into attention: " in note for note in notes)


TRAINING = (f"g (float[2,6,4] x) => (float[n,m,k] y) <{BN}>"
            "{ y, u, v = BatchNormalization<training_mode=1>(x, gamma, beta, mean, var) }")
NOT_LIFTED = {
    "three spatial dimensions": (
        "g (float[1,2,4,4,4] x) => (float[a,b,c,d,e] y) <float[3,2,1,1,1] w> { y = Conv(x, w) }", "3 spatial"),
    "computed weight": ("g (float[4,5] x, float[5,6] w) => (float[4,6] y) { y = MatMul(x, w) }", "neither operand"),
    "computed gemm": ("g (float[4,5] x, float[5,6] w) => (float[4,6] y) { y = Gemm(x, w) }", "neither operand"),
    "computed bias": ("g (float[1,2,4] x, float[3] b) => (float[n,m,k] y) <float[3,2,1] w> { y = Conv(x, w, b) }",
                      "weight or bias is not a constant"),
    "computed addend": ("g (float[4,5] x, float[6] c) => (float[4,6] y) <float[5,6] w> { y = Gemm(x, w, c) }",
                        "addend"),
    "many matrices": ("g (float[2,4,5] x) => (float[2,4,6] y) <float[2,5,6] w> { y = MatMul(x, w) }", "rank 3"),
    "double": ("g (double[4,5] x) => (double[4,6] y) <double[5,6] w> { y = MatMul(x, w) }", "DOUBLE, not float32"),
    "norm in training": (TRAINING, "training"),
    "norm of vectors": (
        f"g (float[4,6] x) => (float[4,6] y) <{BN}> {{ y = BatchNormalization(x, gamma, beta, mean, var) }}", "rank 2"),
}


@pytest.mark.parametrize("name", NOT_LIFTED)
def test_what_is_not_lifted_is_reported(name):
    text, reason = NOT_LIFTED[name]
    graph, notes = fused(model(text))
    assert not any(node.domain for node in graph)
    assert any(reason in note for note in notes)


def test_a_classifier_is_not_reported_as_attention():
    assert fused(model("g (float[2,8] x) => (float[2,8] y) { y = Softmax(x) }"))[1] == []


def test_what_the_opset_lacks_stays_written_out():
    graph = load(ACTIVATIONS["gelu by erf, half last"][1])
    graph.graph.opset_imports[""] = 17
    report = fuse_activation.run(graph, Context(resolve("cpu-generic")))
    assert not report.modified
    assert [note.text for note in report.notes] == ["stays written out: opset 17 has no Gelu"]


def test_batch_norm_scales_only_zero_weights_to_zero():
    graph, _ = fused(conv(BN, "y = BatchNormalization(c, gamma, beta, mean, var)"))
    assert (graph.initializers[graph[0].inputs[1].name].const_value.numpy() != 0).all()


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_by_constants_is_one_by_matrices(name):
    found = kinds(fused(PRODUCTS[name])[0])
    assert found["sparsec::MatMul"] == (3 if "rows each" in name else 1)
    assert found.keys().isdisjoint({"Einsum", "MatMul"})


@pytest.mark.parametrize(("name", "reason"), [
    ("einsum of equal indices", "repeats an index"), ("matrices and rows that broadcast", "broadcast over the rows")])
def test_other_products_say_why_they_stay(name, reason):
    assert reason in " ".join(fused(GRAPHS[name])[1])


@pytest.mark.parametrize(("equation", "left", "right"), [
    ("bghid,bghjd->bghij", (1, 3, 2, 5, 4), (1, 3, 2, 6, 4)), ("bhij,bjhd->bihd", (2, 3, 4, 5), (2, 5, 3, 6)),
    ("abc,dca->bd", (2, 3, 4), (5, 4, 2)), ("...i,i->...", (2, 3, 4), (4,)), ("nka,nkb", (2, 3, 4), (2, 3, 5))])
def test_an_einsum_of_two_activations_is_a_batch_of_products(equation, left, right):
    shape = np.einsum(equation, np.zeros(left), np.zeros(right)).shape
    sizes = [",".join(map(str, each)) for each in (left, right, shape)]
    graph = load(onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[{sizes[0]}] a, float[{sizes[1]}] b) => (float[{sizes[2]}] y)'
        f' {{ y = Einsum<equation="{equation}">(a, b) }}'))
    a, b = (np.random.default_rng(0).standard_normal(each).astype(np.float32) for each in (left, right))
    products.run(graph, Context(resolve("cpu-generic")))
    assert {node.op_type for node in graph.graph} <= {"MatMul", "Reshape", "Transpose"}
    np.testing.assert_allclose(evaluate(graph, {"a": a, "b": b})[0], np.einsum(equation, a, b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("behind", [
    "s = Reshape(h, two) t = Transpose(s) y = Relu(t)", "s = Unsqueeze(h, zero) t = Flatten<axis=2>(s) y = Tanh(t)",
    "s = Reshape(h, two) r = Sigmoid(s) t = Transpose(r) y = Add(t, t)",
])
def test_an_activation_behind_moves_goes_into_the_layer(behind):
    proto = model(f"g (float[4,8] x) => (float[a,b] y) <float[8,6] w, int64[2] two = {{3, 8}}, int64[1] zero = {{0}}>"
                  f"{{ h = MatMul(x, w) {behind} }}")
    graph, _ = fused(proto)
    assert not {"Relu", "Tanh", "Sigmoid"} & set(kinds(graph))


def test_an_activation_behind_moves_that_are_read_again_stays():
    proto = model("g (float[4,8] x) => (float[8,3] y, float[3,8] s) <float[8,6] w, int64[2] two = {3, 8}>"
                  "{ h = MatMul(x, w) s = Reshape(h, two) t = Transpose(s) y = Relu(t) }")
    assert kinds(fused(proto)[0])["Relu"] == 1
