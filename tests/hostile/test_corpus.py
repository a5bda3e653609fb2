"""Every malformed model and artifact is refused in one line that says what is wrong with it."""

import os

import pytest

from sparsec.artifact.file import Artifact
from sparsec.errors import ArtifactError, SparsecError
from sparsec.graph import reader
from tests.hostile.corpus.artifacts import ARTIFACTS
from tests.hostile.corpus.models import MODELS


def write(directory, data):
    """Write a case's file, and around it what its paths may lead to; returns the file."""
    inside = directory / "inside"
    inside.mkdir()
    (directory / "secret").write_bytes(bytes(4096))
    (inside / "link").symlink_to("../secret")
    (inside / "weights.bin").write_bytes(bytes(4096))
    os.mkfifo(inside / "pipe")
    path = inside / "case"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_malformed_model_is_refused(name, tmp_path):
    data, message = MODELS[name]
    with pytest.raises(SparsecError, match=f"case: .*({message})") as raised:
        reader.load(write(tmp_path, data))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_malformed_artifact_is_refused(name, tmp_path):
    data, message = ARTIFACTS[name]
    with pytest.raises(ArtifactError, match=f"case .*({message})|case.*({message})") as raised:
        Artifact.load(write(tmp_path, data))
    assert "\n" not in str(raised.value)
