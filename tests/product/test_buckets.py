"""One artifact for inputs of several sizes: right for each of them, refusing all others by name."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.compiler import portable
from sparsec.compiler.options import CompileOptions
from sparsec.errors import InputError, ShapeError, UsageError
from sparsec.graph.compare import run_onnxruntime
from sparsec.graph.reader import load
from sparsec.graph.sizes import buckets
from tests.support.texts import model

ROWS = model('g (float["n",64] x) => (float["n",40] y) <float[64,300] w, float[300,40] v>'
             "{ h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }")
PAIR = model('g (float["n","t"] a, float["n","u"] b, float["m"] c) => (float["n",5] y) <float[1,5] w, int64[1] five>'
             "{ s = ReduceSum<keepdims=1>(a) q = ReduceSum<keepdims=1>(b) r = ReduceSum<keepdims=1>(c) p = Add(s, q)"
             " o = Add(p, r) k = MatMul(o, w) f = Shape<start=0,end=1>(a) e = Concat<axis=0>(f, five)"
             " y = Expand(k, e) }", opset=17, five=[5])


@pytest.fixture(scope="module")
def artifact():
    return sparsec.compile(ROWS, shapes={"x": ("1..2/7", 64)}, tune="off")


def rows(n):
    return np.random.default_rng(n).standard_normal((n, 64)).astype(np.float32)


def test_every_bucket_is_verified_and_right(artifact):
    session = sparsec.InferenceSession(sparsec.Artifact.load(artifact.to_bytes()))
    assert [bucket.report["verification"]["inputs"] for bucket in artifact.buckets] == [1, 1, 1]
    for n in (7, 1, 2, 1, 7):
        np.testing.assert_allclose(session.run(["y"], {"x": rows(n)})[0], run_onnxruntime(ROWS, {"x": rows(n)})[0],
                                   rtol=1e-4, atol=1e-4)
    assert session.get_inputs()[0].shape == ["1/2/7", 64]
    assert session.get_outputs()[0].shape == ["1/2/7", 40]


@pytest.mark.parametrize(("feeds", "message"), [
    ({"x": rows(3)}, r"no bucket .* 'x' \[3, 64\]; its buckets are 'x' \[1, 64\]; 'x' \[2, 64\]; 'x' \[7, 64\]"),
    ({"x": rows(2)[:, :9]}, r"no bucket .* 'x' \[2, 9\]"),
    ({"x": rows(2).astype(int)}, "takes float32"),
    ({"z": rows(2)}, "takes the inputs 'x'"),
])
def test_what_no_bucket_takes_is_refused(artifact, feeds, message):
    with pytest.raises(InputError, match=message):
        sparsec.InferenceSession(artifact).run(None, feeds)


def test_buckets_share_weights_in_the_file_and_in_memory(artifact):
    single = sparsec.compile(ROWS, shapes={"x": (1, 64)}, tune="off")
    first, second, _ = artifact.buckets
    assert first.manifest.constants == second.manifest.constants
    assert len(artifact.weights) < 3 * len(single.weights)
    session = sparsec.InferenceSession(artifact)
    session.run(None, {"x": rows(2)})
    assert session._buckets.sessions[(2, 64),]._shared is session._shared
    assert set(session._shared) == set(first.manifest.constants)


def test_a_symbol_has_one_size_and_the_others_all_combinations():
    graph = load(PAIR, symbolic=True)
    found = buckets(graph, {"a": ("1/4", 3), "b": ("2..4", "5/6"), "c": (2,)}, 64)
    assert found == [{"a": (4, 3), "b": (4, each), "c": (2,)} for each in (5, 6)]


@pytest.mark.parametrize(("shapes", "message"), [
    ({"a": ("1/4", 3), "b": (2, 5)}, "none in common"),
    ({"a": ("0..x", 3)}, "cannot have the size '0..x'"),
    ({"a": ("4..2", 3)}, "cannot have the size"),
    ({"a": ("1..8", "1..9")}, "72 buckets, at most 64"),
    ({"a": ("1..999999999999", 3)}, "buckets, at most"),
])
def test_sizes_that_make_no_sense_are_refused(shapes, message):
    with pytest.raises(ShapeError, match=message):
        sparsec.compile(PAIR, shapes=shapes)


def test_real_inputs_verify_the_buckets_that_can_take_some_rows():
    options = {"shapes": {"x": ("2/3/5", 64)}, "tune": "off"}
    artifact = sparsec.compile(ROWS, inputs={"x": rows(4)}, **options)
    assert [bucket.report["verification"]["inputs"] for bucket in artifact.buckets] == [3, 2, 1]
    with pytest.raises(UsageError, match="none of the buckets"):
        sparsec.compile(ROWS, inputs={"x": rows(1)}, **options)


def test_an_accelerator_takes_one_size():
    with pytest.raises(UsageError, match="one size"):
        sparsec.compile(ROWS, "eie", shapes={"x": ("1/2", 64)}, tune="off")


def test_a_portable_artifact_keeps_its_buckets_and_arguments(tmp_path):
    packed = portable.pack(ROWS, CompileOptions(shapes={"x": ("1/3", 64)}, precision="bf16", tune="off"))
    packed.save(tmp_path / "p.sparsec")
    built = sparsec.build(sparsec.Artifact.load(tmp_path / "p.sparsec"))
    assert [bucket.report["precision"] for bucket in built.buckets] == ["bf16", "bf16"]
    assert portable.build(packed, precision="fp32").report["precision"] == "fp32"
    with pytest.raises(UsageError, match="precision='fp3'"):
        portable.pack(ROWS, CompileOptions(shapes={"x": (1, 64)}, precision="fp3"))


def test_the_commands_show_buckets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(ROWS.SerializeToString())
    done = CliRunner().invoke(app, ["compile", "m.onnx", "--shape", "x:1/5,64", "--tune", "off", "--json", "c.json"])
    assert done.exit_code == 0, done.output
    assert "x 5x64" in done.output
    assert [each["inputs"][0]["shape"] for each in json.loads((tmp_path / "c.json").read_text())["buckets"]] == [
        [1, 64], [5, 64]]
    assert "x 5x64" in CliRunner().invoke(app, ["inspect", "m.sparsec"]).output
    np.savez(tmp_path / "x.npz", x=rows(5))
    assert CliRunner().invoke(app, ["run", "m.sparsec", "-i", "x.npz", "-o", "y.npz"]).exit_code == 0
    assert np.load(tmp_path / "y.npz")["y"].shape == (5, 40)
    refused = CliRunner().invoke(app, ["explain", "m.onnx", "--shape", "x:1/5,64"])
    assert "several sizes are for compile" in str(refused.exception)
