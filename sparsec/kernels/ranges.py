"""What the inputs of a layer hold in samples, and range over: from that 8-bit codes are calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsec.graph.annotations import Annotation


@dataclass(frozen=True)
class Ranges:
    """The least and the largest value of every channel in samples, (channels,), with zero between them."""

    least: np.ndarray
    largest: np.ndarray


@dataclass(frozen=True)
class LayerSamples:
    """What a layer saw: some pixels or tokens (inner, n), and the ranges of its input's channels in all of them."""

    columns: np.ndarray
    ranges: Ranges


RANGES = Annotation[Ranges]("ranges")
"""What a layer's input holds in the real inputs that calibrate 8-bit numbers."""
