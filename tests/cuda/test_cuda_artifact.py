"""Artifacts for GPUs: a cubin for every architecture, sparse instructions, and clear errors."""

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

import sparsec
from sparsec.artifact.file import Artifact
from sparsec.backends.cuda import build, driver, library, toolchain
from sparsec.backends.cuda.build import build_kernels
from sparsec.backends.cuda.library import FATBIN, fat_binary_of
from sparsec.compiler.options import CompileOptions
from sparsec.compiler.planning import plan
from sparsec.compiler.prepare import prepare
from sparsec.errors import ArtifactError, ToolchainError, UsageError
from sparsec.kernels.cuda import sized_copy
from sparsec.target import resolve
from tests.support.cuda import networks
from tests.support.cuda.sass import CUOBJDUMP, needs_cuobjdump, needs_nvcc

needs_no_gpu = pytest.mark.skipif(driver.missing(driver.probe()) is None, reason="there is a GPU here")


@pytest.fixture(scope="module")
def artifact():
    return sparsec.compile(networks.transformer(), "cuda-sm80+sm90")


def dump(artifact, tmp_path, option):
    path = tmp_path / "code.fatbin"
    path.write_bytes(fat_binary_of(artifact.library))
    return subprocess.run([CUOBJDUMP, option, path], capture_output=True, text=True, check=True).stdout


@needs_nvcc
@needs_cuobjdump
def test_every_architecture_has_code_and_the_first_has_ptx(artifact, tmp_path):
    code = dump(artifact, tmp_path, "-lelf")
    assert [arch for arch in ("sm_80", "sm_86", "sm_90") if f".{arch}." in code] == ["sm_80", "sm_90"]
    assert ".sm_80.ptx" in dump(artifact, tmp_path, "-lptx")


@needs_nvcc
@needs_cuobjdump
def test_every_24_layer_runs_on_sparse_tensor_cores(artifact, tmp_path):
    assert {layer["format"] for layer in artifact.report["layers"]} == {"nm 2:4"}
    functions = dump(artifact, tmp_path, "-sass").split("Function : ")[1:]
    products = [text for text in functions if text.startswith("product")]
    assert products
    assert all("HMMA.SP" in text for text in products)


@pytest.fixture(scope="module")
def hopper():
    """Two 2:4 layers for so many tokens that warp groups are chosen for them."""
    graph = networks.Graph()
    graph.linear(graph("Relu", graph.linear("x", 1024, 512)), 512, 1024, name="y")
    return sparsec.compile(graph.model({"x": (1, [8192, 512])}, {"y": [8192, 512]}), "cuda-sm90")


@needs_nvcc
@needs_cuobjdump
def test_warp_groups_are_code_for_sm_90a_alone(hopper, tmp_path):
    assert [layer["kernel"] for layer in hopper.report["layers"]] == ["wgmma.sp bulk"] * 2
    assert (hopper.manifest.needs["archs"], hopper.manifest.needs["ptx"]) == (("sm_90a",), ())
    assert re.findall(r"\.(sm_\w+)\.", dump(hopper, tmp_path, "-lelf")) == ["sm_90a"]
    assert "ptx" not in dump(hopper, tmp_path, "-lptx")
    products = [text for text in dump(hopper, tmp_path, "-sass").split("Function : ") if text.startswith("product")]
    assert products
    assert all("HGMMA.SP" in text for text in products)


@needs_nvcc
def test_without_warp_groups_the_code_for_sm_90_is_portable():
    graph = networks.Graph()
    graph.linear("x", 64, 64, name="y")
    artifact = sparsec.compile(graph.model({"x": (1, [16, 64])}, {"y": [16, 64]}), "cuda-sm90")
    assert artifact.manifest.needs["archs"] == ("sm_90",)
    assert artifact.manifest.needs["ptx"] == toolchain.version()


@needs_nvcc
def test_warp_groups_on_another_gpu_are_refused(hopper, monkeypatch):
    monkeypatch.setattr(driver, "probe", lambda: driver.Gpu((13, 2), (10, 0)))
    with pytest.raises(ArtifactError, match=r"sm_90a alone .* --target cuda-sm80\+sm90"):
        sparsec.InferenceSession(Artifact.load(hopper.to_bytes()))


@needs_nvcc
@needs_cuobjdump
def test_attention_is_one_kernel_on_tensor_cores(artifact, tmp_path):
    assert not artifact.report["outside"]
    functions = dump(artifact, tmp_path, "-sass").split("Function : ")[1:]
    assert ["HMMA" in text for text in functions if text.startswith("attention")] == [True, True]  # architectures
    assert not any("transpose" in text or "softmax" in text for text in functions)


@needs_nvcc
def test_attention_without_a_kernel_is_reported():
    (attention,) = sparsec.compile(networks.transformer(heads=16), "cuda-sm80").report["outside"]
    assert attention["operator"] == "Attention"
    assert "heads of 4 features" in attention["reason"]


@needs_nvcc
@needs_no_gpu
def test_the_report_says_that_nothing_was_verified(artifact):
    assert "no NVIDIA driver" in artifact.report["verification"]["skipped"]
    assert artifact.report["precision"] == "fp16"


@needs_nvcc
@needs_no_gpu
def test_a_session_without_a_gpu_is_refused(artifact):
    with pytest.raises(ArtifactError, match=r"compiled for sm_80, sm_90 .* no NVIDIA driver .* --target cpu"):
        sparsec.InferenceSession(artifact)


