"""scikit-learn's handwritten digits at the input size of the LeNets.

Source: 1,797 digits of 8 x 8 pixels (0..16) from the UCI "Optical Recognition of Handwritten Digits" data, as
scikit-learn distributes them. A fixed fifth is held out and committed; the rest is read from scikit-learn for training.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsec.errors import ToolchainError

HELD_OUT = 360

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def digits() -> Digits:
    """The held-out digits: inputs float32 (360, 784) of 0..1 (28 x 28, row-major) and labels int64 (360,)."""
    with as_file(files("sparsec.models") / "data" / "digits-test.npz") as path, np.load(path) as arrays:
        return enlarge(arrays["images"]), arrays["labels"].astype(np.int64)


def training_digits() -> Digits:
    """The other 1,437 digits, in the same form as `digits`. Raises ToolchainError where scikit-learn is missing."""
    images, labels = _shuffled()
    return enlarge(images[HELD_OUT:]), labels[HELD_OUT:].astype(np.int64)


def write_held_out(path: Path) -> None:
    """Write the file that `digits` reads: images uint8 (360, 8, 8) of 0..16 and labels uint8 (360,)."""
    images, labels = _shuffled()
    np.savez_compressed(path, images=images[:HELD_OUT], labels=labels[:HELD_OUT])


def enlarge(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bilinear enlargement of (n, 8, 8) pixels of 0..16 to float32 (n, 784) of 0..1."""
    centres = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    weights = np.stack([np.interp(centres, np.arange(8), row) for row in np.eye(8)])  # (8, 28)
    return (weights.T @ (images / 16) @ weights).reshape(len(images), 784).astype(np.float32)


def _shuffled() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ToolchainError("the training digits come from scikit-learn: pip install 'sparsec[models]'") from error
    source = load_digits()
    order = np.random.default_rng(0).permutation(len(source.images))
    return source.images[order].astype(np.uint8), source.target[order].astype(np.uint8)
