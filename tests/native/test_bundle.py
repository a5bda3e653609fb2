"""Bundles build with a C++17 compiler and run without Python: answers, and errors of the C interface."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import sparsec
from sparsec.errors import UsageError
from sparsec.native.bundle import MODEL, SIZES, write_bundle
from tests.support.texts import model

DIGITS = Path(sparsec.__file__).parent / "models" / "data" / "lenet300-digits-95.onnx"
MOST_BYTES = 12 << 20  # of a bundle without its weights
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")),
                                reason="needs cmake and a C++ compiler")


def run(*command, environment=None, cwd=None):
    return subprocess.run(list(map(str, command)), env=environment, cwd=cwd, capture_output=True, text=True,
                          check=False)


def write_keys(folder, name):
    private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture(scope="module")
def artifact():
    return sparsec.compile(DIGITS, tune="off", verify=False)


@pytest.fixture(scope="module")
def bundle(artifact, tmp_path_factory):
    """A signed bundle that is built, beside the keys of its owner and of another."""
    folder = tmp_path_factory.mktemp("bundle")
    secret, _ = write_keys(folder, "owner")
    write_keys(folder, "other")
    write_bundle(artifact, folder / "digits", secret)
    for command in (("cmake", "-S", folder / "digits", "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Debug"),
                    ("cmake", "--build", folder / "build")):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_example_gives_the_sessions_answer_in_an_empty_environment(bundle, artifact, tmp_path):
    x = np.random.default_rng(0).standard_normal((1, 784)).astype(np.float32)
    x.tofile(tmp_path / "x.bin")
    done = run(bundle / "build" / "run", bundle / "digits" / MODEL, "--inputs", tmp_path / "x.bin", "-o",
               tmp_path / "y.bin", environment={})
    assert done.returncode == 0, done.stderr
    assert "input input [1, 784]" in done.stdout
    expected = sparsec.InferenceSession(artifact).run(None, {"input": x})[0]
    assert (tmp_path / "y.bin").read_bytes() == expected.tobytes()


def test_calls_that_must_fail_say_why(bundle, tmp_path):
    whole = (bundle / "digits" / MODEL).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-100])
    built = run("cc", "-Wall", "-Werror", HERE / "calls.c", "-I", bundle / "digits" / "include", "-L", bundle / "build",
                "-lsparsec", f"-Wl,-rpath,{bundle / 'build'},-rpath-link,{bundle / 'build'}", "-o", tmp_path / "calls")
    assert built.returncode == 0, built.stderr
    done = run(tmp_path / "calls", bundle / "digits" / MODEL, tmp_path / "cut", bundle / "owner.pub",
               bundle / "other.pub", environment={})
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_bundle_is_small_and_says_how_large(bundle):
    sizes = json.loads((bundle / "digits" / SIZES).read_text())
    files = {str(path.relative_to(bundle / "digits")): path.stat().st_size
             for path in (bundle / "digits").rglob("*") if path.is_file() and path.name != SIZES}
    assert sizes["files"] == files
    assert sum(sizes["bytes"].values()) - sizes["bytes"]["model"] < MOST_BYTES


def test_a_folder_of_something_else_is_left_alone(artifact, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(artifact, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_takes_python_is_refused(tmp_path):
    network = model("g (float[2,4] x) => (float[2,3] y) <float[4,3] w> { y = MatMul(x, w) }")
    for target, message in {"eie": "run on processors", "cpu": None}.items():
        made = sparsec.compile(network, target=target, tune="off", verify=False)
        if message:
            with pytest.raises(UsageError, match=message):
                write_bundle(made, tmp_path / target)
            assert not (tmp_path / target).exists()
