"""What a distribution knows of a weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Asked:
    """A weight: its shape (outputs, inputs, ...), and its elements."""

    shape: tuple[int, ...]
    values: np.ndarray
