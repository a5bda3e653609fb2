"""Attention, RotaryEmbedding and RMSNormalization of ONNX's opset 23 at run-time sizes, as its reference has them."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import sparsec
from sparsec.graph.compare import relative_error, run_onnxruntime

RNG = np.random.default_rng(0)
HEADER = '<ir_version: 10, opset_import: ["": 23]>'
CACHED = f"""{HEADER} m (float[b, s, 32] q, float[b, s, 16] k, float[b, s, 16] v, float[b, 2, p, 8] pk,
    float[b, 2, p, 8] pv) => (float[b, s, 32] y, float[b, 2, t, 8] nk, float[b, 2, t, 8] nv) {{
  y, nk, nv = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1MORE>(q, k, v, MASK, pk, pv) }}"""
APART = f"""{HEADER} m (float[b, 4, s, 8] q, float[b, 4, t, 8] k, float[b, 4, t, 6] v, MASK) => (float[b, 4, s, 6] y) {{
  y = Attention<scale=0.3, is_causal=CAUSAL>(q, k, v, mask) }}"""
ROTARY = f"""{HEADER} m (float[b, s, 32] x, int64[b, s] places, float[20, HALF] cos, float[20, HALF] sin)
  => (float[b, s, 32] y) {{ y = RotaryEmbedding<num_heads=2, MORE>(x, cos, sin, places) }}"""
ROTARY_APART = f"""{HEADER} m (float[b, 2, s, 8] x, float[b, s, 4] cos, float[b, s, 4] sin) => (float[b, 2, s, 8] y) {{
  y = RotaryEmbedding(x, cos, sin) }}"""
NORM = f"""{HEADER} m (float[b, s, 8] x) => (float[b, s, 5] y) <float[8] g = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{
  n = RMSNormalization<axis=-1, epsilon=0.001>(x, g)
  w = Constant<value = float[8, 5] {{WEIGHT}}>() y = MatMul(n, w) }}"""
SCORES = f"""{HEADER} m (float[b, 4, s, 8] q, float[b, 4, t, 8] k, float[b, 4, t, 6] v, MASK)
  => (float[b, 4, s, 6] y, float[b, 4, s, t] p) {{
  y, nk, nv, p = Attention<scale=0.3, qk_matmul_output_mode=MODE>(q, k, v, mask) }}"""
WINDOWS = f"""{HEADER.replace("23", "25")} m (float[b, 4, s, 8] q, float[b, 4, s, 8] k, float[b, 4, s, 6] v)
  => (float[b, 4, s, 6] y) {{ y = Attention<left_window_size=LEFT, right_window_size=RIGHT>(q, k, v) }}"""
FILLED = f"""{HEADER.replace("23", "24")} m (float[b, 2, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v, int64[b] n)
  => (float[b, 2, s, 8] y) {{ y = Attention<is_causal=1>(q, k, v, , , , n) }}"""

CASES = {
    "cached": CACHED.replace("MORE", "").replace("MASK", ""),
    "cached, soft cap": CACHED.replace("MORE", ", softcap=2.0, scale=0.7").replace("MASK", ""),
    "no soft cap": CACHED.replace("MORE", ", softcap=-2.0").replace("MASK", ""),
    "mask": APART.replace("MASK", "bool[b, 1, s, t] mask").replace("CAUSAL", "0"),
    "mask of floats": APART.replace("MASK", "float[s, t] mask").replace("CAUSAL", "1"),
    "filled": FILLED,
    "scores, capped": SCORES.replace("MODE", "1, softcap=1.5, is_causal=1").replace("MASK", "bool[b, 1, s, t] mask"),
    "scores with a mask": SCORES.replace("MODE", "2").replace("MASK", "float[s, t] mask"),
    "weights": SCORES.replace("MODE", "3").replace("MASK", "bool[b, 1, s, t] mask"),
    "windows": WINDOWS.replace("LEFT", "1").replace("RIGHT", "0"),
    "windows on the right": WINDOWS.replace("LEFT", "-1").replace("RIGHT", "2"),
    "rotary": ROTARY.replace("HALF", "8").replace("MORE", "interleaved=0"),
    "rotary in part, interleaved": ROTARY.replace("HALF", "3").replace("MORE", "interleaved=1, rotary_embedding_dim=6"),
    "rotary of heads": ROTARY_APART,
    "norm": NORM.replace("WEIGHT", ", ".join(f"{value:.2f}" for value in RNG.standard_normal(40))),
}


def feeds_of(model, sizes):
    feeds = {}
    for value in model.graph.input:
        dims = [dim.dim_value or sizes[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        feeds[value.name] = (RNG.random(dims) < 0.7 if kind == onnx.TensorProto.BOOL else
                             RNG.integers(1, sizes.get("t", 20), dims) if kind == onnx.TensorProto.INT64 else
                             RNG.standard_normal(dims).astype(np.float32))
    return feeds


def test_a_mask_of_lengths_is_right_at_every_size():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        m (float[b, s, 16] q, float[b, s, 16] k, int32[b] n) => (float[b, s, 16] y) {
        y = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, k, , n) }""")
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    for b, s in ((1, 1), (2, 5), (3, 9)):
        feeds = {**feeds_of(model, {"b": b, "s": s}), "n": np.int32([max(1, s - i) for i in range(b)])}
        assert relative_error(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0]) < 1e-5


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_standard_operators_are_right_at_every_size(text):
    model = onnx.parser.parse_model(text)
    artifact = sparsec.compile(model, tune="off", verify=False)
    session, reference = sparsec.InferenceSession(artifact), ReferenceEvaluator(model)
    assert {each["operator"] for each in artifact.report["outside"]} <= {"MatMul"}  # of two activations, by numpy
    for b, s, p in ((1, 1, 7), (2, 5, 3), (1, 3, 0), (2, 1, 1)):
        feeds = feeds_of(model, {"b": b, "s": s, "p": p, "t": s + p})
        errors = [relative_error(*pair) for pair in zip(session.run(None, feeds), reference.run(None, feeds),
                                                        strict=True)]
        assert max(errors) < 1e-5, (b, s, p)
