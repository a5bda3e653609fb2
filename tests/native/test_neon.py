"""Whole networks for aarch64: compiled and bundled here, run by qemu, and refused by this machine by name."""

import os
import platform
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import sparsec
from sparsec.backends.relax.export import linker
from sparsec.compiler.quantization import quantize
from sparsec.errors import ArtifactError, ToolchainError, UsageError
from sparsec.graph.compare import relative_error
from sparsec.models import squeezenet
from sparsec.native.bundle import MODEL, write_bundle
from sparsec.native.model_file import model_bytes
from tests.native.conftest import DIGITS
from tests.support.arm import NEEDS_ARM, NEON, WHEELS, emulated, example
from tests.support.pictures import SQUEEZENET, needs_squeezenet

HERE = pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine runs it")


def digits():
    return DIGITS


def quantized_digits():
    """The network with every layer on codes."""
    x = np.random.default_rng(1).random((16, 784)).astype(np.float32)
    found = quantize(DIGITS, {"input": x}, 0.5, {})
    assert all(layer.quantized for layer in found.layers)
    return found.model


def compiled(model, target):
    return sparsec.compile(model, target=target, tune="off", verify=False)


def ran(content, x, folder, **options):
    """The outputs of a model's file, by the bundle's example under qemu."""
    (folder / "model").write_bytes(content)
    x.tofile(folder / "x.bin")
    done = emulated(example(), folder / "model", "--inputs", folder / "x.bin", "-o", folder / "y.bin", **options)
    if done.returncode:
        return done.stderr
    return np.fromfile(folder / "y.bin", np.float32)


@NEEDS_ARM
@pytest.mark.parametrize("target", NEON if os.environ.get("SPARSEC_LONG") else NEON[:1])
@pytest.mark.parametrize("make", [digits, quantized_digits])
def test_the_digits_network_answers_as_on_the_generic_target(make, target, tmp_path):
    model, x = make(), np.random.default_rng(0).random((1, 784)).astype(np.float32)
    (expected,) = sparsec.InferenceSession(compiled(model, "cpu-generic")).run(None, {"input": x})
    found = ran(model_bytes(compiled(model, target)), x, tmp_path).reshape(expected.shape)
    if make is quantized_digits:
        assert found.tobytes() == expected.tobytes()  # integers alone: every bit
    assert relative_error(found, expected) < 1e-5


@NEEDS_ARM
@needs_squeezenet
@pytest.mark.skipif(not os.environ.get("SPARSEC_LONG"), reason="takes a minute a target")
@pytest.mark.parametrize("target", NEON)
def test_squeezenet_answers_as_on_the_generic_target(target, tmp_path):
    model, x = squeezenet(SQUEEZENET), np.random.default_rng(0).uniform(-100, 100, (1, 3, 227, 227)).astype(np.float32)
    (expected,) = sparsec.InferenceSession(compiled(model, "cpu-generic")).run(None, {"data": x})
    found = ran(model_bytes(compiled(model, target)), x, tmp_path).reshape(expected.shape)
    assert relative_error(found, expected) < 1e-5


@NEEDS_ARM
def test_a_processor_without_the_instructions_is_told(tmp_path):
    x = np.zeros((1, 784), np.float32)
    told = ran(model_bytes(compiled(DIGITS, "cpu-neon")), x, tmp_path, cpu="cortex-a72")
    assert "this processor lacks asimddp, asimdhp, fphp; compile it with --target cpu-neon" in told


@HERE
def test_this_machine_names_the_other(tmp_path):
    artifact = compiled(DIGITS, "cpu-neon")
    with pytest.raises(ArtifactError, match=f"compiled for linux-aarch64 and this is {sysconfig.get_platform()}"):
        sparsec.InferenceSession(artifact)
    if linker("aarch64") is None:
        with pytest.raises(UsageError, match="no linker for linux-aarch64; compile it where ld"):
            write_bundle(artifact, tmp_path / "bundle")
        return
    with pytest.raises(UsageError, match="--wheels a folder with the runtime's wheels for aarch64"):
        write_bundle(artifact, tmp_path / "bundle")
    with pytest.raises(UsageError, match=r"has no wheel of apache-tvm .* for aarch64; `pip download"):
        write_bundle(artifact, tmp_path / "bundle", wheels=tmp_path)
    assert not (tmp_path / "bundle").exists()


@HERE
@pytest.mark.skipif(not list(WHEELS.glob("*aarch64.whl")), reason="needs the aarch64 wheels (make arm)")
def test_a_bundle_for_the_other_machine_holds_its_runtime(tmp_path):
    write_bundle(compiled(DIGITS, "cpu-neon"), tmp_path / "bundle", wheels=WHEELS)
    machine = (tmp_path / "bundle" / "lib" / "libtvm_runtime.so").read_bytes()[18:20]
    assert int.from_bytes(machine, "little") == 183  # EM_AARCH64
    assert (tmp_path / "bundle" / MODEL).is_file()


@HERE
def test_a_damaged_wheel_is_named(tmp_path):
    for source in WHEELS.glob("*aarch64.whl"):
        (tmp_path / Path(source).name).write_bytes(b"PK")
    if not list(tmp_path.iterdir()):
        pytest.skip("needs the aarch64 wheels (make arm)")
    with pytest.raises(ToolchainError, match=r"is damaged .*; download it again"):
        write_bundle(compiled(DIGITS, "cpu-neon"), tmp_path / "bundle", wheels=tmp_path)