@needs_nvcc
@pytest.mark.parametrize("gpu", [driver.Gpu((13, 2), (7, 5)), driver.Gpu((12, 2), (8, 0))])
def test_a_session_on_the_wrong_gpu_is_refused(artifact, gpu, monkeypatch):
    monkeypatch.setattr(driver, "probe", lambda: gpu)
    with pytest.raises(ArtifactError):
        sparsec.InferenceSession(Artifact.load(artifact.to_bytes()))


@needs_nvcc
def test_bf16_constants_survive_the_file():
    artifact = sparsec.compile(networks.network(), "cuda-sm80", precision="bf16")
    loaded = Artifact.load(artifact.to_bytes())
    assert "bfloat16" in {constant.dtype for constant in loaded.manifest.constants}
    for one, other in zip(artifact.constants(), loaded.constants(), strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@needs_nvcc
def test_projection_is_reported_layer_by_layer():
    graph = networks.Graph()
    graph("MatMul", "x", graph.constant(graph.random(64, 32)), name="y")
    model = graph.model({"x": (1, [4, 64])}, {"y": [4, 32]})
    (layer,) = sparsec.compile(model, "cuda-sm80", project_2of4=True).report["layers"]
    assert layer["format"] == "nm 2:4"
    assert 0.1 < layer["projection_error"] < 0.6
    (layer,) = sparsec.compile(model, "cuda-sm80").report["layers"]
    assert layer["format"] in ("dense", "bitmap")


def test_projection_leaves_layers_without_whole_groups_as_they_are():
    graph = networks.Graph()
    graph("MatMul", "x", graph.constant(graph.random(6, 8)), name="h")
    graph("MatMul", "h", graph.constant(graph.random(8, 8)), name="y")
    options = CompileOptions("cuda-sm80", project_2of4=True)
    prepared = prepare(graph.model({"x": (1, [4, 6])}, {"y": [4, 8]}), options)
    left, projected = plan(prepared.graph, prepared.job, prepared.backend)
    assert (left.projection_error, left.nonzeros) == (None, 48)
    assert projected.projection_error > 0
    assert projected.nonzeros == 32


@pytest.mark.parametrize(("target", "options", "reason"), [
    ("cuda-sm75", {}, "begin with sm_80"),
    ("cuda-sm80", {"precision": "fp32"}, "choose one of fp16, bf16"),
    ("cuda-sm80", {"optimize": "size"}, "optimize='latency'"),
    ("cpu-avx2", {"precision": "fp16"}, "choose one of fp32, bf16, int8"),
    ("cpu-avx2", {"project_2of4": True}, "compile for a cuda target"),
])
def test_what_does_not_go_together_is_refused(target, options, reason):
    with pytest.raises(UsageError, match=reason):
        sparsec.compile(networks.network(), target, tune="off", **options)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(toolchain, "_packaged", lambda: None)
    with pytest.raises(ToolchainError, match=r"pip install 'sparsec\[cuda\]'"):
        toolchain.find()


def test_libraries_that_wait_are_compiled_side_by_side(monkeypatch):
    both = threading.Barrier(2)  # broken where the first is compiled by itself
    monkeypatch.setattr(library, "fat_binary", lambda *_: both.wait(timeout=60) * b"" or FATBIN)
    monkeypatch.setattr(build, "version", lambda: (13, 0))
    with library.side_by_side():
        waiting = [copies(each) for each in ("int8", "int16")]
        assert all(FATBIN in each().library for each in waiting)


def copies(dtype):
    return build_kernels({"copy": sized_copy.build(dtype, dtype)}, resolve("cuda-sm80"))


def test_after_an_error_nothing_else_is_compiled(monkeypatch):
    taken, error = [], threading.Event()
    monkeypatch.setattr(library, "available", lambda: 2)
    monkeypatch.setattr(library, "fat_binary", lambda source, _: taken.append(source) or error.wait() * FATBIN)
    with suppress(ToolchainError), library.side_by_side():
        for each in ("int8", "int16", "int32", "int64"):
            copies(each)
        raise ToolchainError("of another library")
    error.set()
    for each in threading.enumerate():
        if each.name.startswith("nvcc"):
            each.join()
    assert len(taken) <= 2


def test_forked_processes_compile_too(monkeypatch):
    monkeypatch.setattr(library, "fat_binary", lambda *_: FATBIN)
    monkeypatch.setattr(build, "version", lambda: (13, 0))

    def compiled():
        with library.side_by_side():
            return copies("int8")().library

    assert FATBIN in compiled()
    child = os.fork()
    if not child:
        signal.alarm(60)  # which ends it where it waits for threads that only the parent has
        os._exit(FATBIN not in compiled())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_nvcc
def test_source_that_does_not_compile_is_an_error():
    with pytest.raises(ToolchainError, match="nvcc failed"):
        toolchain.fat_binary("this is no CUDA", ["sm_80"])


def test_files_that_others_remove_from_the_cache_are_no_failure(tmp_path, recwarn):
    (tmp_path / "removed.fatbin").symlink_to("nowhere")
    toolchain._keep(tmp_path / "made.fatbin", FATBIN)
    assert (tmp_path / "made.fatbin").read_bytes() == FATBIN
    assert not recwarn


def test_targets_of_several_architectures():
    assert resolve("cuda-sm90+sm80").archs == ("sm_90", "sm_80")
    assert replace(resolve("cuda-sm80"), name="") == replace(resolve("cuda-sm80+sm80"), name="")
