"""`sparsec prune --pattern units`: what must go together does, the FLOPs asked for stay, and no other outputs."""

import json

import numpy as np
import onnx
import pytest

from sparsec.errors import PruningError
from sparsec.graph import reader
from sparsec.graph.compare import run_onnxruntime
from sparsec.oneshot import samples
from sparsec.oneshot.structured.branches import remove_branches
from sparsec.oneshot.structured.prune import remove_units, separated
from sparsec.oneshot.structured.units import units
from sparsec.oneshot.structured.unused import remove_unused
from tests.support.cli import sparsec as run
from tests.support.texts import model

RNG = np.random.default_rng(0)
IMAGES = {"x": RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)}
RESIDUAL = """g (float[N,3,8,8] x) => (float[N,5] y) <float[16,3,3,3] a, float[16] s, float[16] t, float[16] mean,
    float[16] variance, float[24,16,1,1] b, float[24,1,3,3] c, float[16,24,1,1] d, float[12,16,1,1] e, float[6,4,1,1] f,
    float[16,22,3,3] h, float[16,5] k, float[5] l> {
    p = Conv<pads=[1,1,1,1]>(x, a) q = BatchNormalization(p, s, t, mean, variance) r = Relu(q)
    u = Conv(r, b) v = Relu(u) w = Conv<group=24, pads=[1,1,1,1]>(v, c) z = Conv(w, d) residual = Add(r, z)
    left = Conv(residual, e) right = Conv<group=3>(left, f) both = Concat<axis=1>(right, residual)
    m = Conv(both, h) n = Relu(m) o = GlobalAveragePool(n) flat = Flatten(o) y = Gemm(flat, k, l) }"""
ATTENTION = """g (float[N,6,16] x) => (float[N,6,16] y) <float[16,16] q, float[16,16] k, float[16,16] v, float[16,16] o,
    float[16] zero, int64[4] heads, int64[3] joined, float[16] s, float[16] t, float[16,48] up, float[48,16] down> {
    a = MatMul(x, q) b = Add(a, zero) c = Reshape(b, heads) d = Transpose<perm=[0,2,1,3]>(c)
    e = MatMul(x, k) f = Add(e, zero) h = Reshape(f, heads) i = Transpose<perm=[0,2,3,1]>(h)
    j = MatMul(x, v) l = Add(j, zero) m = Reshape(l, heads) n = Transpose<perm=[0,2,1,3]>(m)
    p = MatMul(d, i) r = Softmax(p) u = MatMul(r, n) w = Transpose<perm=[0,2,1,3]>(u) z = Reshape(w, joined)
    gg = MatMul(z, o) aa = Add(gg, zero) bb = Add(x, aa) cc = LayerNormalization(bb, s, t)
    dd = MatMul(cc, up) ee = Relu(dd) ff = MatMul(ee, down) y = Add(cc, ff) }"""
TOKENS = {"x": RNG.standard_normal((16, 6, 16)).astype(np.float32)}


def residual():
    return model(RESIDUAL, variance=np.abs(RNG.standard_normal(16)) + 1), IMAGES


def attention():
    return model(ATTENTION, heads=np.array([0, 6, 4, 4]), joined=np.array([0, 6, 16]), s=np.ones(16),
                 zero=np.zeros(16)), TOKENS


def found(proto):
    return [{place: len(indices) for place, indices in unit.slabs.items()}
            for unit in units(reader.load(proto, symbolic=True, as_is=True))]


def quiet(_what, _share):
    pass


def test_channels_go_with_all_that_a_residual_a_concat_and_depthwise_convolutions_tie():
    sets = found(residual()[0])
    of_residual = [each for each in sets if ("a", 0) in each]
    assert len(of_residual) == 16
    assert all(each == {(name, 0): 1 for name in ("a", "s", "t", "mean", "variance", "d")} | {
        (name, 1): 1 for name in ("b", "e", "h")} for each in of_residual)
    assert [each for each in sets if ("c", 0) in each] == [{("b", 0): 1, ("c", 0): 1, ("d", 1): 1}] * 24
    assert [each for each in sets if ("f", 0) in each] == [{("e", 0): 4, ("f", 0): 2, ("h", 1): 2}] * 3


def test_a_head_is_its_queries_keys_values_and_what_reads_them():
    proto, _ = attention()
    assert not any(("q", 1) in each for each in found(proto))  # one bias serves heads and the residual stream
    sets = [each for each in found(separated(proto)) if ("q", 1) in each]
    assert len(sets) == 4
    assert all(each == {("q", 1): 4, ("k", 1): 4, ("v", 1): 4, ("o", 0): 4, ("zero", 0): 4, ("zero.2", 0): 4,
                        ("zero.3", 0): 4} for each in sets)


@pytest.mark.parametrize("make", [residual, attention])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_flops_asked_for_stay_and_the_outputs_are_near(make, share):
    proto, arrays = make()
    outcome = remove_units(proto, samples.batches(proto, arrays), share, (), quiet)
    total = outcome.report.total
    assert total.after.flops / total.before.flops == pytest.approx(share, abs=0.04)
    onnx.checker.check_model(outcome.model, full_check=True)
    assert [value.name for value in outcome.model.graph.output] == ["y"]
    now, before = (run_onnxruntime(each, arrays)[0] for each in (outcome.model, proto))
    error = np.sqrt(np.square(now - before).sum() / np.square(before).sum())
    assert error == pytest.approx(outcome.outputs[0].error, rel=1e-2)
    assert error < 0.7


