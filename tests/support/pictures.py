"""Real pictures for the networks that were trained on ImageNet, and where SqueezeNet's weights are."""

from pathlib import Path

import numpy as np
import pytest

SQUEEZENET = Path(__file__).resolve().parents[3] / "shared" / "data" / "squeezenet_deep_compression.net"
needs_squeezenet = pytest.mark.skipif(not SQUEEZENET.exists(), reason=f"{SQUEEZENET.name} is not beside the repository")
CLASSES = {"chelsea": 285, "coffee": 967}
"""The pictures, each with its class of ImageNet: a cat and an espresso."""


def picture(name):
    """The middle of a picture as SqueezeNet takes it: (1, 3, 227, 227), blue first, less the mean."""
    skimage = pytest.importorskip("skimage", reason="the pictures come with scikit-image")
    image = getattr(skimage.data, name)()
    side = min(image.shape[:2])
    top, left = (np.array(image.shape[:2]) - side) // 2
    image = skimage.transform.resize(image[top:top + side, left:left + side], (227, 227), preserve_range=True,
                                     anti_aliasing=True)
    return (image[..., ::-1] - (104, 117, 123)).transpose(2, 0, 1)[None].astype(np.float32)
