"""Erdos-Renyi-Kernel (Mocanu et al. 2018; Evci et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsec.analysis.densities import shared


def erk(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Density proportional to (w + h + in + out) / (w h in out); what exceeds 1 is shared among the other layers."""
    sizes = [math.prod(shape) for shape in shapes]
    return shared(sizes, [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)], sparsity)
