"""Every malformed model and artifact is refused in one line that says what is wrong with it."""

import pytest

from sparsec.artifact.file import Artifact
from sparsec.errors import ArtifactError, SparsecError
from sparsec.graph import reader
from tests.hostile.corpus import ARTIFACTS, MODELS, write


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
