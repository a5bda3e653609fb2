"""onnxruntime's own operators in every form that is taken, a node each, with inputs."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

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
    "grouped, soft cap": ("GroupQueryAttention", [*GROUPED, None, None, *FIRST],
                          {"num_heads": N, "kv_num_heads": 2, "softcap": 2.0}, 3),
    "grouped, sinks": ("GroupQueryAttention", [*GROUPED, None, None, *FIRST, None, None, None, None, f(4)],
                       {"num_heads": N, "kv_num_heads": 2}, 3),
    "grouped, smooth": ("GroupQueryAttention", [*GROUPED, None, None, *FIRST],
                        {"num_heads": N, "kv_num_heads": 2, "smooth_softmax": 1}, 3),
    "experts": ("MoE", [f(6, 8), f(6, 4), f(4, 12, 8), f(4, 12), f(4, 8, 12), f(4, 8)],
                {"k": 2, "activation_type": "silu", "normalize_routing_weights": 1}, 1),
    "experts, gated": ("MoE", [f(2, 3, 8), f(6, 4), f(4, 24, 8), None, f(4, 8, 12)], {
        "k": 1, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.7, "activation_beta": 1.0,
        "swiglu_limit": 7.0}, 1),
    "dimension": ("ExpandDims", [f(2, 3), i(-1)], {}, 1),
    "samples of a grid": ("GridSample", [f(1, 2, 4, 4), f(1, 3, 3, 2)], {"mode": "bilinear", "align_corners": 1}, 1),
    "pool, channels last": ("NhwcMaxPool", [RNG.integers(0, 255, (1, 5, 5, 4)).astype(np.uint8)],
                            {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    "distances": ("CDist", [f(4, 3), f(5, 3)], {"metric": "euclidean"}, 1),
    "squared distances": ("CDist", [f(4, 3), f(5, 3)], {"metric": "sqeuclidean"}, 1),
    "padded": ("Pad", [f(2, 3), np.array([1, 0, 0, 2]), f(1)], {}, 1),
    "transposed convolution": ("ConvTransposeWithDynamicPads", [f(1, 2, 3, 3), f(2, 2, 4, 4), np.array([1, 1, 1, 1])],
                               {"strides": [2, 2]}, 1),
    "numbers": ("Range", [np.array(0), np.array(5), np.array(2)], {}, 1),
    "gathered": ("GatherND", [f(4, 3), np.array([[0], [2], [2]])], {}, 1),
    "grouped, past": ("GroupQueryAttention", [*ONE, *PAST, *LATER, *TABLES],
                      {"num_heads": N, "kv_num_heads": 2, "do_rotary": 1, "rotary_interleaved": 1}, 3),
}


STEERED = ("ConvTransposeWithDynamicPads", "ExpandDims", "Pad", "Range")
"""Operators whose integers are constants, too."""


def network(operator, inputs, attributes, outputs, opset):
    """A model of one node, with its inputs; those of float32 but the first are constants."""
    names = [f"i{k}" if value is not None else "" for k, value in enumerate(inputs)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if name}
    constant = {name for name in given if name != "i0" and (given[name].dtype == np.float32 or operator in STEERED)}
    feeds = {name: value for name, value in given.items() if name not in constant}
    values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
              for name, value in feeds.items()]
    results = ["y" if k == 0 else f"y{k}" if k in _wanted(operator, outputs) else "" for k in range(outputs)]
    node = helper.make_node(operator, names, results, name="node", domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name=name) for name in results if name],
                              [numpy_helper.from_array(given[name], name) for name in constant])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), feeds


def _wanted(operator, outputs):
    """Outputs of a node beside the first: of normalisations not the mean and the deviation."""
    return {3} if operator.startswith("Skip") else set(range(1, outputs))
