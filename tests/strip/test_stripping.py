"""Stripping: the same outputs from a model that is never larger."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsec.graph.compare import relative_error
from sparsec.graph.reader import load
from sparsec.passes.strip import strip
from tests.support.strip.brute import feeds, run
from tests.support.strip.nets import NETS
from tests.support.texts import dead, model, random

IMAGE = "float[2,3,9,9] x"


def stripped(proto, **options):
    """The report and the new model, after what every stripped model must satisfy."""
    graph = load(proto, symbolic=True, as_is=True)
    report = strip(graph, **options)
    result = ir.to_proto(graph)
    assert [result.ir_version, *result.opset_import] == [proto.ir_version, *proto.opset_import]
    onnx.checker.check_model(result, full_check=True)
    inputs = feeds(proto, 2)
    for actual, expected in zip(run(result, inputs), run(proto, inputs), strict=True):
        assert max(map(relative_error, actual, expected)) <= 1e-5
    before, after = report.total.before, report.total.after
    assert after.bytes <= before.bytes
    assert after.flops <= before.flops
    assert after.nonzero <= before.nonzero
    return report, result


def weight(proto, name):
    return next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


@pytest.mark.parametrize("key", NETS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 16))
def test_outputs_stay_on_random_networks(key, seed):
    stripped(NETS[key](seed, constants=True))


def symbolic(proto):
    """The model with every size of its inputs a symbol, and none said of what follows."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto


@pytest.mark.parametrize("key", NETS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 16))
def test_outputs_stay_where_every_size_is_symbolic(key, seed):
    proto = NETS[key](seed, constants=True)
    graph = load(symbolic(proto), symbolic=True)
    strip(graph)
    inputs = feeds(proto, 2)
    for actual, expected in zip(run(ir.to_proto(graph), inputs), run(proto, inputs), strict=True):
        assert max(map(relative_error, actual, expected)) <= 1e-5


@pytest.mark.parametrize("key", NETS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 16))
def test_exactly_the_inactive_weights_go(key, seed):
    report, _ = stripped(NETS[key](seed, constants=False))
    assert report.total.after.nonzero == report.total.active


# Constants


def test_constant_units_fold_into_the_next_bias():
    proto = model("g (float[2,4] x) => (float[2,3] y) <float[4,5] a, float[5] b, float[5,3] c>"
                  "{ h = Gemm(x, a, b) r = Sigmoid(h) y = MatMul(r, c) }", a=dead((5, 4), 0, 3).T)
    report, result = stripped(proto)
    assert weight(result, "a").shape == (4, 3)
    assert report.counts["constant units folded"] == 2


def padded(size, dead_channels, **weights):
    """BatchNormalization with shifts in front of a padded convolution."""
    return model(f"g (float[2,3,{size},{size}] x) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[6] g, float[6] b, "
                 "float[6] m, float[6] var, float[4,6,3,3] c>"
                 "{ p = Conv(x, a) q = BatchNormalization(p, g, b, m, var) r = Relu(q) "
                 "y = Conv<pads=[1,1,1,1]>(r, c) }",
                 a=dead((6, 3, 1, 1), *dead_channels), b=np.ones(6), **weights)


def test_behind_zero_padding_constants_merge_into_one_channel():
    report, result = stripped(padded(9, (0, 2, 5)))
    assert weight(result, "a").shape[0] == 4
    assert [(kept.count, kept.reason) for kept in report.kept] == [(1, "constant behind zero padding")]


def test_on_maps_no_larger_than_the_kernel_constants_are_added_by_position():
    report, result = stripped(padded(3, (0, 2, 5)))
    assert weight(result, "a").shape[0] == 3
    assert result.graph.node[-1].op_type == "Add"
    assert not report.kept


def test_zero_scales_make_channels_constant():
    _, result = stripped(padded(9, (), g=[1, 0, 1, 0, 0, 1]))
    assert weight(result, "a").shape[0] == 4  # one constant channel stays for the padding


def test_zero_constants_always_go():
    proto = model(f"g ({IMAGE}) => (float[n,m,h,w] y) <float[6,3,3,3] a, float[6] b, float[4,6,3,3] c>"
                  "{ p = Conv(x, a, b) q = Relu(p) y = Conv<pads=[1,1,1,1]>(q, c) }",
                  a=dead((6, 3, 3, 3), 1, 4), b=[1, -1, 1, 1, -1, 1])
    _, result = stripped(proto)
    assert weight(result, "c").shape == (4, 4, 3, 3)


