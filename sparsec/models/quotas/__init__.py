"""Layer-wise sparsity quotas: how a target is shared among the layers (Vysogorets & Kempe 2023, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparsec.errors import PruningError, UsageError, meant
from sparsec.models.quotas.erk import erk
from sparsec.models.quotas.igq import igq
from sparsec.models.quotas.smart_ratio import smart_ratio
from sparsec.models.quotas.uniform import uniform, uniform_plus

Shapes = Sequence[tuple[int, ...]]
Quota = Callable[[Shapes, float], list[float]]
"""From the shapes of the weights, (out, in, ...), and the target to the sparsity of every layer."""

QUOTAS: dict[str, Quota] = {"uniform": uniform, "uniform+": uniform_plus, "erk": erk, "igq": igq,
                           "smart-ratio": smart_ratio}


def layer_sparsities(name: str, shapes: Shapes, sparsity: float) -> list[float]:
    """Sparsity of every layer under a quota.

    Holds the paper's definition 1: the layers' sparsities add up to the target, and none is 1 unless the target is.

    Raises:
        UsageError: no quota of that name, or a target outside 0 ... 1.
        PruningError: the quota is not valid at this target; says where it is.

    """
    if name not in QUOTAS:
        raise UsageError(f"unknown quota '{name}': {meant(name, QUOTAS)}choose from {', '.join(QUOTAS)}")
    if not 0 <= sparsity <= 1:
        raise UsageError(f"sparsity {sparsity} is outside 0 ... 1")
    layers = QUOTAS[name](shapes, sparsity)
    sizes = np.array([np.prod(shape) for shape in shapes])
    total = float(np.dot(layers, sizes) / sizes.sum())
    if not np.isclose(total, sparsity, atol=1e-9) or min(layers) < 0 or (sparsity < 1 and max(layers) >= 1):
        raise PruningError(f"quota '{name}' is not valid at sparsity {sparsity}: it gives {layers}")
    return layers
