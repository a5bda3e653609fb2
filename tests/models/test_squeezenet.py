"""The authors' compressed SqueezeNet, decoded to ONNX and compiled, classifies real pictures."""

import numpy as np
import onnxruntime
import pytest

import sparsec
from sparsec.errors import ModelError
from sparsec.models import squeezenet
from tests.support.pictures import CLASSES, SQUEEZENET, needs_squeezenet, picture


@pytest.fixture(scope="module")
def sessions():
    """The network compiled, and in onnxruntime."""
    model = squeezenet(SQUEEZENET)
    return (sparsec.InferenceSession(sparsec.compile(model, tune="off")),
            onnxruntime.InferenceSession(model.SerializeToString()))


@needs_squeezenet
@pytest.mark.parametrize("name", CLASSES)
def test_pictures_have_their_class(sessions, name):
    feeds = {"data": picture(name)}
    ours, expected = (session.run(None, feeds)[0] for session in sessions)
    assert ours.argmax() == expected.argmax() == CLASSES[name]
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@needs_squeezenet
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:50], lambda b: b"\xff" + b[1:], lambda b: b""])
def test_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "broken.net"
    path.write_bytes(damage(SQUEEZENET.read_bytes()))
    with pytest.raises(ModelError, match=r"broken\.net"):
        squeezenet(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.net"):
        squeezenet(tmp_path / "absent.net")