def test_what_nothing_reads_goes_first_and_costs_nothing():
    proto, arrays = model("""g (float[N,8] x) => (float[N,4] y) <float[8,20] a, float[20] b, float[20,4] c> {
        p = MatMul(x, a) q = Add(p, b) r = Relu(q) y = MatMul(r, c) }""", b=np.where(np.arange(20) < 10, -1e3, 0)), {
        "x": RNG.standard_normal((32, 8)).astype(np.float32)}
    outcome = remove_units(proto, samples.batches(proto, arrays), 0.5, (), quiet)
    assert outcome.removed == 10
    assert outcome.outputs[0].error < 1e-2


def test_units_of_what_is_to_be_kept_stay():
    proto, arrays = residual()
    outcome = remove_units(proto, samples.batches(proto, arrays), 0.8, ("z", "b"), quiet)
    sizes = {layer.name: (layer.before.units, layer.after.units) for layer in outcome.report.layers}
    assert sizes["p"] == (16, 16)  # tied to z by the residual connection
    assert sizes["u"] == (24, 24)
    assert sizes["m"][1] < 16


def test_a_network_without_units_is_refused():
    proto = model("g (float[N,8] x) => (float[N,4] y) <float[8,4] a> { y = MatMul(x, a) }")
    with pytest.raises(PruningError, match="no unit can go"):
        remove_units(proto, samples.batches(proto, {"x": np.eye(8, dtype=np.float32)}), 0.5, (), quiet)
    with pytest.raises(PruningError, match=r"of the FLOPs cannot go: the most that units make up is \d"):
        remove_units(residual()[0], samples.batches(residual()[0], IMAGES), 0.001, (), quiet)


def test_the_command_writes_a_smaller_file(tmp_path):
    proto, arrays = residual()
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **arrays)
    common = ("prune", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz", "-o", tmp_path / "p.onnx", "--pattern",
              "units")
    run(*common, "--sparsity", 0.5, "--json", tmp_path / "p.json")
    figures = json.loads((tmp_path / "p.json").read_text())
    assert figures["flops"]["after"] < 0.54 * figures["flops"]["before"]
    assert (tmp_path / "p.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size
    assert "--sparsity" in run(*common, "--speedup", "2x", code=2)


def test_units_that_no_sample_activates_go_and_the_samples_outputs_stay():
    text = """g (float[N,8] x) => (float[N,4] y) <float[8,32] a, float[32] b, float[32,16] c, float[16,4] d> {
        p = MatMul(x, a) q = Add(p, b) r = Relu(q) s = MatMul(r, c) t = Relu(s) y = MatMul(t, d) }"""
    bias = np.where(np.arange(32) < 10, -50, 1)  # below anything that samples bring, and not below everything
    proto, arrays = model(text, b=bias), {"x": RNG.standard_normal((32, 8)).astype(np.float32)}
    small = remove_unused(proto, samples.batches(proto, arrays), 0.0, (), quiet)
    assert small.removed >= 10
    assert {len(each.dims) and each.dims[0] for each in small.model.graph.initializer if each.name == "b"} == {22}
    assert small.outputs[0].error < 1e-6
    np.testing.assert_allclose(run_onnxruntime(small.model, arrays)[0], run_onnxruntime(proto, arrays)[0], atol=1e-4)
    large = {"x": 100 * arrays["x"]}
    assert not np.allclose(run_onnxruntime(small.model, large)[0], run_onnxruntime(proto, large)[0], rtol=1e-2)
    more = remove_unused(proto, samples.batches(proto, arrays), 0.8, (), quiet)
    assert more.removed > small.removed
    with pytest.raises(PruningError, match="samples activate all"):
        remove_unused(*attention()[:1], samples.batches(*attention()), 0.0, (), quiet)


def test_the_blocks_that_matter_least_go_as_a_whole():
    text = "g (float[N,16] x) => (float[N,4] y) <float[16,4] e, "
    blocks = "".join(f"h{i} = MatMul(v{i}, up{i}) r{i} = Relu(h{i}) f{i} = MatMul(r{i}, down{i}) "
                     f"v{i + 1} = Add(v{i}, f{i}) " for i in range(4))
    shapes = ", ".join(f"float[16,32] up{i}, float[32,16] down{i}" for i in range(4))
    scales = {f"down{i}": RNG.standard_normal((32, 16)) * scale for i, scale in enumerate((0.3, 1e-4, 0.2, 1e-3))}
    proto = model(f"{text}{shapes}> {{ v0 = Identity(x) {blocks} y = MatMul(v4, e) }}", **scales)
    arrays = {"x": RNG.standard_normal((16, 16)).astype(np.float32)}
    found = remove_branches(proto, samples.batches(proto, arrays), 0.5, quiet)
    assert {each.sum for each in found.removed} == {"v2", "v4"}
    assert found.branches == 4
    assert found.after / found.before == pytest.approx((2 * 1024 + 64) / (4 * 1024 + 64))
    assert {each.name for each in found.model.graph.initializer} == {"e", "up0", "down0", "up2", "down2"}
    expected = run_onnxruntime(proto, arrays)[0]
    np.testing.assert_allclose(run_onnxruntime(found.model, arrays)[0], expected, atol=0.05 * np.abs(expected).max())
    onnx.checker.check_model(found.model)
    with pytest.raises(PruningError, match="no block takes at most 1 %"):
        remove_branches(proto, samples.batches(proto, arrays), 0.99, quiet)