# Structure


def test_a_residual_keeps_the_channels_of_both_sides():
    proto = model(f"g ({IMAGE}) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[6,6,3,3] b, float[2,6,1,1] c>"
                  "{ p = Conv(x, a) q = Conv<pads=[1,1,1,1]>(p, b) s = Add(p, q) y = Conv(s, c) }",
                  a=dead((6, 3, 1, 1), 1, 2, name="a"), b=dead((6, 6, 3, 3), 2, 3, name="b"))
    _, result = stripped(proto)
    assert weight(result, "c").shape[1] == 5  # only channel 2 is dead on both sides


def test_a_dead_residual_branch_goes():
    proto = model(f"g ({IMAGE}) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[6,6,3,3] b, float[2,6,1,1] c>"
                  "{ p = Conv(x, a) q = Conv<pads=[1,1,1,1]>(p, b) r = Relu(q) s = Add(p, r) y = Conv(s, c) }",
                  b=np.zeros((6, 6, 3, 3)))
    report, result = stripped(proto)
    assert [node.op_type for node in result.graph.node] == ["Conv", "Conv"]
    assert report.layers[1].after.weights == 0


def test_dense_connections_drop_channels_and_whole_branches():
    proto = model(f"g ({IMAGE}) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[4,6,1,1] b, float[3,6,1,1] c, "
                  "float[2,13,1,1] d>"
                  "{ p = Conv(x, a) q = Conv(p, b) r = Conv(p, c) s = Concat<axis=1>(p, q, r) y = Conv(s, d) }",
                  b=dead((4, 6, 1, 1), 0, name="b"), c=np.zeros((3, 6, 1, 1)))
    _, result = stripped(proto)
    assert weight(result, "d").shape == (2, 9, 1, 1)
    assert len(next(node for node in result.graph.node if node.op_type == "Concat").input) == 2


@pytest.mark.parametrize(("groups", "gone", "left"), [(6, (1, 4), (4, 1)), (3, (0, 1), (4, 2)), (3, (0, 2, 4), (3, 1)),
                                                      (3, (0, 2), (6, 2))])
