"""The authors' compressed SqueezeNet, decoded to ONNX, classifies real pictures."""

from pathlib import Path

import numpy as np
import pytest

from sparsec.errors import ModelError
from sparsec.models import squeezenet

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "squeezenet_deep_compression.net"
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS.name} is not beside the repository")


@pytest.fixture(scope="module")
def session():
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(squeezenet(WEIGHTS).SerializeToString())


@needs_weights
@pytest.mark.parametrize(("picture", "label"), [("chelsea", 285), ("coffee", 967)])
def test_classifies_pictures(session, picture, label):
    skimage = pytest.importorskip("skimage", reason="the pictures come with scikit-image")
    image = getattr(skimage.data, picture)()
    side = min(image.shape[:2])
    top, left = (np.array(image.shape[:2]) - side) // 2
    image = image[top : top + side, left : left + side]
    image = skimage.transform.resize(image, (227, 227), preserve_range=True, anti_aliasing=True)
    data = (image[..., ::-1] - (104, 117, 123)).transpose(2, 0, 1)[None].astype(np.float32)
    assert session.run(None, {"data": data})[0].argmax() == label


@needs_weights
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:50], lambda b: b"\xff" + b[1:], lambda b: b""])
def test_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "broken.net"
    path.write_bytes(damage(WEIGHTS.read_bytes()))
    with pytest.raises(ModelError, match=r"broken\.net"):
        squeezenet(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.net"):
        squeezenet(tmp_path / "absent.net")
