"""Movements between layers of run-time sizes: whatever chain writes them, they are right, few, and cost no kernel."""

import json
import os
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsec
from sparsec.analysis.symbols.inference import infer_symbols
from sparsec.analysis.symbols.size import Size
from sparsec.compiler.sized.movement import shorten_moves
from sparsec.compiler.sized.views import view_of
from sparsec.graph.compare import relative_error, run_onnxruntime
from sparsec.graph.reader import load

RNG = np.random.default_rng(5)
C, HEADS, WIDE = 16, 2, 24
HEADER = '<ir_version: 10, opset_import: ["" : 20]>'


def weight(name, *shape):
    values = RNG.standard_normal(shape, np.float32) * (RNG.random(shape) < 0.3) / 2
    return onnx.numpy_helper.from_array(values.astype(np.float32), name)


def encoder(shape, *, own_order, gemm=True, scaled="both"):
    """One layer as `nn.TransformerEncoderLayer` is exported, for inputs of a shape."""
    turn, source, back = ("", "x", "Identity(z)") if own_order else (
        "turned = Transpose<perm=[1, 0, 2]>(x)", "turned", "Transpose<perm=[1, 0, 2]>(z)")
    out = ("f = Reshape<allowzero=1>(mixed, flat) p = Gemm<transB=1>(f, wo, bo) z = Reshape<allowzero=1>(p, tokens)"
           if gemm else "f = Reshape<allowzero=1>(mixed, tokens) p = MatMul(f, wt) z = Add(p, bo)")
    scale = {"both": "qs = Mul(q, half) ks = Mul(kt, half) s = MatMul(qs, ks)",
             "scores": "r = MatMul(q, kt) s = Mul(r, scale)"}[scaled]
    return f"""{HEADER} encoder (float[{shape}, {C}] x) => (float[{shape}, {C}] y) {{
  {turn}
  h = MatMul({source}, wi) i = Add(h, bi)
  first = Shape<start=0, end=1>({source}) second = Shape<start=1, end=2>({source})
  five = Concat<axis=0>(first, second, three, width) v5 = Reshape<allowzero=1>(i, five)
  u = Unsqueeze(v5, zero) t = Transpose<perm=[3, 1, 2, 0, 4]>(u) packed = Squeeze(t, at3)
  q3 = Gather<axis=0>(packed, i0) k3 = Gather<axis=0>(packed, i1) v3 = Gather<axis=0>(packed, i2)
  groups = Mul(second, heads) three_d = Concat<axis=0>(first, groups, depth)
  q2 = Reshape<allowzero=1>(q3, three_d) k2 = Reshape<allowzero=1>(k3, three_d) v2 = Reshape<allowzero=1>(v3, three_d)
  q1 = Transpose<perm=[1, 0, 2]>(q2) k1 = Transpose<perm=[1, 0, 2]>(k2) v1 = Transpose<perm=[1, 0, 2]>(v2)
  four = Concat<axis=0>(second, heads, first, depth)
  q = Reshape<allowzero=1>(q1, four) k = Reshape<allowzero=1>(k1, four) v = Reshape<allowzero=1>(v1, four)
  kt = Transpose<perm=[0, 1, 3, 2]>(k)
  {scale} a = Softmax<axis=-1>(s) o = MatMul(a, v)
  mixed = Transpose<perm=[2, 0, 1, 3]>(o) tokens = Concat<axis=0>(first, second, width)
  {out}
  b = {back} r1 = Add(x, b) n = LayerNormalization<axis=-1>(r1, g, e)
  w1 = MatMul(n, up) w2 = Relu(w1) w3 = MatMul(w2, down) y = Add(n, w3)
}}"""