def test_grouped_convolutions_lose_whole_groups_or_as_much_in_each(groups, gone, left):
    proto = model(f"g ({IMAGE}) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[6,{6 // groups},3,3] b, "
                  "float[2,6,1,1] c>"
                  f"{{ p = Conv(x, a) q = Conv<group={groups}>(p, b) r = Relu(q) y = Conv(r, c) }}",
                  a=dead((6, 3, 1, 1), *gone, name="a"), b=dead((6, 6 // groups, 3, 3), *gone, name="b"))
    report, result = stripped(proto)
    assert weight(result, "b").shape[:2] == left
    assert bool(report.kept) == (gone == (0, 2))


def transformer(**weights):
    """Three heads of two features over four tokens."""
    return model("g (int64[2,4] ids) => (float[2,4,5] y) <float[7,6] words, float[6] scale, float[6] shift, "
                 "float[6,6] q, float[6,6] k, float[6,6] v, float[6] vb, float[6,6] o, int64[4] split, int64[3] join, "
                 "float[6,5] out>"
                 "{ e = Gather(words, ids) n = LayerNormalization(e, scale, shift) q0 = MatMul(n, q) k0 = MatMul(n, k) "
                 "v00 = MatMul(n, v) v0 = Add(v00, vb) q1 = Reshape(q0, split) k1 = Reshape(k0, split) "
                 "v1 = Reshape(v0, split) q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,3,1]>(k1) "
                 "v2 = Transpose<perm=[0,2,1,3]>(v1) s = MatMul(q2, k2) p = Softmax(s) c = MatMul(p, v2) "
                 "c1 = Transpose<perm=[0,2,1,3]>(c) c2 = Reshape(c1, join) a = MatMul(c2, o) r = Add(a, e) "
                 "y = MatMul(r, out) }", 20, split=[2, 4, 3, 2], join=[2, 4, 6], **weights)


@pytest.mark.parametrize("pruned", [{"o": dead((6, 6), 2, 3)}, {"v": dead((6, 6), 2, 3).T}],
                         ids=["rows of the output", "columns of the values"])
def test_heads_go(pruned):
    _, result = stripped(transformer(**pruned))
    assert [weight(result, name).shape for name in "qkvo"] == [(6, 4), (6, 4), (6, 4), (4, 6)]
    assert weight(result, "split").tolist() == [2, 4, 2, 2]


def test_heads_of_attention_as_one_operator_go():
    proto = model("g (float[2,4,5] x) => (float[2,4,5] y) <float[5,6] q, float[5,6] k, float[5,6] v, float[6,5] o, "
                  "int64[4] split, int64[3] join>"
                  "{ q0 = MatMul(x, q) k0 = MatMul(x, k) v0 = MatMul(x, v) q1 = Reshape(q0, split) "
                  "k1 = Reshape(k0, split) "
                  "v1 = Reshape(v0, split) q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,1,3]>(k1) "
                  "v2 = Transpose<perm=[0,2,1,3]>(v1) c = Attention(q2, k2, v2) c1 = Transpose<perm=[0,2,1,3]>(c) "
                  "c2 = Reshape(c1, join) y = MatMul(c2, o) }", 23, split=[2, 4, 3, 2], join=[2, 4, 6],
                  o=dead((6, 5), 2, 3))
    _, result = stripped(proto)
    assert [weight(result, name).shape for name in "qkvo"] == [(5, 4), (5, 4), (5, 4), (4, 5)]


def test_the_same_feature_of_all_heads_goes():
    _, result = stripped(transformer(q=dead((6, 6), 1, 3, 5).T))
    assert [weight(result, name).shape for name in "qkvo"] == [(6, 3), (6, 3), (6, 6), (6, 6)]


def test_normalised_features_stay_and_the_report_says_so():
    words = dead((6, 7), 2, 4).T
    report, result = stripped(transformer(words=words))
    assert weight(result, "words").shape == (7, 6)
    assert any("LayerNormalization" in kept.reason and kept.count == 2 for kept in report.kept)


def test_embeddings_lose_features():
    proto = model("g (int64[2,4] ids) => (float[2,4,3] y) <float[7,6] words, float[6,3] out>"
                  "{ e = Gather(words, ids) r = Tanh(e) y = MatMul(r, out) }", words=dead((6, 7), 0, 4).T)
    _, result = stripped(proto)
    assert weight(result, "words").shape == (7, 4)


def test_unknown_operators_keep_everything_alive_and_are_named():
    proto = model(f"g ({IMAGE}) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[2,6,1,1] c, float one, float[1] r>"
                  "{ p = Conv(x, a) s, i = TopK<axis=1>(p, six) y = Conv(s, c) }".replace("float[1] r", "int64[1] six"),
                  a=dead((6, 3, 1, 1), 1), six=[6])
    report, result = stripped(proto)
    assert weight(result, "a").shape[0] == 6
    assert [reason for node, reason in report.unknown.items() if "TopK" in node] == ["operator TopK is unknown"]


def test_values_that_a_subgraph_reads_stay():
    proto = model(f"g ({IMAGE}, bool c) => (float[n,m,h,w] y) <float[6,3,1,1] a, float[2,6,1,1] b>"
                  "{ p = Conv(x, a) q = If(c) <then_branch = t () => (float[2,6,9,9] u) { u = Relu(p) }, "
                  "else_branch = e () => (float[2,6,9,9] v) { v = Neg(p) }> y = Conv(q, b) }", a=dead((6, 3, 1, 1), 1))
    graph = load(proto)
    report = strip(graph)
    assert graph.graph.initializers["a"].shape == [6, 3, 1, 1]
    assert len(report.unknown) == 1


def test_symbolic_dimensions_stay_symbolic():
    proto = model("g (float[batch,3,9,9] x) => (float[batch,2] y) <float[6,3,3,3] a, float[6] b, float[6,6,3,3] c, "
                  "float[2,6] d> { p = Conv(x, a, b) q = Relu(p) r = Conv<pads=[1,1,1,1]>(q, c) "
                  "g = GlobalAveragePool(r) f = Flatten(g) y = Gemm<transB=1>(f, d) }",
                  a=dead((6, 3, 3, 3), 0, 2, name="a"), b=np.ones(6), c=dead((6, 6, 3, 3), 5, name="c"))
    graph = load(proto, symbolic=True)
    strip(graph)
    inputs = [{"x": random((size, 3, 9, 9), "x")} for size in (1, 4)]
    for actual, expected in zip(run(ir.to_proto(graph), inputs), run(proto, inputs), strict=True):
        assert relative_error(actual[0], expected[0]) <= 1e-5
    assert graph.graph.inputs[0].shape[0] == "batch"
    assert graph.graph.initializers["c"].shape == [5, 5, 3, 3]


def test_shared_weights_go_only_where_no_user_needs_them():
    proto = model("g (float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] half>"
                  "{ a = MatMul(x, w) b = Mul(a, half) c = MatMul(b, w) y = Add(a, c) }", half=[0, 0, 1, 1])
    _, result = stripped(proto)
    assert weight(result, "w").shape == (4, 4)


def test_a_network_without_paths_becomes_constant_and_names_where_it_collapsed():
    proto = model("g (float[2,4] x) => (float[2,3] y) <float[4,6] a, float[6] c, float[6,6] b, float[6,3] d>"
                  "{ h = Gemm(x, a, c) r = Relu(h) i = MatMul(r, b) s = Sigmoid(i) y = MatMul(s, d) }",
                  b=np.zeros((6, 6)))
    report, _ = stripped(proto)
    assert report.severed == ("y",)
    assert report.collapsed == (report.layers[1].name,)
    assert report.total.active == 0
    assert report.total.effective_compression == float("inf")


def test_nothing_to_strip():
    report, _ = stripped(model("g (float[2,4] x) => (float[2,3] y) <float[4,3] a> { y = MatMul(x, a) }"))
    assert not report.modified
    assert not report.kept


# Duplicates


def duplicated(net, seed):
    """A random network in which the last unit of every layer equals the first, without weights that cancel."""
    proto = net(seed, constants=True)
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            for tensor in proto.graph.initializer:
                if tensor.name in node.input[1:]:
                    data = np.abs(onnx.numpy_helper.to_array(tensor))
                    units = np.moveaxis(data, 0 if node.op_type == "Conv" or turned else -1, 0)
                    units[-1] = units[0]
                    tensor.CopyFrom(onnx.numpy_helper.from_array(data, tensor.name))
    return proto


@pytest.mark.parametrize("key", NETS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 16))
def test_merging_duplicates_keeps_the_outputs(key, seed):
    stripped(duplicated(NETS[key], seed), merge=True)


def test_duplicate_units_merge_through_layers():
    a, b = random((6, 3, 3, 3), "a"), random((6, 6, 3, 3), "b")
    a[3], a[5], b[4], b[2] = a[0], a[1], b[0], b[1]
    proto = model(f"g ({IMAGE}) => (float[n,m] y) <float[6,3,3,3] a, float[6,6,3,3] b, float[54,2] c>"
                  "{ p = Conv(x, a) q = Relu(p) m = MaxPool<kernel_shape=[3,3]>(q) r = Conv<pads=[1,1,1,1]>(m, b) "
                  "s = Relu(r) k = MaxPool<kernel_shape=[3,3]>(s) f = Flatten(k) y = MatMul(f, c) }", a=a, b=b)
    report, result = stripped(proto, merge=True)
    assert [weight(result, name).shape[0] for name in "abc"] == [4, 4, 36]
    assert report.counts["duplicate inputs merged"] == 20


def test_windows_over_too_many_positions_are_not_followed():
    graph = load(model("g (float[1,1,300000] x) => (float[1,1,100000] y) "
                       "{ y = MaxPool<kernel_shape = [3], strides = [3]>(x) }"))
    assert not strip(graph).modified


@pytest.mark.parametrize(("gone", "named"), [((), ()), ((0, 1, 2, 3), ()), ((1,), ("y",)), ((0, 1, 4, 5), ("y",))])
def test_layers_whose_groups_of_two_of_four_break_are_named(gone, named):
    first, second = np.ones((8, 3, 3, 3), np.float32), np.zeros((4, 8, 3, 3), np.float32)
    first[list(gone)] = 0
    second[::2, [0, 1, 4, 5]] = second[1::2, [2, 3, 6, 7]] = 1
    proto = model("""g (float[1,3,6,6] x) => (float[1,4,2,2] y) <float[8,3,3,3] a, float[4,8,3,3] b> {
        v = Conv(x, a) w = Relu(v) y = Conv(w, b) }""", a=first, b=second)
    report, _ = stripped(proto)
    assert report.regrouped == named
    assert [note.node for note in report.notes] == list(named)
