"""`sparsec prune model.onnx`: patterns hold, OBS keeps most, weights are shared once, errors take one line."""

import itertools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sparsec.cli.options import samples_of
from sparsec.errors import InputError, PruningError, SparsecError, UsageError
from sparsec.formats.nm import group_counts
from sparsec.graph.compare import run_onnxruntime, same_class
from sparsec.models.dataset import digits
from sparsec.oneshot import dense, file, matching
from sparsec.oneshot.criteria import CRITERIA
from sparsec.oneshot.distribution import DISTRIBUTIONS
from sparsec.oneshot.distribution.asked import Asked
from sparsec.oneshot.distribution.optimal import Levels, cheapest, least_loss
from sparsec.oneshot.file import Method
from sparsec.oneshot.goal import Goal
from sparsec.oneshot.inputs import columns
from sparsec.oneshot.patterns import pattern
from sparsec.oneshot.reach import to_goal
from sparsec.oneshot.samples import batches as batched
from sparsec.oneshot.weights import constants, layers
from sparsec.report.explain import explain
from sparsec.target import resolve
from tests.support.cli import sparsec as run
from tests.support.pruning import SAMPLES, convolutional, pruned, quiet
from tests.support.texts import model

RNG = np.random.default_rng(0)
TIED = """g (float[N,8] x) => (float[N,8] y) <float[8,8] a, float[8] b> {
    t = Transpose<perm=[1,0]>(a) i = Identity(t) p = MatMul(x, i) q = Add(p, b) r = Relu(q) y = MatMul(r, i) }"""


