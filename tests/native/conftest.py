"""The digits network as a bundle that is built, once for all tests of the C library."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import sparsec
from sparsec.native.bundle import write_bundle
from tests.support.bundles import SANITIZE, run

DIGITS = Path(sparsec.__file__).parent / "models" / "data" / "lenet300-digits-95.onnx"


def write_keys(folder, name):
    private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture(scope="session")
def artifact():
    return sparsec.compile(DIGITS, tune="off", verify=False)


@pytest.fixture(scope="session")
def bundle(artifact, tmp_path_factory):
    """A folder with a signed bundle, what is built of it, and the keys of its owner and of another.

    It is built without optimisation and as one unit, which takes a third less time than file by file; the test of the
    compiled library in test_onnxruntime.py has every file by itself.
    """
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("needs cmake and a C++ compiler")
    folder = tmp_path_factory.mktemp("bundle")
    secret, _ = write_keys(folder, "owner")
    write_keys(folder, "other")
    write_bundle(artifact, folder / "digits", secret)
    quick = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0",
             f"-DSPARSEC_SANITIZE={'ON' if SANITIZE else 'OFF'}")
    for command in (("cmake", "-S", folder / "digits", "-B", folder / "build", *quick),
                    ("cmake", "--build", folder / "build")):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder
