"""Weights in artifacts: exact whatever the storage, small, refused when they contradict themselves."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

import sparsec as package
from sparsec.artifact.file import Artifact
from sparsec.artifact.manifest import PACKED
from sparsec.errors import ArtifactError, FormatError, ToolchainError, UsageError
from sparsec.formats import CODECS, DeltaPadded, draws
from tests.support import texts
from tests.support.cli import sparsec, write_model
from tests.support.quantized import network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("storage") / "model.onnx")


def compiled(model, **options):
    return package.compile(model, tune="off", **options)


@pytest.mark.parametrize("optimize", ["balanced", "size"])
def test_stored_weights_become_the_very_arrays_that_were_compiled(model, optimize):
    plain, stored = compiled(model), compiled(model, optimize=optimize)
    assert any(constant.encoding == PACKED for constant in stored.manifest.constants)
    assert len(stored.weights) < len(plain.weights)
    again = Artifact.load(stored.to_bytes())
    assert again == stored
    if optimize == "balanced":  # the same kernels
        for ours, theirs in zip(again.constants(), plain.constants(), strict=True):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)


def test_frozen_weights_take_what_pruned_ones_do_and_a_seed():
    rng, learnt, drawn = np.random.default_rng(0), {}, {}
    for number, (name, shape) in enumerate({"a": (256, 128), "b": (128, 64)}.items()):
        kept = rng.random(shape) < 0.1
        learnt[name] = np.where(kept, rng.standard_normal(shape, np.float32), np.float32(0))
        signs = draws.signs(number, shape[::-1]).T * np.float32(0.1)
        drawn[name] = np.where(kept, learnt[name], signs)
    text = """g (float[1,256] x) => (float[1,64] y) <float[256,128] a, float[128,64] b> {
        p = MatMul(x, a) q = Relu(p) y = MatMul(q, b) }"""
    frozen = compiled(texts.model(text, **drawn), optimize="size", codec="seed")
    pruned = compiled(texts.model(text, **learnt), optimize="size")
    assert len(frozen.weights) <= len(pruned.weights) + 2 * 3 * 64  # a seed and a magnitude a layer, aligned
    exact = compiled(texts.model(text, **drawn), optimize="size")
    assert len(frozen.weights) < 0.3 * len(exact.weights)
    feeds = {"x": rng.standard_normal((1, 256), np.float32)}
    ours, theirs = (package.InferenceSession(each).run(None, feeds)[0] for each in (
        Artifact.load(frozen.to_bytes()), exact))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_compiles_and_reports_its_error(model, codec):
    verification = compiled(model, optimize="size", codec=codec).report["verification"]
    assert max(verification["relative_error"].values()) < (1e-4 if CODECS[codec].lossless else 0.7)


@pytest.mark.parametrize("codec", ["int8", "codebook2"])
def test_lossy_codecs_leave_codes_alone(codec):
    exact, lossy = (compiled(network(0, "qdq")[0], optimize="size", codec=each, verify=False).constants()
                    for each in ("f32", codec))
    assert exact
    for ours, theirs in zip(lossy, exact, strict=True):
        assert np.array_equal(ours, theirs)


def test_half_precision_values_run_as_such(model):
    kernels = {layer["kernel"] for layer in compiled(model, optimize="size", codec="f16").report["layers"]}
    assert not kernels & {"well/f32"}


def test_fewer_bits_are_smaller(model):
    sizes = [len(compiled(model, optimize="size", codec=codec).weights) for codec in ("f32", "f16", "codebook4")]
    assert sizes == sorted(sizes, reverse=True)


def test_size_is_never_more_bytes_than_latency_in_memory(model):
    bytes_of = {goal: sum(layer["bytes"] for layer in compiled(model, optimize=goal).report["layers"])
                for goal in ("latency", "size")}
    assert bytes_of["size"] <= bytes_of["latency"]


def test_wrong_goals_and_codecs_are_refused(model):
    for wrong in ({"optimize": "speed"}, {"optimize": "size", "codec": "f8"}, {"codec": "codebook4"}):
        with pytest.raises(UsageError, match=r"codec=|optimize="):
            compiled(model, **wrong)


def test_values_without_a_code_are_refused(tmp_path):
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(write_model(tmp_path / "model.onnx"))
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[0, 0] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, proto.graph.initializer[0].name))
    with pytest.raises(FormatError, match="codebook4"):
        compiled(proto, optimize="size", codec="codebook4", verify=False)


@pytest.mark.parametrize("change", [
    {"format": "x"}, {"codec": "x"}, {"recipe": "x"}, {"constants": (99,)}])
def test_entries_that_contradict_themselves_are_refused(model, change):
    artifact = compiled(model, optimize="size")
    stored = (replace(artifact.manifest.stored[0], **change), *artifact.manifest.stored[1:])
    with pytest.raises(ArtifactError, match="contradicts itself"):
        Artifact.load(replace(artifact, manifest=replace(artifact.manifest, stored=stored)).to_bytes())


@pytest.mark.parametrize("change", [{"shape": (3, 3)}, {"parameters": {}}])
def test_weights_that_do_not_make_the_constants_are_refused(model, change):
    artifact = compiled(model, optimize="size")
    stored = (replace(artifact.manifest.stored[0], **change), *artifact.manifest.stored[1:])
    with pytest.raises(ArtifactError, match="contradicts itself"):
        Artifact.load(replace(artifact, manifest=replace(artifact.manifest, stored=stored)).to_bytes()).constants()


def test_the_command_line_stores_and_runs(model, tmp_path):
    text = sparsec("compile", model, "-o", tmp_path / "m.sparsec", "--optimize", "size", "--codec", "codebook8",
                   "--tune", "off")
    assert "no limit but --max-error" in " ".join(text.split())
    sparsec("bench", tmp_path / "m.sparsec", "--seconds", "0.05")
    assert "--codec int8 with --optimize latency" in sparsec("compile", model, "--codec", "int8", code=2)


# Han et al., "Deep Compression" (ICLR 2016, arXiv 1510.00149v5), tables 2 to 5: percent of the dense size before
# Huffman, and every layer's density, bits of a weight and of a run. The numbers of weights, which the tables round,
# follow from the architectures.
DEEP_COMPRESSION = {
    "LeNet-300-100": (3.1, [(235_200, 0.08, 6, 5), (30_000, 0.09, 6, 5), (1_000, 0.26, 6, 5)]),
    "LeNet-5": (3.05, [(500, 0.66, 8, 5), (25_000, 0.12, 8, 5), (400_000, 0.08, 5, 5), (5_000, 0.19, 5, 5)]),
    "AlexNet": (3.7, [
        (34_848, 0.84, 8, 4), (307_200, 0.38, 8, 4), (884_736, 0.35, 8, 4), (663_552, 0.37, 8, 4),
        (442_368, 0.37, 8, 4), (37_748_736, 0.09, 5, 4), (16_777_216, 0.09, 5, 4), (4_096_000, 0.25, 5, 4)]),
    "VGG-16": (3.2, [
        (1_728, 0.58, 8, 5), (36_864, 0.22, 8, 5), (73_728, 0.34, 8, 5), (147_456, 0.36, 8, 5),
        (294_912, 0.53, 8, 5), (589_824, 0.24, 8, 5), (589_824, 0.42, 8, 5), (1_179_648, 0.32, 8, 5),
        (2_359_296, 0.27, 8, 5), (2_359_296, 0.34, 8, 5), (2_359_296, 0.35, 8, 5), (2_359_296, 0.29, 8, 5),
        (2_359_296, 0.36, 8, 5), (102_760_448, 0.04, 5, 5), (16_777_216, 0.04, 5, 5), (4_096_000, 0.23, 5, 5)]),
}
ENCODED = 500_000  # weights up to which a layer is encoded; larger ones are computed, which other tests show is equal


@pytest.mark.parametrize("name", DEEP_COMPRESSION)
def test_deep_compressions_arithmetic(name):
    published, layers = DEEP_COMPRESSION[name]
    stored = sum(stored_bytes(*layer) for layer in layers)
    assert 100 * stored / (4 * sum(layer[0] for layer in layers)) == pytest.approx(published, rel=0.1)


def stored_bytes(count, density, bits, run):
    form, shape = DeltaPadded(run), (1, count)
    if count > ENCODED:
        return form.analytic_bits(form.entries(round(count * density), shape), shape, bits) / 8
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal(count) * (rng.random(count) < density)).astype(np.float32)
    return form.encode(weight, CODECS[f"codebook{bits}"]).nbytes


def test_a_full_temporary_directory_is_named_before_anything_is_written(model, monkeypatch):
    usage = shutil.disk_usage(model.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ToolchainError, match=r"1000 bytes.*TMPDIR"):
        compiled(model)
