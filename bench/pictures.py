"""Crops of scikit-image's photographs as samples of networks that classify pictures."""

from __future__ import annotations

import numpy as np

CALIBRATION = ("astronaut", "chelsea", "retina", "immunohistochemistry", "hubble_deep_field", "grass", "brick", "coins",
               "camera")
HELD_OUT = ("coffee", "rocket", "moon", "gravel", "page", "clock")
MEAN = (104, 117, 123)  # of ImageNet, blue first
SMALLEST = 0.4  # of a picture's shorter side


def crops(names: tuple[str, ...], number: int, size: int, seed: int = 0) -> np.ndarray:
    """Random squares of the pictures, in turns, some of them mirrored: (number, 3, size, size), blue first."""
    import skimage

    rng, found = np.random.default_rng(seed), []
    pictures = [getattr(skimage.data, name)() for name in names]
    for index in range(number):
        picture = pictures[index % len(pictures)]
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, 2)
        side = int(min(picture.shape[:2]) * rng.uniform(SMALLEST, 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
        square = picture[top:top + side, left:left + side, :3]
        square = skimage.transform.resize(square, (size, size), preserve_range=True, anti_aliasing=True)
        square = square[:, ::-1] if rng.random() < 0.5 else square
        found.append((square[..., ::-1] - MEAN).transpose(2, 0, 1))
    return np.ascontiguousarray(found, np.float32)
