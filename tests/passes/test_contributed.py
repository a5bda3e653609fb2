"""onnxruntime's operators, written out in ONNX's, give what its own kernels give, in every form that is taken."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import sparsec
from sparsec.compiler.pipeline import PASSES
from sparsec.errors import UnsupportedOperatorError
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.graph.evaluate import evaluate
from sparsec.graph.ort import session
from sparsec.graph.reader import load
from sparsec.passes import contributed, foreign
from sparsec.passes.context import Context
from sparsec.target import resolve
from tests.support.contributed import CASES, B, H, N, S, f, network

CONTEXT = Context(resolve("cpu"))
def declared(proto, arrays):
    """The model with the types of its outputs."""
    for value, array in zip(proto.graph.output, arrays, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
    return proto


@pytest.mark.parametrize("opset", [14, 20])
@pytest.mark.parametrize("name", CASES)
def test_what_is_written_out_equals_onnxruntimes_kernel(name, opset):
    proto, feeds = network(*CASES[name], opset)
    expected = run_onnxruntime(proto, feeds)
    graph = load(declared(proto, expected))
    contributed.run(graph, CONTEXT)
    assert not any(node.domain for node in graph.graph)
    for array, wanted in zip(evaluate(graph, feeds), expected, strict=True):
        assert array.shape == wanted.shape
        assert relative_error(array, wanted) < 2e-5


@pytest.mark.parametrize("name", ["attention, mask", "multi-head", "skip", "bias gelu", "fused conv", "grouped, past"])
def test_it_compiles(name):
    proto, feeds = network(*CASES[name], 17)
    assert sparsec.compile(declared(proto, run_onnxruntime(proto, feeds)), tune="off").report["verification"]


def test_bert_as_onnxruntime_optimises_it_is_fused_again():
    proto, feeds = network(*CASES["attention, mask"], 17)
    graph = load(declared(proto, run_onnxruntime(proto, feeds)))
    for each in PASSES:
        each.run(graph, CONTEXT)
    assert "Attention" in {node.op_type for node in graph.graph if node.domain == "sparsec"}


BODIES = {
    "branches": "y = If(c) <then_branch = t() => (float[2,4] a) { a = com.microsoft.Gelu(x) }, "
                "else_branch = e() => (float[2,4] b) { b = com.microsoft.QuickGelu(x) }>",
    "a loop of a computed number of trips": "k = Constant<value_int=3>() n = Cast<to=7>(c) m = Mul(n, k)"
                                            "y = Loop(m, c, x) <body = b(int64 i, bool go, float[2,4] v) =>"
                                            "(bool on, float[2,4] w) { on = Identity(go) w = com.microsoft.Gelu(v) }>",
}


@pytest.mark.parametrize("name", BODIES)
def test_operators_within_bodies_are_written_out(name):
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
                               f"g (float[2,4] x, bool c) => (float[2,4] y) {{ {BODIES[name]} }}")
    assert sparsec.compile(proto, tune="off").report["verification"]["inputs"] > 0


@pytest.mark.parametrize(("scale", "bias"), [([5], [4, 1]), ([1], None), ([4, 5], [5])])
def test_scales_and_biases_of_layer_norms_broadcast(scale, bias):
    parameters = {"s": f(*scale), **({} if bias is None else {"b": f(*bias)})}
    node = helper.make_node("LayerNormalization", ["x", *parameters], ["y"], axis=2)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4, 5]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:],
                              [numpy_helper.from_array(array, name) for name, array in parameters.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert sparsec.compile(proto, tune="off").report["verification"]["inputs"] > 0


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, scale, offset, groups=2, epsilon=1e-5):
    """Of images with their channels last, and SiLU."""
    n, h, w, c = x.shape
    rows = x.reshape(n, h * w, groups, c // groups)
    y = (rows - rows.mean((1, 3), keepdims=True)) / np.sqrt(rows.var((1, 3), keepdims=True) + epsilon)
    return silu(y.reshape(x.shape) * scale + offset)


def split_gelu(x, bias):
    left, right = np.split(x + bias, 2, -1)
    return left * right * (1 + np.vectorize(math.erf)(right / math.sqrt(2))) / 2


IMAGE, GROUPS = f(2, 3, 4, 8), {"groups": 2, "activation": 1, "epsilon": 1e-5}
DEFINED = {  # operator -> inputs, attributes, definition: those without a kernel for CPUs
    "BiasAdd": ([f(2, 3, 8), f(8), f(2, 3, 8)], {}, lambda x, b, s: x + b + s),
    "BiasDropout": ([f(2, 3, 8), f(8), f(2, 3, 8)], {}, lambda x, b, s: x + b + s),
    "BiasSoftmax": ([f(2, 3, 5), f(2, 1, 5)], {"axis": 2},
                    lambda x, b: np.exp(x + b) / np.exp(x + b).sum(-1, keepdims=True)),
    "BiasSplitGelu": ([f(2, 3, 8), f(8)], {}, split_gelu),
    "GroupNorm": ([IMAGE, f(8), f(8)], GROUPS, group_norm),
    "SkipGroupNorm": ([IMAGE, f(8), f(8), f(2, 8), f(8)], GROUPS,
                      lambda x, g, b, s, more: group_norm(x + s[:, None, None] + more, g, b)),
    "NhwcConv": ([f(1, 5, 5, 3), f(4, 3, 1, 1)], {}, lambda x, w: np.einsum("nhwc,oc->nhwo", x, w[:, :, 0, 0])),
    "NhwcFusedConv": ([f(1, 5, 5, 3), f(4, 3, 1, 1), f(4), f(1, 5, 5, 4)], {"activation": "Relu"},
                      lambda x, w, b, z: np.maximum(np.einsum("nhwc,oc->nhwo", x, w[:, :, 0, 0]) + b + z, 0)),
}


@pytest.mark.parametrize("operator", DEFINED)
def test_operators_without_a_kernel_for_cpus_are_as_defined(operator):
    inputs, attributes, definition = DEFINED[operator]
    expected = definition(*inputs).astype(np.float32)
    proto, feeds = network(operator, inputs, attributes, 1, 17)
    graph = load(declared(proto, [expected]))
    contributed.run(graph, CONTEXT)
    assert relative_error(evaluate(graph, feeds)[0], expected) < 1e-5


def test_every_operator_is_met():
    before_onnx = {"LayerNormalization", "SimplifiedLayerNormalization"}  # below
    assert {operator for operator, *_ in CASES.values()} | {*DEFINED} | before_onnx == set(contributed.WRITERS)


@pytest.mark.parametrize("operator", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_layer_norms_that_onnx_did_not_define_yet(operator):
    parameters = ["s", "b"] if operator == "LayerNormalization" else ["s"]
    node = helper.make_node(operator, ["x", *parameters], ["y"], axis=-1)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 8])],
                              [numpy_helper.from_array(f(8), name) for name in parameters])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    assert session(proto)
    assert sparsec.compile(proto, tune="off").report["verification"]["inputs"] > 0


@pytest.mark.parametrize(("domain", "operator", "reason"), [
    ("com.microsoft", "Tokenizer", "without onnxruntime's optimisation"),
    ("ai.onnx.ml", "TreeEnsembleRegressor", "trees are no network"),
    ("acme", "Magic", "cut the model around them")])
def test_what_nobody_knows_is_refused_by_name_with_the_way_out(domain, operator, reason):
    nodes = [helper.make_node(operator, ["x"], [f"y{k}"], name=f"node{k}", domain=domain) for k in range(2)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
                              [helper.make_tensor_value_info("y0", TensorProto.FLOAT, [2])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)])
    with pytest.raises(UnsupportedOperatorError, match=rf"'node0' \({domain}::{operator}.*{reason}"):
        sparsec.compile(proto, tune="off")


def test_strings_are_refused_with_the_way_out():
    node = helper.make_node("Equal", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.STRING, [2])],
                              [helper.make_tensor_value_info("y", TensorProto.BOOL, [2])])
    with pytest.raises(UnsupportedOperatorError, match="strings 'x'; encode"):
        sparsec.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), tune="off")
    names = numpy_helper.from_array(np.array(["no", "yes"]), "names")
    graph = helper.make_graph([helper.make_node("Gather", ["names", "x"], ["y"])], "g",
                              [helper.make_tensor_value_info("x", TensorProto.INT64, [2])],
                              [helper.make_tensor_value_info("y", TensorProto.STRING, [2])], [names])
    with pytest.raises(UnsupportedOperatorError, match=r"labels as strings: .* integers"):
        sparsec.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), tune="off")


def test_a_form_that_is_not_taken_is_refused_by_name():
    proto, _ = network("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H)], {"num_heads": N, "do_rotary": 1}, 1, 17)
    with pytest.raises(UnsupportedOperatorError, match=r"'node': com.microsoft::Attention: it rotates"):
        contributed.run(load(declared(proto, [f(B, S, H)])), CONTEXT)


def test_foreign_operators_of_onnxruntime_pass_where_they_are_known():
    proto, feeds = network(*CASES["gelu"], 17)
    assert not foreign.run(load(declared(proto, run_onnxruntime(proto, feeds))), CONTEXT).modified