@pytest.mark.parametrize("layer", range(4))
def test_columns_times_matrix_is_what_the_layer_computes(layer):
    proto = convolutional()
    found = layers(proto)[0][layer]
    node = proto.graph.node[found.index]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (found.input, node.output[0])
                              if name != "y" and name != "x")
    values = dict(zip([o.name for o in proto.graph.output], onnxruntime.InferenceSession(
        proto.SerializeToString()).run(None, SAMPLES), strict=True)) | SAMPLES
    weight = found.matrix(numpy_helper.to_array(constants(proto.graph)[found.weight]))
    product = np.moveaxis(weight @ np.swapaxes(columns(found, values[found.input], 10**6), 1, 2), -1, 0)
    expected = values[node.output[0]]
    expected = np.moveaxis(expected, 1, -1).reshape(-1, expected.shape[1])
    bias = numpy_helper.to_array(constants(proto.graph)[node.input[2]]) if len(node.input) > 2 else 0
    np.testing.assert_allclose(product.reshape(len(product), -1) + bias, expected, atol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("form", ["unstructured", "balanced", "2:4", "1:4", "4x1", "2x4"])
def test_patterns_hold_in_every_layer(criterion, form):
    before = convolutional()
    outcome = pruned(before, SAMPLES, None if ":" in form else 0.5, criterion=criterion, pattern=form,
                     distribution="uniform")
    tensors = constants(outcome.model.graph)
    assert [n.output for n in outcome.model.graph.node] == [n.output for n in before.graph.node]
    assert outcome.model.opset_import == before.opset_import
    for layer in layers(outcome.model)[0]:
        matrix = layer.matrix(numpy_helper.to_array(tensors[layer.weight]))
        if ":" in form:
            n, m = map(int, form.split(":"))
            assert group_counts(matrix, m).max() <= n
        elif "x" in form:
            rows, width = map(int, form.split("x"))
            for each in matrix:
                padded = np.pad(each, [(0, -each.shape[0] % rows), (0, -each.shape[1] % width)]) != 0
                blocks = padded.reshape(-1, rows, padded.shape[1] // width, width).any(axis=(1, 3))
                assert blocks.mean() <= 0.5 + 1 / blocks.size
        else:
            assert abs(np.mean(matrix == 0) - 0.5) < 0.1
    onnx.checker.check_model(outcome.model)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("quota", [*DISTRIBUTIONS, "sensitivity"])
def test_a_sparsity_is_met_to_a_hundredth_of_a_percent(criterion, quota):
    proto = model("""g (float[N,96,3,3] x) => (float[N,10] y) <float[96,1,3,3] a, float[64,96,1,1] b, float[64,10] c> {
        p = Conv<group=96>(x, a) q = Relu(p) r = Conv(q, b) s = Relu(r) t = Flatten(s) y = MatMul(t, c) }""")
    samples = {"x": RNG.standard_normal((16, 96, 3, 3)).astype(np.float32)}
    for sparsity in (0.5, 0.9):
        assert abs(pruned(proto, samples, sparsity, criterion=criterion, distribution=quota).sparsity - sparsity) < 3e-4


def quantised(zero):
    """A small network whose weights are int8, per channel and as a whole, and what it needs to be pruned."""
    codes = {name: RNG.integers(-100, 100, shape) for name, shape in (("a", (16, 8, 3, 3)), ("c", (16, 10)))}
    return model("""g (float[N,8,6,6] x) => (float[N,10] y) <int8[16,8,3,3] a, float[16] s, int8[16] z, int8[16,10] c,
        float t, int8 v> { w = DequantizeLinear<axis=0>(a, s, z) p = Conv(x, w) q = Relu(p) r = GlobalAveragePool(q)
        f = Flatten(r) d = DequantizeLinear(c, t, v) y = MatMul(f, d) }""", **codes, s=RNG.random(16) * 0.01 + 0.001,
                 z=np.full(16, zero), t=np.array(0.01), v=np.array(zero)), {
        "x": RNG.standard_normal((24, 8, 6, 6)).astype(np.float32)}


@pytest.mark.parametrize("zero", [0, 7, -128])
@pytest.mark.parametrize("criterion", ["magnitude", "obs"])
def test_quantised_weights_become_their_zero_points(zero, criterion):
    proto, samples = quantised(zero)
    outcome = pruned(proto, samples, 0.6, criterion=criterion, distribution="uniform")
    for name, layer in zip("ac", outcome.layers, strict=True):
        stored = numpy_helper.to_array(constants(outcome.model.graph)[name])
        assert stored.dtype == np.int8
        assert np.mean(stored == zero) == pytest.approx(0.6, abs=0.03)
        assert layer.nonzeros == np.count_nonzero(stored != zero)
    onnx.checker.check_model(outcome.model, full_check=True)
    assert outcome.error < 0.9


def test_two_of_four_is_that_of_the_sparse_tensor_cores():
    proto = model("""g (float[8,32,14,14] x) => (float[8,64,14,14] y) <float[64,32,3,3] a, float[64] b,
        float[64,64,3,3] c, float[64,64,1,1] d> { p = Conv<pads=[1,1,1,1]>(x, a, b) q = Relu(p)
        r = Conv<pads=[1,1,1,1]>(q, c) s = Relu(r) y = Conv(s, d) }""")
    outcome = pruned(proto, {"x": RNG.standard_normal((64, 32, 14, 14)).astype(np.float32)}, None, pattern="2:4")
    found = explain(outcome.model, "cuda-sm80").layers
    assert len(found) == 3
    assert all("nm 2:4" in {each.format for each in layer.candidates} for layer in found)
    assert not any("nm 2:4" in {each.format for each in layer.candidates}
                   for layer in explain(proto, "cuda-sm80").layers)


@pytest.fixture(scope="module")
def lenet():
    """A small LeNet trained on two thirds of the digits at 14 x 14 pixels: the model, those digits, and the others."""
    (x, labels), rng = digits(), np.random.default_rng(1)
    x, sizes = x.reshape(-1, 28, 28)[:, ::2, ::2].reshape(-1, 196), (196, 100, 50, 10)
    weights = [rng.standard_normal(each, np.float32) * np.float32((2 / each[0]) ** 0.5)
               for each in itertools.pairwise(sizes)]
    for _ in range(100):
        values = [x[:240]]
        for weight in weights:
            values.append(np.maximum(values[-1] @ weight, 0 if weight is not weights[-1] else -np.inf))
        shares = np.exp(values[-1] - values[-1].max(1, keepdims=True))
        gradient = (shares / shares.sum(1, keepdims=True) - np.eye(10, dtype=np.float32)[labels[:240]]) / 240
        for place in (2, 1, 0):
            step, gradient = values[place].T @ gradient, gradient @ weights[place].T * (values[place] > 0)
            weights[place] -= 0.3 * step
    text = """g (float[N,196] x) => (float[N,10] y) <float[196,100] a, float[100,50] b, float[50,10] c> {
        p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) s = Relu(r) y = MatMul(s, c) }"""
    return model(text, **dict(zip("abc", weights, strict=True))), {"x": x[:240]}, {"x": x[240:]}


@pytest.mark.parametrize("sparsity", [0.8, 0.9])
def test_obs_keeps_most_classes_of_digits(lenet, sparsity):
    proto, samples, others = lenet
    expected = run_onnxruntime(proto, others)[0]
    outcomes = {name: pruned(proto, samples, sparsity, criterion=name) for name in CRITERIA}
    agreement = {name: same_class(run_onnxruntime(each.model, others)[0], expected) for name, each in outcomes.items()}
    assert agreement["obs"] > max(agreement["magnitude"], agreement["wanda"])
    assert outcomes["obs"].error < 0.7 * min(outcomes["magnitude"].error, outcomes["wanda"].error)


def test_obs_shares_out_by_sensitivity_and_the_others_alike(lenet):
    proto, samples, _ = lenet
    usual, uniform, magnitude = (pruned(proto, samples, 0.9, **how) for how in (
        {}, {"distribution": "uniform"}, {"criterion": "magnitude"}))
    assert usual.error < uniform.error
    assert usual.sparsity == pytest.approx(0.9, abs=0.005)
    shares = [[layer.nonzeros / layer.weights for layer in each.layers] for each in (usual, uniform, magnitude)]
    assert max(shares[0]) > 2 * min(shares[0])
    assert shares[1:] == [pytest.approx([0.1] * 3, abs=0.01)] * 2


def test_later_layers_make_up_for_what_earlier_ones_lost(monkeypatch):
    rng = np.random.default_rng(0)
    proto = model("""g (float[N,32] x) => (float[N,8] y) <float[32,48] a, float[48,48] b, float[48,8] c> {
        p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) s = Relu(r) y = MatMul(s, c) }""",
                  **{name: rng.standard_normal(shape) for name, shape in (("a", (32, 48)), ("b", (48, 48)),
                                                                          ("c", (48, 8)))})
    samples, others = ({"x": rng.standard_normal((1500, 32)).astype(np.float32)} for _ in range(2))
    expected, errors = run_onnxruntime(proto, others)[0], []
    for most in (matching.MOST_INPUTS, 0):  # with and without
        monkeypatch.setattr(matching, "MOST_INPUTS", most)
        found = pruned(proto, samples, 0.6, distribution="uniform")
        assert found.sparsity == pytest.approx(0.6, abs=1e-3)
        errors.append(np.linalg.norm(run_onnxruntime(found.model, others)[0] - expected))
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize(("zeros", "sparsity"), [(0.0, 0.5), (0.6, 0.8)])
def test_sensitivity_is_of_the_outputs(zeros, sparsity):
    def thin(*shape):
        return RNG.standard_normal(shape) * (RNG.random(shape) >= zeros)

    proto = model("""g (float[N,24] x) => (float[N,6] y) <float[24,16] a, float[16,6] b, float[24,6] c, float small> {
        p = MatMul(x, a) q = Relu(p) r = MatMul(q, b) s = MatMul(x, c) t = Mul(s, small) y = Add(r, t) }""",
                  a=thin(24, 16), b=thin(16, 6), c=thin(24, 6), small=np.array(0.01))
    batches = batched(proto, {"x": RNG.standard_normal((16, 24)).astype(np.float32)})
    found = dense.run(proto, batches, "magnitude", pattern("unstructured"), (), (0.0, sparsity), quiet)
    first, last, beside = (found.sensitivity[name][1] for name in "prs")
    outcome = file.to_sparsity(proto, {"x": batches[0]["x"]}, sparsity, Method("magnitude", keep=("p", "s")), quiet)
    assert last == pytest.approx(outcome.pruned.layers[0].error, rel=0.1)  # its errors are those of the outputs
    assert beside < 0.02 * last
    assert 0.3 * last < first < 3 * last


def test_sensitivity_prunes_to_its_most_and_refuses_more_before_anything_runs(lenet):
    proto, samples, _ = lenet
    assert pruned(proto, samples, file.TRIED[-1]).sparsity == pytest.approx(file.TRIED[-1], abs=0.001)
    with pytest.raises(UsageError, match=r"at most 0\.995; give --quota erk"):
        file.to_sparsity(proto, {}, 0.999, Method(), quiet)


def test_a_weight_that_layers_read_both_ways_is_left_with_the_reason():
    proto = model("g (float[N,8] x) => (float[N,4] y) <float[8,8] a, float[8,4] d> {"
                  " t = Transpose<perm=[1,0]>(a) p = MatMul(x, a) q = MatMul(p, t) y = MatMul(q, d) }")
    samples = {"x": np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)}
    outcome = file.to_sparsity(proto, samples, 0.5, Method(), quiet)
    assert [each.reason for each in outcome.left] == ["'a' is read the other way by another layer"] * 2
    assert [layer.nonzeros for layer in outcome.pruned.layers] == [16]


def test_weights_behind_a_cast_are_pruned_and_computed_ones_left_with_the_reason():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) {
        c = Cast <to = 1> (a) p = MatMul(x, c) d = Add(b, b) q = MatMul(p, d)
        y = Einsum <equation = "ij,jk->ik"> (q, b) }""")
    for name, kind in (("a", np.float16), ("b", np.float32)):
        proto.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal((8, 8)).astype(kind), name))
    samples = {"x": RNG.standard_normal((64, 8), np.float32)}
    outcome = file.to_sparsity(proto, samples, 0.5, Method(), quiet)
    stored = numpy_helper.to_array(constants(outcome.pruned.model.graph)["a"])
    assert stored.dtype == np.float16
    assert np.count_nonzero(stored) == 32
    assert [(each.layer, each.reason) for each in outcome.left] == [
        ("q", "its weight is computed by Add"), ("y", "Einsum is not pruned")]


def test_an_unknown_distribution_is_refused():
    with pytest.raises(UsageError, match="--quota optimal"):
        Method(distribution="optimal")


def test_tied_weights_are_pruned_once():
    proto, samples = model(TIED), {"x": SAMPLES["x"][:, :, 0, 0]}
    outcome = pruned(proto, samples, 0.5)
    assert [(layer.weights, layer.nonzeros, len(layer.shared)) for layer in outcome.layers] == [(64, 32, 1)]
    assert [t.name for t in outcome.model.graph.initializer] == [t.name for t in proto.graph.initializer]


def test_means_of_outputs_are_those_of_the_dense_model():
    proto, samples = model(TIED.replace("y = MatMul(r, i)", "y = Gemm(r, i, b2)").replace(
        "float[8] b>", "float[8] b, float[8] b2>")), {"x": SAMPLES["x"][:, :, 0, 0]}
    after, before = (onnxruntime.InferenceSession(each.SerializeToString()).run(None, samples)[0] for each in (
        pruned(proto, samples, 0.7).model, proto))
    np.testing.assert_allclose(after.mean(0), before.mean(0), atol=1e-4)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_distributions_add_up(name, sparsity):
    asked = [Asked(shape, RNG.standard_normal(shape)) for shape in ((20, 30), (8, 4, 3, 3), (100, 20))]
    shares = DISTRIBUTIONS[name](asked, sparsity)
    total = sum(share * each.values.size for share, each in zip(shares, asked, strict=True))
    assert total / sum(each.values.size for each in asked) == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize(("samples", "sparsity", "method", "error", "message"), [
    ({"x": SAMPLES["x"][:3]}, 0.5, {}, UsageError, "3 are too few"),
    ({"x": SAMPLES["x"][:, :4]}, 0.5, {}, UsageError, "takes .x8x7x6; the samples hold 24x4x7x6"),
    ({"x": SAMPLES["x"] * np.float32("nan")}, 0.5, {}, UsageError, "holds NaN"),
    ({"x": SAMPLES["x"].astype(np.float64)}, 0.5, {}, UsageError, "float32; the samples are float64"),
    ({"z": SAMPLES["x"]}, 0.5, {}, UsageError, "no input 'z'"),
    ({"x": SAMPLES["x"] * 0}, 0.5, {}, UsageError, "all are the same"),
    ({"x": SAMPLES["x"] * np.float32(1e30)}, 0.5, {}, PruningError, "layer 'p': its inputs are NaN or too large"),
    (SAMPLES, 1.5, {}, UsageError, "out of range"),
    (SAMPLES, None, {}, UsageError, "give --sparsity"),
    (SAMPLES, 0.9, {"pattern": "2:4"}, UsageError, "leave --sparsity out"),
    (SAMPLES, 0.5, {"pattern": "4:2"}, UsageError, "N below M"),
    (SAMPLES, 0.5, {"criterion": "luck"}, UsageError, "obs"),
    (SAMPLES, 0.5, {"distribution": "luck"}, UsageError, "erk"),
    (SAMPLES, 0.5, {"keep": ("*",)}, PruningError, "no weight to prune"),
    (SAMPLES, 0.5, {"keep": ("absent",)}, UsageError, "no layer and no weight"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(samples, sparsity, method, error, message):
    with pytest.raises(error, match=message) as raised:
        pruned(convolutional(), samples, sparsity, **method)
    assert issubclass(error, SparsecError)
    assert "\n" not in str(raised.value)


def test_samples_that_the_model_cannot_run_on_are_refused_by_the_node():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[n, t, 8] x) => (float[a, b] y)
      <int64[2] shape = {-1, 88}> { h = MatMul(x, w) [split] y = Reshape(h, shape) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    with pytest.raises(InputError, match=r"cannot run on the samples.*split"):
        pruned(proto, {"x": RNG.standard_normal((24, 9, 8), np.float32)}, 0.5)


@pytest.mark.parametrize("budget", [8.5, 12.0, 20.0])
def test_the_optimum_is_that_of_trying_all(budget):
    costs, losses = np.sort(RNG.random((3, 5)) * 9)[:, ::-1], np.sort(RNG.random((3, 5)))
    weights = [Levels(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
    reached = [sum(row[i] for row, i in zip(losses, each, strict=True))
               for each in itertools.product(range(5), repeat=3)
               if sum(row[i] for row, i in zip(costs, each, strict=True)) <= budget]
    found = least_loss(weights, budget)
    assert (found is None) == (not reached)
    if found is not None:
        assert sum(row[i] for row, i in zip(losses, found, strict=True)) <= min(reached) * 1.02 + 1e-9
    assert least_loss(weights, cheapest(weights)) == [4, 4, 4]


def test_goals_are_met_or_refused_with_the_best_reachable():
    proto, samples = convolutional(), SAMPLES
    outcome, reached = to_goal(proto, samples, Goal("bytes", 2500), Method(), resolve("cpu"), 1, quiet)
    assert reached.measured <= 2500 * 1.03
    assert 0.3 < outcome.pruned.sparsity < 0.9
    with pytest.raises(PruningError, match="the best reachable is"):
        to_goal(proto, samples, Goal("bytes", 100), Method(), resolve("cpu"), 1, quiet)


def test_a_model_without_weights_is_refused():
    with pytest.raises(PruningError, match="no Conv, Gemm or MatMul"):
        pruned(model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"), SAMPLES, 0.5)


def test_a_run_goes_on_from_the_layers_that_are_finished(tmp_path):
    arguments = convolutional(), SAMPLES, 0.5, Method(), quiet
    first, again = (file.to_sparsity(*arguments, tmp_path).pruned.model for _ in range(2))
    assert first == again
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 4
    for path in kept:
        np.save(path, np.zeros_like(np.load(path)))
    zeros = file.to_sparsity(*arguments, tmp_path).pruned
    assert not any(layer.nonzeros for layer in zeros.layers)
    other = file.to_sparsity(*arguments[:2], 0.6, *arguments[3:], tmp_path).pruned
    assert all(layer.nonzeros for layer in other.layers)
    kept[0].write_bytes(b"damage")
    with pytest.raises(UsageError, match="damaged"):
        file.to_sparsity(*arguments, tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        file.to_sparsity(*arguments, tmp_path / "absent")


def test_the_command_writes_the_model_and_its_figures(tmp_path):
    onnx.save(convolutional(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **SAMPLES)
    run("prune", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz", "-o", tmp_path / "p.onnx", "--sparsity", 0.75,
        "--keep", "r", "--json", tmp_path / "p.json")
    figures = json.loads((tmp_path / "p.json").read_text())
    tensors = constants(onnx.load(tmp_path / "p.onnx").graph)
    for layer, name in zip(figures["layers"], "adf", strict=True):
        assert np.count_nonzero(numpy_helper.to_array(tensors[name])) == layer["nonzeros"]
        assert 0 < layer["error"] < 1
    assert figures["left"] == [{"layer": "r", "reason": "kept as asked"}]
    for arguments, message in ((("absent.onnx",), "no such file"), ((tmp_path / "m.onnx",), "give --inputs")):
        assert message in run("prune", *arguments, "-o", tmp_path / "q.onnx", "--sparsity", 0.5, code=2)


def test_the_command_says_which_pattern_pays(tmp_path):
    onnx.save(convolutional(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **SAMPLES)
    known = ("prune", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz")
    printed = run(*known, "--advise", "--json", tmp_path / "a.json")
    figures = json.loads((tmp_path / "a.json").read_text())
    assert all(each["pattern"] in printed for each in figures["patterns"])
    assert "no cost model for target 'scnn'" in run(*known, "--advise", "--target", "scnn", code=2)
    advised = run(*known, "--target", "cpu", "--pattern", "2:4", "-o", tmp_path / "p.onnx")
    assert "its cost model predicts" in " ".join(advised.split())


def test_samples_of_one_input_may_be_an_npy_file(tmp_path):
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> f (float[n, 4] x) => (float[n, 4] y) '
                                    "{ y = Relu(x) }")
    onnx.save(proto, tmp_path / "m.onnx")
    np.save(tmp_path / "one.npy", np.ones((3, 4), np.float32))
    assert samples_of(tmp_path / "one.npy", tmp_path / "m.onnx")["x"].shape == (3, 4)
