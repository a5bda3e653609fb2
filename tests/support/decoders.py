"""Small decoders of symbolic dimensions with caches, and their inputs."""

import numpy as np
import onnx
from onnx import numpy_helper

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
RNG = np.random.default_rng(0)
WIDTH, HEADS, GROUPS, DEPTH = 16, 4, 2, 16

DECODER = f"""{HEADER} decoder (int64[batch, tokens] ids, float[batch, {GROUPS}, past, {DEPTH}] keys,
    float[batch, {GROUPS}, past, {DEPTH}] values) => (float[batch, tokens, 9] logits, float[b, g, n, d] all_keys,
    float[b, g, n, d] all_values) {{
  x = Gather(table, ids)
  m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) e = Mul(c, c) f = ReduceMean<axes=[-1]>(e) h = Sqrt(f)
  s = Add(h, one) z = Div(c, s)
  q0 = MatMul(z, wq) k0 = MatMul(z, wk) v0 = MatMul(z, wv)
  shape = Shape(ids) qs = Concat<axis=0>(shape, per_head) ks = Concat<axis=0>(shape, per_group)
  q1 = Reshape(q0, qs) k1 = Reshape(k0, ks) v1 = Reshape(v0, ks)
  q = Transpose<perm=[0, 2, 1, 3]>(q1) k = Transpose<perm=[0, 2, 1, 3]>(k1) v = Transpose<perm=[0, 2, 1, 3]>(v1)
  all_keys = Concat<axis=2>(keys, k) all_values = Concat<axis=2>(values, v)
  total = Shape(all_keys) length = Gather(total, two) past0 = Shape(keys) past1 = Gather(past0, two)
  columns = Range(zero, length, step) positions = Range(past1, length, step)
  rows = Unsqueeze(positions, axis1) late = Greater(columns, rows) mask = Where(late, lowest, nothing)
  length1 = Unsqueeze(length, axis0) batch = Slice(shape, axis0, axis1)
  wide = Concat<axis=0>(batch, groups, repeats, length1, depth) whole = Concat<axis=0>(batch, heads, length1, depth)
  k2 = Unsqueeze(all_keys, axis2) k3 = Expand(k2, wide) k4 = Reshape(k3, whole)
  v2 = Unsqueeze(all_values, axis2) v3 = Expand(v2, wide) v4 = Reshape(v3, whole)
  kt = Transpose<perm=[0, 1, 3, 2]>(k4) p = MatMul(q, kt) r = Mul(p, scale) t = Add(r, mask) w = Softmax(t)
  o = MatMul(w, v4) o1 = Transpose<perm=[0, 2, 1, 3]>(o) o2 = Reshape(o1, flat)
  o3 = MatMul(o2, wo) y = Add(x, o3) g = MatMul(y, w1) a = Sigmoid(g) u = Mul(g, a) logits = MatMul(u, w2)
}}"""

GROUPED = f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> grouped (int64[batch, sequence] ids,
    int64[batch, total] mask, float[batch, {GROUPS}, past, {DEPTH}] keys, float[batch, {GROUPS}, past, {DEPTH}] values)
    => (float[batch, sequence, 9] logits, float[b, g, n, d] all_keys, float[b, g, n, d] all_values) {{
  x = Gather(table, ids) total0 = ReduceSum<keepdims=0>(mask, axis1) last = Sub(total0, axis1)
  lengths = Cast<to=6>(last) shape = Shape(mask) total1 = Gather(shape, step) total2 = Cast<to=6>(total1)
  z = SimplifiedLayerNormalization<axis=-1, epsilon=0.00001>(x, gain)
  q = MatMul(z, wq) k = MatMul(z, wk) v = MatMul(z, wv)
  o, all_keys, all_values = com.microsoft.GroupQueryAttention<num_heads={HEADS}, kv_num_heads={GROUPS}, do_rotary=1>(
    q, k, v, keys, values, lengths, total2, cosines, sines)
  p = MatMul(o, wo)
  y, m, d, r = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.00001>(x, p, gain)
  g = MatMul(y, w1) h = Add(g, g) logits = MatMul(h, w2)
}}"""

SHAPES = {"table": (9, WIDTH), "wq": (WIDTH, HEADS * DEPTH), "wk": (WIDTH, GROUPS * DEPTH),
          "wv": (WIDTH, GROUPS * DEPTH), "wo": (HEADS * DEPTH, WIDTH), "w1": (WIDTH, 2 * WIDTH), "w2": (2 * WIDTH, 9),
          "kernel": (4, 3, 3, 3), "head": (5, 4), "each": (4, 1, 3, 3), "gain": (WIDTH,), "cosines": (99, DEPTH // 2),
          "sines": (99, DEPTH // 2)}
NUMBERS = {"one": np.float32(1e-3), "scale": np.float32(0.5), "lowest": np.float32(-1e9), "nothing": np.float32(0),
           "zero": 0, "two": 2, "step": 1, "axis0": [0], "axis1": [1], "axis2": [2], "per_head": [HEADS, DEPTH],
           "per_group": [GROUPS, DEPTH], "groups": [GROUPS], "repeats": [HEADS // GROUPS], "depth": [DEPTH],
           "heads": [HEADS], "flat": [0, 0, HEADS * DEPTH]}


def model_of(text):
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        weight = RNG.standard_normal(shape) * (RNG.random(shape) < 0.5)
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name)
                                   for name, value in NUMBERS.items() if name in read)
    return model


def decoder_feeds(batch, tokens, past):
    cache = [RNG.standard_normal((batch, GROUPS, past, DEPTH), np.float32) for _ in range(2)]
    return {"ids": RNG.integers(0, 9, (batch, tokens)), "keys": cache[0], "values": cache[1]}


def merged_decoder():
    """As Optimum merges two decoders: an If on `use_cache_branch` around one with a past, and one without."""
    model = model_of(DECODER)
    graph = model.graph
    shapes = {value.name: value for value in graph.output}
    branches = []
    for kind in ("then", "else"):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        for node in nodes if kind == "else" else ():
            if node.output[0] in ("all_keys", "all_values"):
                node.op_type = "Identity"
                del node.input[0], node.attribute[:]
            elif node.output[0] == "past1":
                node.op_type = "Sub"
                node.input[:] = ["two", "two"]
                del node.attribute[:]
        branches.append(onnx.helper.make_graph(nodes, kind, [], list(shapes.values())))
    chosen = onnx.helper.make_node("If", ["use_cache_branch"], list(shapes), then_branch=branches[0],
                                   else_branch=branches[1])
    condition = onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    merged = onnx.helper.make_graph([chosen], "merged", [*graph.input, condition], list(graph.output),
                                    list(graph.initializer))
    return onnx.helper.make_model(merged, opset_imports=list(model.opset_import), ir_version=8)
