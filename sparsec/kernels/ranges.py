"""What the inputs of a layer range over in samples, from which 8-bit codes are calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.graph.annotations import Annotation


@dataclass(frozen=True)
class Ranges:
    """The least and the largest value of every channel in samples, (channels,), with zero between them."""

    least: np.ndarray
    largest: np.ndarray


RANGES = Annotation[Ranges]("ranges")
"""What a layer's input holds in the real inputs that calibrate 8-bit numbers."""