def encoder_model(shape, **how):
    model = onnx.parser.parse_model(encoder(shape, **how))
    integers = {"three": [3], "width": [C], "zero": [0], "at3": [3], "heads": [HEADS], "depth": [C // HEADS],
                "flat": [-1, C]}
    model.graph.initializer.extend([
        weight("wi", C, 3 * C), weight("bi", 3 * C), weight("wo", C, C), weight("wt", C, C), weight("bo", C),
        weight("g", C), weight("e", C), weight("up", C, WIDE), weight("down", WIDE, C),
        onnx.numpy_helper.from_array(np.float32((C // HEADS) ** -0.25), "half"),
        onnx.numpy_helper.from_array(np.float32((C // HEADS) ** -0.5), "scale"),
        *(onnx.numpy_helper.from_array(np.array(each), name) for name, each in integers.items()),
        *(onnx.numpy_helper.from_array(np.array(number), f"i{number}") for number in range(3))])
    return model


FORMS = {
    "batch first": ("b, t", {"own_order": False}, {}),
    "tokens first": ("t, b", {"own_order": True}, {"b": "0..2", "t": "0..2"}),
    "one text": ("b, t", {"own_order": False}, {"b": 1, "t": "0..4"}),
    "fixed tokens": ("b, 5", {"own_order": False}, {"b": "0..3"}),
}
MORE = {
    "no flat rows": ("b, t", {"own_order": False, "gemm": False, "scaled": "scores"}, {}),
    "one text, tokens first": ("t, b", {"own_order": True}, {"b": 1}),
    "one token": ("b, t", {"own_order": False}, {"t": 1}),
    "tokens first, fixed": ("5, b", {"own_order": True}, {}),
} if os.environ.get("SPARSEC_LONG") else {}


@pytest.mark.parametrize(("shape", "how", "dims"), (FORMS | MORE).values(), ids=FORMS | MORE)
def test_encoders_run_on_kernels_in_any_order_of_batch_and_tokens(shape, how, dims):
    model = encoder_model(shape, **how)
    artifact = sparsec.compile(model, tune="off", dims=dims, strict=True)
    assert artifact.report["outside"] == []
    layers = {layer["layer"] for layer in artifact.report["layers"]}
    assert len(layers) == 4
    plan = json.loads(artifact.constants()[0].tobytes())
    kinds = Counter(step["op"] for step in plan["steps"])
    assert kinds["rows"] <= 3
    assert kinds["attention"] == 1
    session = sparsec.InferenceSession(artifact)
    for b, t in ((1, 1), (3, 5), (2, 17), (0, 4)):
        sizes = {name: limit if isinstance(limit := dims.get(name, "0..99"), int) else min(size, int(limit[3:]))
                 for name, size in (("b", b), ("t", t))}
        x = RNG.standard_normal([sizes.get(name, 5) for name in shape.split(", ")] + [C], np.float32)
        assert relative_error(session.run(None, {"x": x})[0], run_onnxruntime(model, {"x": x})[0]) < 1e-5


@st.composite
def chains(draw):
    """A chain of movements of float[b, t, 6, 4], with how numpy does it, as functions of b and t."""
    b, t = Size.of("b"), Size.of("t")
    shape, steps = [b, t, Size.of(6), Size.of(4)], []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["transpose", "join", "split", "one", "gather"]))
        axis = draw(st.integers(0, len(shape) - 1))
        if kind == "transpose":
            order = draw(st.permutations(range(len(shape))))
            steps.append(("Transpose", f"perm=[{', '.join(map(str, order))}]", None))
            shape = [shape[each] for each in order]
        elif kind == "gather" and (size := shape[axis].number):
            steps.append(("Gather", f"axis={axis}", np.array(draw(st.integers(-size, size - 1)))))
            shape = shape[:axis] + shape[axis + 1:]
            if not shape:
                break
        elif kind == "one":
            steps.append(("Unsqueeze", "", np.array([axis])))
            shape = [*shape[:axis], Size.of(1), *shape[axis:]]
        elif kind == "join" and axis + 1 < len(shape):
            shape = [*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2:]]
            steps.append(("Reshape", "allowzero=1", tuple(shape)))
        elif kind == "split" and (size := shape[axis].number) and not size % 2:
            shape = [*shape[:axis], Size.of(size // 2), Size.of(2), *shape[axis + 1:]]
            steps.append(("Reshape", "allowzero=1", tuple(shape)))
    return steps


def chain_model(steps):
    """x and the chain's end as it is read by Abs; shapes are computed from that of x, as exporters do."""
    lines, constants, value = ["sb = Shape<start=0, end=1>(x) st = Shape<start=1, end=2>(x)"], {}, "x"
    for number, (operator, attributes, argument) in enumerate(steps):
        second = ""
        if isinstance(argument, tuple):
            parts = []
            for axis, size in enumerate(argument):
                ((names, factor),) = size.terms
                constants[f"c{number}_{axis}"] = np.array([factor])
                part = f"c{number}_{axis}"
                for index, name in enumerate(names):
                    lines.append(f"p{number}_{axis}_{index} = Mul({part}, s{name})")
                    part = f"p{number}_{axis}_{index}"
                parts.append(part)
            lines.append(f"target{number} = Concat<axis=0>({', '.join(parts)})")
            second = f", target{number}"
        elif argument is not None:
            constants[f"a{number}"], second = argument, f", a{number}"
        lines.append(f"v{number} = {operator}{f'<{attributes}>' if attributes else ''}({value}{second})")
        value = f"v{number}"
    text = f"{HEADER} chain (float[b, t, 6, 4] x) => (float y) {{ {' '.join(lines)} y = Abs({value}) }}"
    model = onnx.parser.parse_model(text)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return model


@settings(max_examples=60, deadline=None)
@given(chains())
def test_chains_of_movements_are_views_of_what_they_move(steps):
    proto = chain_model(steps)
    model = load(proto, symbolic=True)
    symbols = infer_symbols(model.graph)
    last = next(node for node in model.graph if node.op_type == "Abs")
    before = view_of(last.inputs[0], symbols)
    assert before is None or before[0].shape() == symbols.shapes[last.inputs[0]]
    shorten_moves(model.graph, symbols)
    after = view_of(last.inputs[0], symbols)
    assert after is None or len(after[1]) <= len(before[1])
    moved = ir.to_proto(model)
    for shape in ((2, 3), (1, 1), (4, 1)):
        x = RNG.standard_normal((*shape, 6, 4), np.float32)
        assert np.array_equal(run_onnxruntime(moved, {"x": x})[0], run_onnxruntime(proto, {"x": x})[0])


@pytest.mark.parametrize(("operator", "shape"), [("Add", (HEADS, 1, 1)), ("Mul", (1, HEADS, 1, 8)),
                                                 ("MatMul", (1, HEADS, 8, 8)), ("MatMul", (8, 8))])
def test_constants_that_differ_by_head_stay_with_their_heads(operator, shape):
    model = onnx.parser.parse_model(f"""{HEADER} heads (float[batch, tokens, {C}] x) => (float[batch, tokens, {C}] y) {{
      h = MatMul(x, up) s = Reshape(h, split) t = Transpose<perm=[0, 2, 1, 3]>(s) o = {operator}(t, own)
      b = Transpose<perm=[0, 2, 1, 3]>(o) f = Reshape(b, flat) y = MatMul(f, up) }}""")
    model.graph.initializer.extend([weight("up", C, C), onnx.numpy_helper.from_array(
        RNG.standard_normal(shape, np.float32), "own")])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(value), name) for name, value in (
        ("split", [0, 0, HEADS, 8]), ("flat", [0, 0, C])))
    session = sparsec.InferenceSession(sparsec.compile(model, tune="off"))
    for sizes in ((1, 1), (2, 7), (HEADS, HEADS)):
        feeds = {"x": RNG.standard_normal((*sizes, C), np.float32)}
        assert relative_error(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0]) < 1e-5


def test_attention_with_a_bias_and_a_mask_is_one_kernel():
    model = onnx.parser.parse_model(f"""{HEADER} biased (float[batch, tokens, {C}] x, float[batch, 1, 1, tokens] mask,
      float[{HEADS}, tokens, tokens] bias) => (float[batch, tokens, {C}] y) {{
      h = MatMul(x, up) s = Reshape(h, split) q = Transpose<perm=[0, 2, 1, 3]>(s) k = Transpose<perm=[0, 2, 3, 1]>(s)
      p = MatMul(q, k) r = Add(p, bias) t = Add(mask, r) w = Softmax(t) o = MatMul(w, q)
      b = Transpose<perm=[0, 2, 1, 3]>(o) f = Reshape(b, flat) y = MatMul(f, up) }}""")
    model.graph.initializer.extend([weight("up", C, C), *(onnx.numpy_helper.from_array(np.array(value), name)
                                    for name, value in (("split", [0, 0, HEADS, 8]), ("flat", [0, 0, C])))])
    artifact = sparsec.compile(model, tune="off")
    session = sparsec.InferenceSession(artifact)
    assert "attention" in {step["op"] for step in json.loads(artifact.constants()[0].tobytes())["steps"]}
    for batch, tokens in ((1, 1), (2, 7)):
        feeds = {"x": (batch, tokens, C), "mask": (batch, 1, 1, tokens), "bias": (HEADS, tokens, tokens)}
        feeds = {name: RNG.standard_normal(shape, np.float32) for name, shape in feeds.items()}
        assert relative_error(session.run(None, feeds)[0], run_onnxruntime(model, feeds)[0]) < 1e-5
