"""Signed artifacts are opened by their owner's key only; portable ones hold no code and are compiled when opened."""

import inspect

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from typer.testing import CliRunner

import sparsec
from sparsec.cli import app
from sparsec.compiler import portable
from sparsec.compiler.options import CompileOptions
from sparsec.errors import ArtifactError, SignatureError
from sparsec.graph.compare import run_onnxruntime
from tests.support.texts import model

MODEL = model("g (float[2,4] x) => (float[2,3] y) <float[4,3] w> { h = MatMul(x, w) y = Relu(h) }")
X = np.float32(np.arange(8).reshape(2, 4))


def write_keys(directory, name, private):
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret, public = directory / f"{name}.pem", directory / f"{name}.pub"
    secret.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


def command(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A directory with a signed portable artifact, its owner's keys and those of others."""
    directory = tmp_path_factory.mktemp("signed")
    for name, private in {"owner": ed25519.Ed25519PrivateKey.generate(), "other": ed25519.Ed25519PrivateKey.generate(),
                          "curve": ec.generate_private_key(ec.SECP256R1())}.items():
        write_keys(directory, name, private)
    (directory / "model.onnx").write_bytes(MODEL.SerializeToString())
    np.savez(directory / "x.npz", x=X)
    done = command("compile", directory / "model.onnx", "-o", directory / "m.sparsec", "--portable", "--sign",
                   directory / "owner.pem")
    assert done.exit_code == 0, done.output
    return directory


def test_the_owners_signature_opens_the_artifact(signed):
    assert command("verify", signed / "m.sparsec", "--require-signature", signed / "owner.pub").exit_code == 0
    assert command("verify", signed / "m.sparsec").exit_code == 0


@pytest.mark.parametrize(("key", "message"), [
    ("other.pub", "not what the owner"), ("curve.pub", "not an Ed25519 key"), ("owner.pem", "not a public key"),
    ("nothing.pub", "No such file")])
def test_any_other_key_is_refused(signed, key, message):
    with pytest.raises(SignatureError, match=message):
        sparsec.Artifact.load(signed / "m.sparsec", require_signature=signed / key)


@pytest.mark.parametrize("key", ["curve.pem", "owner.pub"])
def test_a_key_that_cannot_sign_is_refused_before_compiling(signed, key):
    done = command("compile", signed / "model.onnx", "-o", signed / "n.sparsec", "--sign", signed / key)
    assert isinstance(done.exception, SignatureError)
    assert not (signed / "n.sparsec").exists()


def test_another_artifact_under_the_signature_is_refused(signed, tmp_path):
    path = tmp_path / "m.sparsec"
    portable.pack(MODEL, CompileOptions(threads=2)).save(path)
    with pytest.raises(SignatureError, match="a signature is required"):
        sparsec.Artifact.load(path, require_signature=signed / "owner.pub")
    (tmp_path / "m.sparsec.sig").write_bytes((signed / "m.sparsec.sig").read_bytes())
    with pytest.raises(SignatureError, match="not what the owner"):
        sparsec.Artifact.load(path, require_signature=signed / "owner.pub")
    with pytest.raises(SignatureError, match="by its path"):
        sparsec.Artifact.load(path.read_bytes(), require_signature=signed / "owner.pub")


def test_a_portable_artifact_is_compiled_when_opened(signed, tmp_path):
    loaded = sparsec.Artifact.load(signed / "m.sparsec")
    assert not loaded.library
    with pytest.raises(ArtifactError, match=r"sparsec\.build"):
        sparsec.InferenceSession(loaded)
    done = command("run", signed / "m.sparsec", "-i", signed / "x.npz", "-o", tmp_path / "y.npz")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], run_onnxruntime(MODEL, {"x": X})[0], rtol=1e-5)
    assert portable.build_once(loaded) == sparsec.Artifact.load(portable.kept_path(loaded))
    portable.kept_path(loaded).write_bytes(b"PK damaged")
    assert portable.build_once(loaded).library
    built = portable.build(loaded, tune="off")
    assert portable.build(built) is built


def test_portable_artifacts_carry_every_argument_but_those_of_a_machine():
    machine = {"model", "inputs", "measure_on", "dump_ir", "progress"}
    assert set(inspect.signature(sparsec.compile).parameters) - machine == set(CompileOptions().to_json())
