"""onnxruntime's operators, written out in ONNX's, give what its own kernels give, in every form that is taken."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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

CONTEXT = Context(resolve("cpu"))
B, S, H, N = 2, 5, 16, 4  # batch, tokens, features, heads
RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def i(values):
    return np.array(values, np.int32)


MASK = i([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ANGLES = np.outer(np.arange(12), 0.5 ** np.arange(2)).astype(np.float32)
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)
QKV = [f(B, S, H), f(B, S, H), f(B, S, H)]
GROUPED = [f(B, S, 64), f(B, S, 32), f(B, S, 32)]  # four heads, two of keys
PAST = [f(B, 2, 3, 16), f(B, 2, 3, 16)]
WIDE = np.outer(np.arange(12), 0.5 ** np.arange(8)).astype(np.float32)
TABLES = [np.cos(WIDE), np.sin(WIDE)]
FIRST, LATER = [i([4, 4]), i(5)], [i([3, 2]), i(4)]  # last key of every row, and their number
ONE = [f(B, 1, 64), f(B, 1, 32), f(B, 1, 32)]

CASES = {  # name -> (operator, inputs, attributes, which outputs)
    "gelu": ("Gelu", [f(3, 4)], {}, 1),
    "bias gelu": ("BiasGelu", [f(2, 3, 4), f(4)], {}, 1),
    "fast gelu": ("FastGelu", [f(2, 3, 4)], {}, 1),
    "fast gelu, bias": ("FastGelu", [f(2, 3, 4), f(4)], {}, 1),
    "quick gelu": ("QuickGelu", [f(2, 3, 4)], {"alpha": 1.2}, 1),
    "fused matmul": ("FusedMatMul", [f(2, 4, 3), f(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}, 1),
    "fused matmul, batches": ("FusedMatMul", [f(3, 2, 4), f(4, 2, 5)], {"transBatchA": 1, "transBatchB": 1}, 1),
    "transposed matmul": ("TransposeMatMul", [f(2, 4, 3), f(2, 5, 4)], {"transA": 1, "transB": 1}, 1),
    "triangle": ("Trilu", [f(2, 4, 5), np.array(1)], {"upper": 0}, 1),
    "fused gemm": ("FusedGemm", [f(3, 4), f(5, 4), f(5)], {
        "transB": 1, "alpha": 0.5, "beta": 2.0, "activation": "LeakyRelu", "activation_alpha": 0.3}, 1),
    "fused conv": ("FusedConv", [f(1, 3, 6, 6), f(4, 3, 3, 3), f(4)],
                   {"pads": [1] * 4, "strides": [2, 2], "activation": "Clip", "activation_params": [-0.5, 0.5]}, 1),
    "fused conv, residual": ("FusedConv", [f(1, 3, 6, 6), f(4, 3, 3, 3), f(4), f(1, 4, 4, 4)],
                             {"activation": "Relu", "kernel_shape": [3, 3]}, 1),
    "skip": ("SkipLayerNormalization", [f(B, S, H), f(B, S, H), f(H), f(H), f(H)], {"epsilon": 1e-5}, 4),
    "skip, broadcast": ("SkipLayerNormalization", [f(B, S, H), f(1, S, H), f(H)], {}, 1),
    "simplified skip": ("SkipSimplifiedLayerNormalization", [f(B, S, H), f(B, S, H), f(H), f(H)], {"epsilon": 1e-6}, 4),
    "embeddings": ("EmbedLayerNormalization",
                   [i(RNG.integers(0, 9, (B, S))), i(RNG.integers(0, 2, (B, S))), f(9, H), f(8, H), f(2, H), f(H), f(H),
                    MASK], {"epsilon": 1e-5, "mask_index_type": 1}, 3),
    "embeddings, positions": ("EmbedLayerNormalization",
                              [i(RNG.integers(0, 9, (B, S))), None, f(9, H), f(8, H), None, f(H), f(H), None,
                               i([[7, 6, 5, 4, 3]] * B)], {}, 2),
    "attention": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H)], {"num_heads": N}, 1),
    "attention, mask": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), MASK], {"num_heads": N}, 1),
    "attention, ends": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), i([5, 3])], {"num_heads": N}, 1),
    "attention, ends and starts": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), i([5, 4, 0, 1])],
                                   {"num_heads": N}, 1),
    "attention, mask of queries": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), np.stack([MASK] * S, 1)],
                                   {"num_heads": N, "mask_filter_value": -1e4}, 1),
    "attention, causal": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), MASK], {"num_heads": N, "unidirectional": 1},
                          1),
    "attention, pruned": ("Attention", [f(B, S, H), f(H, 20), f(20)],
                          {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 12], "scale": 0.3}, 1),
    "attention, past": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), None, f(2, B, N, 3, 4)],
                        {"num_heads": N, "unidirectional": 1}, 2),
    "attention, bias": ("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H), None, None, f(1, N, S, S)],
                        {"num_heads": N}, 1),
    "multi-head": ("MultiHeadAttention", QKV, {"num_heads": N}, 1),
    "multi-head, bias and mask": ("MultiHeadAttention", [*QKV, f(3 * H), MASK], {"num_heads": N, "scale": 0.3}, 1),
    "multi-head, causal": ("MultiHeadAttention", QKV, {"num_heads": N, "unidirectional": 1}, 1),
    "multi-head, cross": ("MultiHeadAttention", [f(B, S, H), f(B, 7, H), f(B, 7, 24), None, None, f(1, 1, S, 7)],
                          {"num_heads": N}, 1),
    "multi-head, heads apart": ("MultiHeadAttention", [f(B, S, H), f(B, N, 7, 4), f(B, N, 7, 4)], {"num_heads": N}, 1),
    "multi-head, past": ("MultiHeadAttention", [*QKV, None, None, None, f(B, N, 3, 4), f(B, N, 3, 4)],
                         {"num_heads": N}, 3),
    "rotary": ("RotaryEmbedding", [f(B, S, H), np.array([3]), COS, SIN], {"num_heads": N}, 1),
    "rotary, interleaved": ("RotaryEmbedding", [f(B, N, S, 4), np.array([[0, 3, 1, 2, 4], [5, 6, 7, 8, 9]]), COS, SIN],
                            {"interleaved": 1}, 1),
    "rotary, in part": ("RotaryEmbedding", [f(B, S, 24), np.array([[0, 1, 2, 3, 4]] * B), COS, SIN],
                        {"num_heads": 2, "rotary_embedding_dim": 4}, 1),
    "grouped": ("GroupQueryAttention", [*GROUPED, None, None, *FIRST], {"num_heads": N, "kv_num_heads": 2}, 3),
    "grouped, rotated": ("GroupQueryAttention", [*GROUPED, None, None, *FIRST, *TABLES],
                         {"num_heads": N, "kv_num_heads": 2, "do_rotary": 1}, 3),
    "grouped, packed, a window": ("GroupQueryAttention", [f(B, S, 128), None, None, None, None, *FIRST],
                                  {"num_heads": N, "kv_num_heads": 2, "local_window_size": 2}, 3),
    "grouped, past": ("GroupQueryAttention", [*ONE, *PAST, *LATER, *TABLES],
                      {"num_heads": N, "kv_num_heads": 2, "do_rotary": 1, "rotary_interleaved": 1}, 3),
}


def network(operator, inputs, attributes, outputs, opset):
    """A model of one node, with its inputs; those of float32 but the first are weights."""
    names = [f"i{k}" if value is not None else "" for k, value in enumerate(inputs)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if name}
    constant = {name for name in given if name != "i0" and given[name].dtype == np.float32}
    feeds = {name: value for name, value in given.items() if name not in constant}
    values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
              for name, value in feeds.items()]
    results = ["y" if k == 0 else f"y{k}" if k in _wanted(operator, outputs) else "" for k in range(outputs)]
    node = helper.make_node(operator, names, results, name="node", domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name=name) for name in results if name],
                              [numpy_helper.from_array(given[name], name) for name in constant])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def declared(proto, arrays):
    """The model with the types of its outputs."""
    for value, array in zip(proto.graph.output, arrays, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
    return proto


def _wanted(operator, outputs):
    """Outputs of a node beside the first: of normalisations not the mean and the deviation."""
    return {3} if operator.startswith("Skip") else set(range(1, outputs))


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
    ("ai.onnx.ml", "Normalizer", "run this part before the model"), ("acme", "Magic", "cut the model around them")])
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


def test_a_form_that_is_not_taken_is_refused_by_name():
    proto, _ = network("Attention", [f(B, S, H), f(H, 3 * H), f(3 * H)], {"num_heads": N, "do_rotary": 1}, 1, 17)
    with pytest.raises(UnsupportedOperatorError, match=r"'node': com.microsoft::Attention: it rotates"):
        contributed.run(load(declared(proto, [f(B, S, H)])), CONTEXT)


def test_foreign_operators_of_onnxruntime_pass_where_they_are_known():
    proto, feeds = network(*CASES["gelu"], 17)
    assert not foreign.run(load(declared(proto, run_onnxruntime(proto, feeds))), CONTEXT).modified
